"""`manage.py storage_convert`: moves the time series from native partitions into TimescaleDB hypertables."""

import time
from argparse import ArgumentParser
from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from streams.conversion import Conversion, ConversionMismatch, ConversionRefused, Stage
from streams.storage import TIME_SERIES

SAY_EVERY_S = 10.0


class Command(BaseCommand):
    help = (
        "Move records from partitions to hypertables. Listener, web and worker may go on: every change is made in both "
        "until names are swapped, which needs a moment's lock. Needs as much disk again as the tables take now. An "
        "interrupted run goes on when the command is run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        only = parser.add_mutually_exclusive_group()
        only.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
        only.add_argument("--cancel", action="store_true", help="undo what was begun and not finished")
        only.add_argument(
            "--keep-old",
            action="store_true",
            help="leave the partitions beside the hypertable; run again to drop them",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.STORAGE == "partitions":
            raise CommandError("SERVWATCH_STORAGE=partitions forbids it: set it to auto first.")
        try:
            for series in TIME_SERIES:
                with Conversion(series) as conversion:
                    if options["dry_run"]:
                        self._describe(conversion)
                    elif options["cancel"]:
                        self._cancel(conversion)
                    else:
                        self._convert(conversion, keep_old=options["keep_old"])
        except (ConversionRefused, ConversionMismatch, psycopg.OperationalError) as error:
            raise CommandError(str(error)) from None

    def _describe(self, conversion: Conversion) -> None:
        stage = conversion.stage
        self.stdout.write(f"{conversion.source}: {stage.value}.")
        if stage in (Stage.PARTITIONS, Stage.COPYING):
            days = conversion.days()
            size_mb = sum(size for _, size in days) / 1e6
            self.stdout.write(
                f"  {len(days)} partitions, {size_mb:,.1f} MB; as much again is needed on the disk."
            )

    def _cancel(self, conversion: Conversion) -> None:
        if conversion.stage is not Stage.COPYING:
            self.stdout.write(f"{conversion.source}: {conversion.stage.value}; there is nothing to undo.")
            return
        conversion.cancel()
        self.stdout.write(f"{conversion.source}: undone; the records lie in their partitions as before.")

    def _convert(self, conversion: Conversion, *, keep_old: bool) -> None:
        table = conversion.source
        if conversion.stage is Stage.PARTITIONS:
            conversion.begin()
            self.stdout.write(f"{table}: every change is made in both tables from now on.")
        if conversion.stage is Stage.COPYING:
            self._copy(conversion)
            conversion.finish()
            self.stdout.write(f"{table}: is a hypertable now.")
        if conversion.stage is Stage.SWAPPED and not keep_old:
            conversion.old_drop()
            self.stdout.write(f"{table}: the partitions are dropped.")
        self.stdout.write(f"{table}: {conversion.stage.value}.")

    def _copy(self, conversion: Conversion) -> None:
        days = conversion.days()
        said = time.monotonic()
        for number, (day, _) in enumerate(days, start=1):
            copied = 0
            for step in conversion.copy(day):
                copied += step.rows
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    part = 100 * step.pages // max(step.of_pages, 1)
                    self.stdout.write(f"  {day:%F}: {part} % copied")
            self.stdout.write(f"  {day:%F} ({number} of {len(days)}): {copied:,} rows copied")
        for day, _ in conversion.days():
            self.stdout.write(f"  {day:%F}: {conversion.check(day):,} rows, the same in both")
