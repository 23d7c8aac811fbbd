"""Moving records from partitions to a hypertable: on a server with TimescaleDB, beside writers, killed on the way."""

import io
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from channels.services import channel_delete, channel_update
from servwatch_site.tests import listening
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import StreetTestCase
from servwatch_site.tests.waiting import wait_until
from streams import conversion as conversion_module
from streams import retention, upkeep
from streams.conversion import Conversion, ConversionMismatch, ConversionRefused, Stage
from streams.database import connect
from streams.storage import RECORDS, TIME_SERIES, Kind, engine_detect, partitions_create, storage_kind
from streams.tests.columnstore import scalar

NO_TIMESCALEDB = "needs TimescaleDB: set SERVWATCH_TEST_DATABASE_URL or SERVWATCH_PG_CONF"
A_DAY = timedelta(days=1)


class ConversionTestCase(StreetTestCase):
    """Tables lie in partitions first; afterwards they are hypertables again, as the migrations made them."""

    def setUp(self) -> None:
        super().setUp()
        with connection.cursor() as cursor:
            if not engine_detect(cursor).usable:
                self.skipTest(NO_TIMESCALEDB)
        partitions_instead()
        self.addCleanup(hypertables_again)
        self.writer.close()
        self.now = datetime.now(UTC)

    def send_aged(self, *ages: int, value: int = 0) -> None:
        for age in ages:
            at = (self.now - age * A_DAY).isoformat()
            assert self.send("json/web-1", f'{{"at": "{at}", "value": {value or age}}}').status == "stored"

    def convert(self, **options: Any) -> str:
        out = io.StringIO()
        call_command("storage_convert", stdout=out, **options)
        return out.getvalue()


def partitions_instead() -> None:
    """As an installation without TimescaleDB has them."""
    for series in TIME_SERIES:
        with connect(name="test") as own, own.transaction(), own.cursor() as cursor:
            cursor.execute(f"CREATE TABLE made (LIKE {series.table} INCLUDING DEFAULTS)")
            cursor.execute("ALTER TABLE made DROP COLUMN IF EXISTS device_bucket")
            cursor.execute(f"DROP TABLE {series.table}")
            cursor.execute(
                f"CREATE TABLE {series.table} (LIKE made INCLUDING DEFAULTS,"
                f" PRIMARY KEY ({', '.join(series.key)})) PARTITION BY RANGE (at)"
            )
            cursor.execute("DROP TABLE made")
            for name, columns in series.indexes.items():
                cursor.execute(f"CREATE INDEX {name} ON {series.table} ({', '.join(columns)})")


def hypertables_again() -> None:
    call_command("storage_convert", cancel=True, stdout=io.StringIO())
    call_command("storage_convert", stdout=io.StringIO())


def kind() -> Kind:
    with connection.cursor() as cursor:
        return storage_kind(cursor)


def total() -> int:
    return int(scalar("SELECT count(*) FROM streams_record"))


class CommandTest(ConversionTestCase):
    def test_it_moves_every_record_and_drops_the_partitions(self) -> None:
        self.send_aged(40, 3, 2, 0)
        before = scalar("SELECT sum(hashtextextended(r::text, 0)::numeric) FROM streams_record r")
        assert "4 partitions" in self.convert(dry_run=True)
        assert kind() is Kind.PARTITIONS
        said = self.convert()
        assert "streams_record: is a hypertable now." in said
        assert "1 rows, the same in both" in said
        assert kind() is Kind.HYPERTABLE
        columns = "device_key, channel_key, at, digest, form, tag, value"
        assert before == scalar(
            "SELECT sum(hashtextextended(r::text, 0)::numeric)"
            f" FROM (SELECT {columns} FROM streams_record OFFSET 0) r"
        )
        assert scalar("SELECT to_regclass('streams_record_partitions')") is None
        assert scalar("SELECT to_regclass('streams_conversion')") is None
        assert self.convert() == ("streams_record: hypertable.\nstreams_rollupminute: hypertable.\n")

    def test_writers_that_knew_partitions_go_on_and_know_their_duplicates(self) -> None:
        self.send_aged(3, 0)
        self.convert()
        self.send_aged(3, 0, 50)
        assert total() == 3

    def test_the_partitions_can_be_kept_and_dropped_later(self) -> None:
        self.send_aged(1)
        assert Stage.SWAPPED.value in self.convert(keep_old=True)
        assert scalar("SELECT count(*) FROM streams_record_partitions") == 1
        self.convert()
        assert scalar("SELECT to_regclass('streams_record_partitions')") is None

    def test_it_can_be_undone_until_the_end(self) -> None:
        self.send_aged(1)
        with Conversion(RECORDS) as conversion:
            conversion.begin()
        self.send_aged(2)
        assert "undone" in self.convert(cancel=True)
        assert kind() is Kind.PARTITIONS
        assert total() == 2
        assert scalar("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'mirror%'") == 0

    def test_two_at_once_are_refused(self) -> None:
        with Conversion(RECORDS), pytest.MonkeyPatch.context() as patch:
            patch.setattr(conversion_module, "TAKE_OVER_S", 0.0)
            with pytest.raises(CommandError, match="Another conversion is running"):
                self.convert()


