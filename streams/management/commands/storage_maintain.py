"""`manage.py storage_maintain`: what the worker does for storage anyway, now and by hand."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from streams import retention, upkeep


class Command(BaseCommand):
    help = "Make days ahead, drop and delete what is too old, compress what is due. Can be repeated and interrupted."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--to-rows",
            action="store_true",
            help="instead: turn all compressed days back into rows, before the full licence is given up",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["to_rows"]:
                self._to_rows()
            else:
                self._maintain()
        except psycopg.OperationalError as error:
            raise CommandError(str(error)) from None

    def _maintain(self) -> None:
        now = timezone.now()
        dropped = upkeep.days_maintain(now=now)
        self.stdout.write(f"Days ahead are there; {len(dropped)} pieces dropped.")
        self.stdout.write(
            f"{retention.records_expire(now=now)} single records were too old for their channels."
        )
        for sentence in upkeep.columnstore_maintain(now=now, grace=timedelta(0)):
            self.stdout.write(f"{sentence}.")

    def _to_rows(self) -> None:
        for sentence in upkeep.columnstore_leave():
            self.stdout.write(f"{sentence}.")
        self.stdout.write(
            "All days lie in rows. Set timescaledb.license to apache and restart the database before the worker "
            "runs again: it would compress them."
        )
