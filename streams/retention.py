"""What the worker does so that the store neither runs out of days nor keeps what nobody wants any more.

Whole days go where every channel allows it; the rest is deleted in small steps, each its own transaction, so that
writers never wait long. Every function can be repeated and interrupted.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import F, Max, Min

from channels.models import Channel, Latest, Stream, Tag
from devices.models import Device
from streams.database import Connection, connect
from streams.intake import KEPT_FOR
from streams.models import KeptAnswer, RefusedMessage
from streams.rollups import DELETE_NOTED_SQL, hours_expire
from streams.storage import (
    PARTITION_LOCK,
    RECORDS,
    TIME_SERIES,
    Kind,
    TimeSeries,
    days_ahead,
    partition_name,
    partitions_create,
    partitions_existing,
    storage_kind,
)
from tokens.models import Account

logger = logging.getLogger(__name__)

STEP_ROWS = 5_000
DEFAULT_RETENTION_DAYS = 90
BEYOND = timedelta(days=2)  # devices' clocks may be ahead of ours

# A step names its rows by key, so that it is small whatever the table's order.
_DELETE_STEP_SQL = """
DELETE FROM {table} r USING (
    SELECT {key} FROM {table} WHERE {column} = %(column)s AND at < %(limit)s ORDER BY at LIMIT %(step)s
) AS old
WHERE {same} AND r.at < %(limit)s
"""


def longest_retention() -> timedelta:
    """How long any channel wants its records; a deleted channel's records are purged, not kept."""
    most = Channel.objects.filter(deleted_at=None).aggregate(most=Max("retention_days"))["most"]
    return timedelta(days=most or DEFAULT_RETENTION_DAYS)


def days_maintain(*, now: datetime) -> list[str]:
    """Make the days ahead and drop those that no channel keeps; returns the names of what was dropped."""
    limit = (now - longest_retention()).astimezone(UTC) - timedelta(days=1)
    dropped: list[str] = []
    with connect(name="maintenance") as own:
        for series in TIME_SERIES:
            dropped += _series_maintain(own, series, now=now, limit=limit)
        hours_expire(own, before=limit)
    return dropped


def _series_maintain(own: Connection, series: TimeSeries, *, now: datetime, limit: datetime) -> list[str]:
    with own.cursor() as cursor:
        kind = storage_kind(cursor, table=series.table)
        if kind is Kind.HYPERTABLE:
            cursor.execute("SELECT drop_chunks(%s, older_than => %s::timestamptz)", [series.table, limit])
            return [str(row[0]) for row in cursor.fetchall()]
        with own.transaction():
            partitions_create(cursor, days_ahead(now), table=series.table, piece_days=series.piece_days)
        return list(_partitions_drop(own, series, before=limit))


def _partitions_drop(own: Connection, series: TimeSeries, *, before: datetime) -> Iterator[str]:
    """Detach without blocking readers, then drop. Only one process does it at a time."""
    with own.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [PARTITION_LOCK])
        if not (cursor.fetchone() or (False,))[0]:
            return
        try:
            _finish_interrupted(cursor, series.table)
            for begin in sorted(partitions_existing(cursor, table=series.table)):
                if begin + timedelta(days=series.piece_days - 1) < before.date():
                    name = partition_name(series.table, begin)
                    cursor.execute(f"ALTER TABLE {series.table} DETACH PARTITION {name} CONCURRENTLY")
                    cursor.execute(f"DROP TABLE {name}")
                    yield name
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [PARTITION_LOCK])


def _finish_interrupted(cursor: Any, table: str) -> None:
    """Complete what an earlier, killed run had begun to detach."""
    cursor.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = to_regclass(%s) AND inhdetachpending",
        [table],
    )
    for (name,) in cursor.fetchall():
        cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {name} FINALIZE")
        cursor.execute(f"DROP TABLE {name}")


def records_expire(*, now: datetime) -> int:
    """Delete what is older than its own channel keeps, where whole days cannot go; returns how many."""
    longest = longest_retention()
    gone = 0
    for channel in Channel.objects.filter(deleted_at=None):
        keep = timedelta(days=channel.retention_days)
        if keep < longest:
            gone += _delete_before(channel.pk, now - keep)
    return gone


def channels_purge(*, now: datetime) -> dict[int, int]:
    """Remove records, latest values, streams and tags of deleted channels: channel key -> records removed."""
    removed = {}
    for channel in Channel.objects.filter(deleted_at__isnull=False):
        remains = (
            Stream.objects.filter(channel=channel).exists()
            or Latest.objects.filter(channel_key=channel.pk).exists()
        )
        count = _delete_before(channel.pk, now + BEYOND)
        if not count and not remains:
            continue
        removed[channel.pk] = count
        for model in (Stream, Tag):
            model.objects.filter(channel=channel).delete()
        Latest.objects.filter(channel_key=channel.pk).delete()
        logger.info("Channel %d is purged: %d records removed.", channel.number, count)
    return removed


def devices_purge(*, now: datetime) -> dict[int, int]:
    """Remove the records of deleted devices whose records were to go: device key -> how many.

    A batch that was under way when the device was deleted may still write, so that a device is done only when
    nothing is left a minute later.
    """
    removed = {}
    waiting = Device.objects.filter(deleted_at__isnull=False, purge_wanted=True, purged_at=None)
    for device in waiting.order_by("deleted_at"):
        gone = {
            series.table: _delete_in_steps(series, "device_key", device.pk, before=now + BEYOND)
            for series in TIME_SERIES
            if not series.derived
        }
        count = gone[RECORDS.table]
        Latest.objects.filter(device_key=device.pk).delete()
        removed[device.pk] = count
        done = not count and device.deleted_at is not None and now - device.deleted_at > timedelta(minutes=1)
        Device.objects.filter(pk=device.pk).update(
            purged_records=F("purged_records") + count, purged_at=now if done else None
        )
        if done:
            logger.info("The records of the deleted device %s are removed.", device.device_id)
    return removed


def refused_expire(*, now: datetime) -> int:
    """Delete refused messages kept longer than their account wants; returns how many."""
    gone = 0
    for account_key, days in Account.objects.values_list("pk", "kept_refused_days"):
        gone += RefusedMessage.objects.filter(
            account_key=account_key, received_at__lt=now - timedelta(days=days)
        ).delete()[0]
    least = Account.objects.aggregate(least=Min("kept_refused_days"))["least"] or 30
    nobodys = RefusedMessage.objects.filter(account_key=0, received_at__lt=now - timedelta(days=least))
    return gone + nobodys.delete()[0]


def answers_expire(*, now: datetime) -> int:
    """Delete answers kept for repeated requests, a day after they were given; returns how many."""
    return KeptAnswer.objects.filter(created_at__lt=now - KEPT_FOR).delete()[0]


def _delete_before(channel_key: int, limit: datetime) -> int:
    """From every time series; returns how many records went."""
    gone = {
        series.table: _delete_in_steps(series, "channel_key", channel_key, before=limit)
        for series in TIME_SERIES
        if not series.derived
    }
    return gone[RECORDS.table]


def _delete_in_steps(series: TimeSeries, column: str, value: int, *, before: datetime) -> int:
    sql = _DELETE_STEP_SQL.format(
        table=series.table,
        key=", ".join(series.key),
        column=column,
        same=" AND ".join(f"r.{name} = old.{name}" for name in series.key),
    )
    sql = DELETE_NOTED_SQL.format(delete=sql)
    gone = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(sql, {"column": value, "limit": before, "step": STEP_ROWS})
            count = int(cursor.fetchone()[0])
        gone += count
        if count < STEP_ROWS:
            return gone
