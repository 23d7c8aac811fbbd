"""`manage.py storage_status`: how records lie on the database server, and what could be better."""

import json
from argparse import ArgumentParser
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from streams.storage import Kind
from streams.storage_status import StorageStatus, TableStatus, status_json, storage_advice, storage_status


class Command(BaseCommand):
    help = "Say where records lie: engine, licence, days, sizes, compression, retention, and what could be better."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs")
        parser.add_argument("--days", action="store_true", help="one line for each piece as well")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            status = storage_status(now=timezone.now())
        except psycopg.OperationalError as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps(status_json(status), indent=2))
            return
        self.stdout.write(_engine(status))
        for table in status.tables:
            self.stdout.write(_table(table, status))
            for line in _pieces(table) if options["days"] else ():
                self.stdout.write(line)
        self.stdout.write(
            f"Retention: {status.shortest_retention.days} to {status.longest_retention.days} days by channel."
        )
        for sentence in storage_advice(status):
            self.stdout.write(f"Could be better: {sentence}")


def _engine(status: StorageStatus) -> str:
    engine = status.engine
    start = f"PostgreSQL {status.postgresql}"
    if engine.created:
        loaded = f"licence {engine.license}" if engine.preloaded else "not loaded"
        return f"{start} with TimescaleDB {engine.created} ({loaded})."
    if engine.available:
        return f"{start}; TimescaleDB {engine.available} is installed, but not in use."
    return f"{start} without TimescaleDB."


def _table(table: TableStatus, status: StorageStatus) -> str:
    text = (
        f"{table.table}: {table.kind.value}, {len(table.pieces)} pieces, about {table.rows:,} rows, "
        f"{_size(table.bytes)}"
    )
    if table.pieces:
        text += f", from {table.pieces[0].low:%F} to {table.pieces[-1].high:%F}"
    if table.compressed:
        ratio = "" if table.ratio is None else f", {table.ratio:.1f} times smaller"
        text += f"; {len(table.compressed)} compressed{ratio}"
    if table.kind is Kind.PARTITIONS:
        text += f"; {table.days_ahead(status.now.date())} days ahead"
    return f"{text}."


def _pieces(table: TableStatus) -> list[str]:
    return [
        f"  {piece.low:%F}  {'?' if piece.rows is None else f'{piece.rows:,}':>14} rows  {_size(piece.bytes):>10}"
        + (
            f"  compressed from {_size(piece.bytes_before)}"
            if piece.compressed and piece.bytes_before
            else "  compressed"
            if piece.compressed
            else ""
        )
        for piece in table.pieces
    ]


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
