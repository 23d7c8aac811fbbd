"""Rows of a time series removed in small steps, each its own transaction, so that writers never wait long.

Conditions are compared with plain values, never joined: the columnstore finds the batches of a DELETE by those alone.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from streams.hypertable import UNLIMITED_SQL, Chunk, chunks
from streams.rollup_rows import EVERY_DEVICE
from streams.rollups import DELETE_NOTED_SQL
from streams.storage import RECORDS, Kind, TimeSeries, storage_kind

STEP_ROWS = 5_000
# Roll-ups of a day whose records of a channel go as a whole: by the hour, of every device, whether there are any yet.
_NOTE_DAY_SQL = f"""
INSERT INTO streams_rollupdue (device_key, channel_key, low, high)
SELECT {EVERY_DEVICE}, %(channel_key)s, hour, hour + interval '1 hour'
FROM generate_series(%(low)s::timestamptz, %(high)s::timestamptz - interval '1 hour', interval '1 hour') AS hour
"""


def rows_delete(
    series: TimeSeries, where: str, values: Mapping[str, Any], *, low: datetime, high: datetime
) -> int:
    """Remove the rows with low <= at < high that meet `where`, SQL of ours with named `values`; returns how many."""
    gone = 0
    while True:
        count, low, more = _step(series, where, values, low=low, high=high)
        gone += count
        if not more:
            return gone


def channel_rows_delete(series: TimeSeries, channel_key: int, *, low: datetime, high: datetime) -> int:
    """All rows of a channel with low <= at < high. Compressed days lose its batches whole, without unpacking them."""
    gone = 0
    for chunk in _compressed(series, low=low, high=high):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(UNLIMITED_SQL)
            cursor.execute(f"DELETE FROM {chunk.name} WHERE channel_key = %s", [channel_key])
            gone += cursor.rowcount
            if series is RECORDS:
                cursor.execute(
                    _NOTE_DAY_SQL, {"channel_key": channel_key, "low": chunk.low, "high": chunk.high}
                )
    return gone + rows_delete(
        series, "channel_key = %(channel_key)s", {"channel_key": channel_key}, low=low, high=high
    )


def _step(
    series: TimeSeries, where: str, values: Mapping[str, Any], *, low: datetime, high: datetime
) -> tuple[int, datetime, bool]:
    """How many rows went, where the next step begins, and whether there is one."""
    given = {**values, "low": low, "high": high, "step": STEP_ROWS - 1}
    span = f"FROM {series.table} WHERE {where} AND at >= %(low)s AND at < %(high)s"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(UNLIMITED_SQL)
        cursor.execute(f"SELECT at {span} ORDER BY at OFFSET %(step)s LIMIT 1", given)
        row = cursor.fetchone()
        until, last = ("at < %(high)s", high) if row is None else ("at <= %(last)s", row[0])
        delete = f"DELETE FROM {series.table} AS r WHERE {where} AND at >= %(low)s AND {until}"
        given["last"] = last
        if series is not RECORDS:
            cursor.execute(delete, given)
            return cursor.rowcount, last, row is not None
        cursor.execute(DELETE_NOTED_SQL.format(delete=delete), given)
        return int(cursor.fetchone()[0]), last, row is not None


def _compressed(series: TimeSeries, *, low: datetime, high: datetime) -> list[Chunk]:
    """The chunks in the columnstore that lie in the span as a whole."""
    if "channel_key" not in series.segment_by:
        return []
    with connection.cursor() as cursor:
        if storage_kind(cursor, table=series.table) is not Kind.HYPERTABLE:
            return []
        found = chunks(cursor, series.table)
    return [chunk for chunk in found if chunk.compressed and chunk.low >= low and chunk.high <= high]
