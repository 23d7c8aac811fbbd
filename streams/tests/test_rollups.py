import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import localcontext
from threading import Thread
from typing import Any
from unittest.mock import patch

import psycopg
from django.db import connection

from channels.services import channel_delete, channel_update
from devices.models import Device
from devices.services import device_create, device_delete
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import StreetTestCase
from streams import retention
from streams.database import connect
from streams.models import RollupDue, RollupMark
from streams.purges import records_delete
from streams.rollup_rows import HOURS, MINUTES
from streams.rollups import LOCK, rollups_make
from streams.selectors import RecordFilter
from streams.tests.rolled import expected_rows, stored_rows
from streams.upkeep import days_maintain
from streams.writer import Batch, Row, Writer

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class RollupCase(StreetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = datetime.now(UTC).replace(minute=5, second=30, microsecond=0) - HOUR
        self.random = random.Random(7)  # noqa: S311 - the same data every time

    def device(self, name: str, *, channel: Any = None) -> Device:
        changes = {"enabled": True, "channel": channel or self.servers}
        return device_create(self.owner, name, now=NOW, changes=changes)

    def store(self, device: str, *measured: tuple[datetime, Any], tag: str = "") -> None:
        envelopes = [{"at": at.isoformat(), "value": value} for at, value in measured]
        topic = f"json/{device}/{tag}".rstrip("/")
        (outcomes,) = self.street.process([self.incoming(topic, json.dumps(envelopes))])
        assert {outcome.status for outcome in outcomes} == {"stored"}

    def every(self, step: timedelta, count: int) -> Iterator[tuple[datetime, Any]]:
        """Records at even times, the last of them a minute before now."""
        return ((self.now - MINUTE - (count - n) * step, {"n": n, "load1": n / 4}) for n in range(count))

    def roll(self) -> None:
        assert rollups_make(now=lambda: self.now)

    def assert_right(self) -> datetime:
        """Every row is what the records say, and there is no other row; returns the border."""
        border = RollupMark.objects.get().rolled_until
        assert border is not None
        with localcontext(prec=1000):
            assert stored_rows(MINUTES) == expected_rows(MINUTE, until=border)
            assert stored_rows(HOURS) == expected_rows(HOUR, until=border.replace(minute=0))
        return border

    def metrics(self) -> Any:
        def number() -> float:
            return self.random.choice([self.random.randrange(1000), round(self.random.random(), 3)])

        kinds: list[Callable[[], Any]] = [
            lambda: {"cpu": {"user": number(), "idle": number()}, "load1": number(), "up": True},
            lambda: {
                "cpu": {"user": number()},
                "disks": {"a:b": {"used": number()}, "/": {"used": number()}},
            },
            lambda: {"temps": [number(), number(), "off"], "fans": [{"rpm": number()}, {"rpm": [number()]}]},
            lambda: {"up": self.random.choice([True, False, 1, "yes", None]), "load1": 10**30},
            lambda: {"value": number()},
            lambda: {"host": "a"},
            number,
        ]
        return self.random.choice(kinds)()


class RollTest(RollupCase):
    def test_rows_say_what_the_records_say(self) -> None:
        for name in ("web-2", "web-3"):
            self.device(name)
        self.device("other", channel=self.backups)
        begin = self.now - 3 * HOUR
        for name in ("web-1", "web-2", "web-3", "other"):
            for tag in ("", "blue"):
                times = (begin + self.random.random() * 3 * HOUR for _ in range(60))
                self.store(name, *((at, self.metrics()) for at in times), tag=tag)
        self.roll()
        assert self.assert_right() == self.now - 30 * SECOND

    def test_rolling_up_again_changes_nothing(self) -> None:
        self.store("web-1", *self.every(MINUTE, 90))
        self.roll()
        before = self.assert_right()
        self.roll()
        assert self.assert_right() == before

    def test_it_goes_on_where_it_stopped(self) -> None:
        self.store("web-1", *self.every(MINUTE, 90))
        self.roll()
        for _ in range(3):
            self.now += 25 * MINUTE
            self.store("web-1", *self.every(20 * SECOND, 70))
            self.roll()
            assert self.assert_right() == self.now - 30 * SECOND

    def test_devices_with_keys_of_their_own_share_a_channel(self) -> None:
        for number in range(4):
            self.device(f"host-{number}")
            self.store(
                f"host-{number}",
                *((at, {f"disk{number}": n, "n": n}) for n, (at, _) in enumerate(self.every(MINUTE, 70))),
            )
        self.roll()
        self.assert_right()

    def test_channels_with_more_keys_than_a_statement_holds(self) -> None:
        self.device("other", channel=self.backups)
        with patch("streams.rollup_rows.MOST_COLUMNS", 3):
            self.store(
                "web-1",
                *(
                    (at, {"a": n, "b": {"c": n, "d": [n, n]}, "e": n})
                    for n, (at, _) in enumerate(self.every(MINUTE, 70))
                ),
            )
            self.store("other", *self.every(MINUTE, 70))
            self.roll()
        self.assert_right()

    def test_arrays_longer_than_what_is_folded_by_position(self) -> None:
        with patch("streams.rollup_rows.MOST_POSITIONS", 2):
            self.store(
                "web-1", *((at, {"a": n, "b": n, "c": n}) for n, (at, _) in enumerate(self.every(MINUTE, 70)))
            )
            self.roll()
        self.assert_right()

    def test_busy_channels_have_statements_of_their_own(self) -> None:
        self.device("other", channel=self.backups)
        self.store("web-1", *self.every(MINUTE, 70))
        self.store("other", *((at, {"x": 1, "n": value}) for at, value in self.every(MINUTE, 70)))
        with patch("streams.rollups.BUSY_RECORDS", 5):
            self.roll()
        self.assert_right()

    def test_large_numbers_are_kept_exactly(self) -> None:
        texts = ["1e300", "-1.7e308", "1e-300", str(2**70), "0.1", "0.2", "12345678901234567890.0123456789"]
        for place, text in enumerate(texts):
            at = (self.now - HOUR + place * SECOND).isoformat()
            assert self.send("json/web-1", f'{{"at": "{at}", "value": {{"n": {text}}}}}').status == "stored"
        self.roll()
        self.assert_right()

    def test_without_any_record_the_border_is_now(self) -> None:
        self.roll()
        assert self.assert_right() == self.now - 30 * SECOND
        self.store("web-1", (self.now - 5 * HOUR, 1))
        self.roll()
        self.assert_right()


class LateTest(RollupCase):
    def setUp(self) -> None:
        super().setUp()
        self.store("web-1", *self.every(MINUTE, 150))
        self.roll()

    def test_late_records_are_noted_and_corrected(self) -> None:
        self.device("web-2")
        late = (self.now - 2 * HOUR, self.now - 2 * HOUR + 3 * SECOND, self.now - 10 * MINUTE)
        self.store("web-1", *((at, {"n": 77, "new": True}) for at in late), tag="blue")
        self.store("web-2", *((at, {"n": 78}) for at in late))
        assert RollupDue.objects.count() == 4
        self.roll()
        self.assert_right()
        assert not RollupDue.objects.exists()

    def test_records_in_time_are_not_noted(self) -> None:
        self.store("web-1", (self.now, {"n": 1}), (self.now + MINUTE, {"n": 2}))
        assert not RollupDue.objects.exists()

    def test_the_border_waits_for_a_writer_that_does_not_know_it(self) -> None:
        before = self.assert_right()
        self.now += 20 * MINUTE
        other = Writer(name="other")
        self.addCleanup(other.close)
        at = self.now - 15 * MINUTE
        with patch("streams.rollups.BARRIER_S", 0.05), other.transaction() as cursor:
            row = Row(self.web1.pk, self.servers.pk, at, 1, 0, None, 0, '{"n": 5}')
            other.write(cursor, Batch(rows=[row]))
            assert not RollupDue.objects.exists()
            for _ in range(2):
                self.roll()
                assert RollupMark.objects.get().rolled_until == before
        self.roll()
        assert self.assert_right() == self.now - 30 * SECOND

    def test_a_writer_that_knows_the_border_notes_what_lies_before_it(self) -> None:
        self.now += 20 * MINUTE
        border = self.now - 30 * SECOND
        RollupMark.objects.update(late_from=border, barrier=None)
        other = Writer(name="other")
        self.addCleanup(other.close)
        with other.transaction() as cursor:
            row = Row(self.web1.pk, self.servers.pk, self.now - 15 * MINUTE, 1, 0, None, 0, '{"n": 5}')
            other.write(cursor, Batch(rows=[row]))
        assert RollupDue.objects.count() == 1
        self.roll()
        assert self.assert_right() == border
        assert not RollupDue.objects.exists()

    def test_a_backlog_of_notes_is_worked_off_in_steps(self) -> None:
        late = [(self.now - n * HOUR, {"n": n}) for n in range(1, 12)]
        self.store("web-1", *late)
        with patch("streams.rollups.DUE_SPANS", 3), patch("streams.rollups.DUE_ROWS", 4):
            self.roll()
        self.assert_right()
        assert not RollupDue.objects.exists()

    def test_removed_records_leave_no_trace(self) -> None:
        self.device("web-2")
        self.store("web-1", *self.every(MINUTE, 60), tag="blue")
        self.store("web-2", *self.every(MINUTE, 60))
        self.roll()
        low, high = self.now - 50 * MINUTE, self.now - 40 * MINUTE
        assert records_delete(RecordFilter(self.servers.pk, low, high)) > 0
        assert records_delete(RecordFilter(self.servers.pk, self.now - HOUR, self.now, tag="blue")) > 0
        self.roll()
        self.assert_right()
        device_delete(self.web1, now=self.now, with_records=True)
        retention.devices_purge(now=self.now)
        self.roll()
        self.assert_right()
        assert not any(key[0] == self.web1.pk for key in stored_rows(HOURS))

    def test_a_purged_channel_leaves_no_rows(self) -> None:
        channel_delete(self.servers, now=self.now)
        retention.channels_purge(now=datetime.now(UTC))
        self.roll()
        assert stored_rows(MINUTES) == stored_rows(HOURS) == {}

    def test_rows_expire_with_their_records(self) -> None:
        old = datetime.now(UTC) - 60 * 24 * HOUR
        self.store("web-1", *((old + n * MINUTE, {"n": n}) for n in range(70)))
        self.roll()
        self.assert_right()
        for channel in (self.servers, self.backups):
            channel_update(channel, changes={"retention_days": 30})
        days_maintain(now=datetime.now(UTC))
        self.roll()
        self.assert_right()
        assert min(key[3] for key in stored_rows(HOURS)) > old + 24 * HOUR


class InterruptedTest(RollupCase):
    def test_a_step_that_is_cut_off_leaves_nothing_half_done(self) -> None:
        """The server ends the worker's session in the middle of a step, as it does when the worker is killed."""
        self.store("web-1", *self.every(MINUTE, 150))
        failed: list[BaseException] = []

        def roll() -> None:
            try:
                rollups_make(now=lambda: self.now)
            except psycopg.OperationalError as error:
                failed.append(error)

        with connect(name="holder") as holder:
            holder.autocommit = False
            holder.execute(
                f"LOCK TABLE {HOURS} IN SHARE MODE"
            )  # without a transaction number, which would be waited for
            worker = Thread(target=roll)
            worker.start()
            with connection.cursor() as cursor:
                while not self.waiting(cursor):
                    worker.join(0.02)
                    assert worker.is_alive()
                cursor.execute(f"SELECT pg_terminate_backend(pid) FROM ({_WAITING_SQL}) AS w")
            worker.join()
            holder.rollback()
        assert len(failed) == 1
        until = RollupMark.objects.get().rolled_until
        assert until is None or until < self.now - HOUR
        self.roll()
        assert self.assert_right() == self.now - 30 * SECOND

    def waiting(self, cursor: Any) -> bool:
        cursor.execute(_WAITING_SQL)
        return bool(cursor.fetchall())

    def test_a_second_worker_leaves_the_work_to_the_first(self) -> None:
        with connect(name="first") as first:
            first.execute("SELECT pg_advisory_lock(%s)", [LOCK])
            assert not rollups_make(now=lambda: self.now)
            assert not RollupMark.objects.exists()
        self.roll()

    def test_it_stops_between_two_steps_when_told_to(self) -> None:
        self.store("web-1", *self.every(MINUTE, 150))
        asked = iter([False, True])
        assert not rollups_make(now=lambda: self.now, stop=lambda: next(asked))
        until = RollupMark.objects.get().rolled_until
        assert until is not None and until < self.now - HOUR
        self.roll()
        self.assert_right()

    def test_a_border_set_by_a_clock_that_was_ahead_is_taken_back(self) -> None:
        self.store("web-1", *self.every(MINUTE, 150))
        self.now += 30 * 24 * HOUR
        with patch("streams.rollups.LONGEST_STEP", 60):
            self.roll()
        self.now -= 30 * 24 * HOUR
        self.roll()
        assert self.assert_right() == self.now - 30 * SECOND
        self.now += 10 * MINUTE
        self.store("web-1", *self.every(MINUTE, 5))
        assert not RollupDue.objects.exists()
        self.roll()
        self.assert_right()


_WAITING_SQL = """
SELECT pid FROM pg_stat_activity WHERE application_name = 'servwatch-rollups' AND wait_event_type = 'Lock'
"""
