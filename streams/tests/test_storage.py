from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from channels.services import channel_delete, channel_update
from servwatch_site.checks import storage_messages
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import StreetTestCase
from streams import retention, upkeep
from streams.models import RefusedMessage
from streams.storage import (
    Engine,
    Kind,
    days_ahead,
    engine_detect,
    partitions_create,
    partitions_existing,
    storage_kind,
    want_hypertable,
)
from streams.tests.test_pipeline import records

PLAIN = Engine(available=None, created=None, preloaded=False, license=None, superuser=True)
INSTALLED = Engine(available="2.29.2", created=None, preloaded=False, license=None, superuser=True)
PRELOADED = Engine(available="2.29.2", created=None, preloaded=True, license=None, superuser=True)
NOT_PERMITTED = Engine(available="2.29.2", created=None, preloaded=True, license=None, superuser=False)
FULL = Engine(available="2.29.2", created="2.29.2", preloaded=True, license="timescale", superuser=False)
APACHE = Engine(available="2.29.2", created="2.29.2", preloaded=True, license="apache", superuser=False)


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        (PLAIN, False),
        (INSTALLED, False),
        (PRELOADED, True),
        (NOT_PERMITTED, False),
        (FULL, True),
        (APACHE, True),
    ],
)
def test_it_uses_timescaledb_where_that_is_safe(engine: Engine, wanted: bool) -> None:
    assert want_hypertable(engine, wish="auto") is wanted
    assert want_hypertable(engine, wish="partitions") is False


def test_a_wish_that_cannot_come_true_stops_with_the_remedy() -> None:
    with pytest.raises(ImproperlyConfigured, match="shared_preload_libraries"):
        want_hypertable(INSTALLED, wish="timescaledb")


@pytest.mark.parametrize(
    ("engine", "kind", "expected"),
    [
        (PLAIN, Kind.PARTITIONS, ["servwatch.I001"]),
        (INSTALLED, Kind.PARTITIONS, ["servwatch.W001", "servwatch.I001"]),
        (NOT_PERMITTED, Kind.PARTITIONS, ["servwatch.W002", "servwatch.I001"]),
        (FULL, Kind.PARTITIONS, ["servwatch.W003", "servwatch.I001"]),
        (FULL, Kind.HYPERTABLE, ["servwatch.I001"]),
        (APACHE, Kind.HYPERTABLE, ["servwatch.I001"]),
    ],
)
def test_the_check_says_what_was_found(engine: Engine, kind: Kind, expected: list[str]) -> None:
    found = storage_messages(engine, kind=kind, postgresql=18, wish="auto")
    assert [message.id for message in found] == expected


def test_the_check_refuses_an_old_server_and_an_impossible_wish() -> None:
    assert [m.id for m in storage_messages(PLAIN, kind=Kind.MISSING, postgresql=14, wish="auto")] == [
        "servwatch.E002"
    ]
    impossible = storage_messages(PLAIN, kind=Kind.MISSING, postgresql=18, wish="timescaledb")
    assert impossible[0].id == "servwatch.E003"


def test_the_check_refuses_compressed_days_that_the_licence_cannot_read() -> None:
    found = storage_messages(APACHE, kind=Kind.HYPERTABLE, postgresql=18, wish="auto", compressed=5)
    assert found[0].id == "servwatch.E005"
    assert "--to-rows" in str(found[0].hint)
    fine = storage_messages(FULL, kind=Kind.HYPERTABLE, postgresql=18, wish="auto", compressed=5)
    assert [message.id for message in fine] == ["servwatch.I001"]


def test_the_check_warns_of_a_version_nobody_has_tried() -> None:
    newer = replace(FULL, created="2.31.0-dev")
    assert [m.id for m in storage_messages(newer, kind=Kind.HYPERTABLE, postgresql=18, wish="auto")] == [
        "servwatch.W004",
        "servwatch.I001",
    ]


def test_days_ahead_are_few() -> None:
    assert days_ahead(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))[0] == date(2026, 12, 30)
    assert days_ahead(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))[-1] == date(2027, 1, 3)


class StorageTest(StreetTestCase):
    def test_the_table_is_what_the_server_allows(self) -> None:
        with connection.cursor() as cursor:
            kind = storage_kind(cursor)
            engine = engine_detect(cursor)
        assert kind is (Kind.HYPERTABLE if engine.created else Kind.PARTITIONS)

    def test_partitions_are_made_once_whoever_asks(self) -> None:
        with connection.cursor() as cursor:
            if storage_kind(cursor) is Kind.HYPERTABLE:
                assert partitions_existing(cursor) == set()
                self.skipTest("a hypertable makes its own chunks")
        day = date(2026, 1, 15)
        with self.writer.transaction() as cursor:
            partitions_create(cursor, [day])
            partitions_create(cursor, [day, day + timedelta(days=1)])
            assert {day, day + timedelta(days=1)} <= partitions_existing(cursor)


class RetentionTest(StreetTestCase):
    def send_aged(self, *days: int) -> None:
        now = datetime.now(UTC)
        for age in days:
            at = (now - timedelta(days=age)).isoformat()
            outcome = self.send("json/web-1", f'{{"at": "{at}", "value": {age}}}')
            assert outcome.status == "stored", outcome

    def ages(self) -> list[int]:
        return [row[5] for row in records()]

    def test_days_that_no_channel_keeps_are_dropped_whole(self) -> None:
        self.send_aged(80, 40, 1)
        for channel in (self.servers, self.backups):
            channel_update(channel, changes={"retention_days": 30})
        dropped = upkeep.days_maintain(now=datetime.now(UTC))
        assert len(dropped) >= 2
        assert self.ages() == [1]
        assert upkeep.days_maintain(now=datetime.now(UTC)) == []

    def test_a_channel_with_a_shorter_retention_loses_its_older_records_only(self) -> None:
        self.send_aged(80, 40, 1)
        channel_update(self.servers, changes={"retention_days": 60})
        assert retention.records_expire(now=datetime.now(UTC)) == 1
        assert self.ages() == [40, 1]

    def test_a_deleted_channels_records_are_purged(self) -> None:
        self.send_aged(3, 2, 1)
        channel_delete(self.servers, now=NOW)
        now = datetime.now(UTC)
        assert retention.channels_purge(now=now) == {self.servers.pk: 3}
        assert self.ages() == []
        assert retention.channels_purge(now=now) == {}

    def test_refused_messages_go_after_their_days(self) -> None:
        self.send("json/web-1", "{")
        now = datetime.now(UTC)
        assert retention.refused_expire(now=now) == 0
        assert retention.refused_expire(now=now + timedelta(days=31)) == 1
        assert not RefusedMessage.objects.exists()

    def test_a_day_half_detached_by_a_killed_run_is_finished(self) -> None:
        self.send_aged(80, 1)
        with connection.cursor() as cursor:
            if storage_kind(cursor) is Kind.HYPERTABLE:
                self.skipTest("TimescaleDB drops its chunks itself")
            day = datetime.now(UTC).date() - timedelta(days=80)
            cursor.execute(
                "UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = %s::regclass",
                [f"streams_record_{day:%Y%m%d}"],
            )
        upkeep.days_maintain(now=datetime.now(UTC))
        assert self.ages() == [1]
