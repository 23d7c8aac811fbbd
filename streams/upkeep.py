"""What the worker does for the pieces of all time series: make days ahead, drop whole days, fill the columnstore.

Every function can be repeated and interrupted, and several processes may call it at once.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from django.conf import settings

from streams.database import Connection, connect
from streams.hypertable import chunks_compress, chunks_decompress, columnstore_ensure
from streams.retention import longest_retention
from streams.rollups import hours_expire
from streams.storage import (
    PARTITION_LOCK,
    TIME_SERIES,
    Kind,
    TimeSeries,
    days_ahead,
    engine_detect,
    partition_name,
    partitions_create,
    partitions_existing,
    storage_kind,
)

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = "10s"  # whoever waits for a lock on a table makes everybody behind it wait too
POLICY_GRACE = timedelta(days=1)  # what the policy has not compressed by then, the worker compresses


def columnstore_after() -> timedelta:
    """How long after its end a day is compressed."""
    return timedelta(days=settings.COLUMNSTORE_AFTER_DAYS)


def drop_before(now: datetime) -> datetime:
    """Pieces that ended before this time are kept by no channel."""
    return (now - longest_retention()).astimezone(UTC) - timedelta(days=1)


def days_maintain(*, now: datetime) -> list[str]:
    """Make the days ahead and drop those that no channel keeps; returns the names of what was dropped."""
    limit = drop_before(now)
    dropped: list[str] = []
    with _maintenance() as own:
        for series in TIME_SERIES:
            try:
                dropped += _series_maintain(own, series, now=now, limit=limit)
            except psycopg.errors.LockNotAvailable:
                logger.warning("%s is in use; its days are looked after next time.", series.table)
        hours_expire(own, before=limit)
    return dropped


def columnstore_maintain(*, now: datetime, grace: timedelta = POLICY_GRACE) -> Iterator[str]:
    """Where the licence allows it: switch the columnstore on, and compress what has waited for longer than `grace`.

    Yields a sentence for each thing done.
    """
    with _maintenance() as own, own.cursor() as cursor:
        if not engine_detect(cursor).columnstore:
            return
        for series in TIME_SERIES:
            if not series.segment_by or storage_kind(cursor, table=series.table) is not Kind.HYPERTABLE:
                continue
            try:
                yield from columnstore_ensure(cursor, series, after=columnstore_after())
                due = now - columnstore_after() - grace
                for chunk in chunks_compress(cursor, series.table, before=due):
                    yield f"{series.table}: the days from {chunk.low:%F} to {chunk.high:%F} compressed"
            except psycopg.errors.LockNotAvailable:
                logger.warning("%s is in use; its columnstore is looked after next time.", series.table)


def columnstore_leave() -> Iterator[str]:
    """All days back into rows, before the licence is given up; yields a sentence for each."""
    with _maintenance() as own, own.cursor() as cursor:
        if not engine_detect(cursor).columnstore:
            return
        for series in TIME_SERIES:
            if series.segment_by and storage_kind(cursor, table=series.table) is Kind.HYPERTABLE:
                for chunk in chunks_decompress(cursor, series.table):
                    yield f"{series.table}: the days from {chunk.low:%F} to {chunk.high:%F} are rows again"


def _maintenance() -> Connection:
    own = connect(name="maintenance")
    own.execute("SET TIME ZONE 'UTC'")
    own.execute("SELECT set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])
    return own


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