class ChangesOnTheWayTest(ConversionTestCase):
    """What happens to records between the beginning and the end."""

    def setUp(self) -> None:
        super().setUp()
        self.send_aged(40, 3, 2)
        self.conversion = Conversion(RECORDS)
        self.conversion.__enter__()
        self.addCleanup(self.conversion.__exit__, None, None, None)
        self.conversion.begin()

    def copy_all(self) -> None:
        for day, _ in self.conversion.days():
            for _step in self.conversion.copy(day):
                pass

    def finish(self) -> list[int]:
        self.copy_all()
        found = [self.conversion.check(day) for day, _ in self.conversion.days()]
        self.conversion.finish()
        return found

    def test_records_stored_before_during_and_after_the_copy_are_there_once(self) -> None:
        self.send_aged(40, 10, value=5)
        self.copy_all()
        self.send_aged(40, 3, 9, value=6)
        self.finish()
        assert total() == 8
        self.send_aged(40, 3, 9, value=6)
        assert total() == 8

    def test_deleted_records_stay_deleted(self) -> None:
        day, _ = self.conversion.days()[0]
        list(self.conversion.copy(day))
        channel_delete(self.servers, now=NOW)
        assert retention.channels_purge(now=self.now) == {self.servers.pk: 3}
        self.finish()
        assert total() == 0

    def test_days_dropped_on_the_way_are_not_there_afterwards(self) -> None:
        self.copy_all()
        for channel in (self.servers, self.backups):
            channel_update(channel, changes={"retention_days": 30})
        assert upkeep.days_maintain(now=self.now)
        self.finish()
        assert total() == 2

    def test_a_delete_waits_for_the_step_that_copies(self) -> None:
        step = connect(name="test-step")
        self.addCleanup(step.close)
        step.execute("BEGIN")
        step.execute(
            "SELECT pg_advisory_xact_lock(%s, 'streams_record'::regclass::oid::integer)",
            [conversion_module.STEP_LOCK],
        )
        with connect(name="test-delete") as own:
            thread = threading.Thread(target=own.execute, args=["DELETE FROM streams_record"])
            thread.start()
            waiting = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'servwatch-test-delete' AND wait_event_type = 'Lock'"
            )
            wait_until(lambda: scalar(waiting) == 1)
            assert total() == 3
            step.execute("COMMIT")
            thread.join(timeout=20)
        assert total() == 0

    def test_a_partition_written_anew_is_copied_from_its_beginning(self) -> None:
        self.copy_all()
        day, _ = self.conversion.days()[0]
        with connect(name="test") as own:
            own.execute(f"VACUUM FULL streams_record_{day:%Y%m%d}")
            own.execute("DELETE FROM streams_record_hypertable WHERE at < now() - interval '30 days'")
        assert [step.rows for step in self.conversion.copy(day)] == [1]
        assert sum(self.finish()) == 3

    def test_a_difference_is_found_before_anything_is_taken_away(self) -> None:
        self.copy_all()
        with connect(name="test") as own:
            own.execute(
                "UPDATE streams_record_hypertable SET value = '7' WHERE at > now() - interval '60 hours'"
            )
        (_, _, newest) = (day for day, _ in self.conversion.days() if day < self.now.date())
        with pytest.raises(ConversionMismatch, match="Nothing was taken away"):
            self.conversion.check(newest)
        assert kind() is Kind.PARTITIONS

    def test_the_swap_gives_way_to_a_reader_that_holds_the_table(self) -> None:
        self.copy_all()
        with (
            connect(name="test-reader") as reader,
            pytest.MonkeyPatch.context() as patch,
            reader.transaction(),
        ):
            reader.execute("SELECT 1 FROM streams_record LIMIT 1")
            patch.setattr(conversion_module, "SWAP_ATTEMPTS", 1)
            patch.setattr(conversion_module, "SWAP_TIMEOUT", "50ms")
            with pytest.raises(ConversionRefused, match="in use all the time"):
                self.conversion.finish()
        self.send_aged(1)
        self.finish()
        assert total() == 4


class KilledTest(ConversionTestCase):
    def test_killed_at_any_step_it_goes_on_where_it_was_while_a_writer_writes(self) -> None:
        with connection.cursor() as cursor:
            days = [self.now.date() - number * A_DAY for number in range(4)]
            partitions_create(cursor, days)
            cursor.execute(
                "INSERT INTO streams_record (device_key, channel_key, at, digest, form, value)"
                " SELECT n %% 50, %s, %s::timestamptz - n * interval '3 seconds', n, 0, '{\"cpu\": 1.5}'"
                " FROM generate_series(1, 60000) AS n",
                [self.servers.pk, self.now],
            )
        sent = 0
        for kill_after in (1, 2, 4):
            process = self.command()
            assert process.stdout is not None
            for _ in range(kill_after):
                process.stdout.readline()
                sent += 1
                self.send_aged(2, value=1_000 + sent)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=20)
            process.stdout.close()
        self.convert()
        assert kind() is Kind.HYPERTABLE
        assert total() == 60_000 + sent

    def command(self) -> "subprocess.Popen[str]":
        script = (
            "import os, django; django.setup(); from streams import conversion;"
            " conversion.STEP_PAGES = 64; from django.core.management import call_command;"
            " call_command('storage_convert', '--keep-old')"
        )
        return subprocess.Popen(
            [sys.executable, "-u", "-c", script],
            env={
                **os.environ,
                "DATABASE_URL": listening.test_database_url(),
                "DJANGO_SETTINGS_MODULE": "servwatch_site.settings",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
