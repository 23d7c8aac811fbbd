"""What only TimescaleDB does: chunks, and under its full licence the columnstore with its policy.

The policy runs inside the database and compresses days once they are old enough. Nothing here is needed for
correctness: rows read and write the same in either form, only slower or larger.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from streams.storage import RECORDS, TimeSeries

# A late row may meet many compressed ones; the usual limit would fail the whole statement. For one transaction.
UNLIMITED_SQL = "SELECT set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true)"


@dataclass(frozen=True)
class Chunk:
    """A piece of a hypertable, low <= at < high. `compressed`: it was put into the columnstore at least once."""

    name: str
    low: datetime
    high: datetime
    compressed: bool


class ColumnstoreEdge:
    """Up to when records lie in the columnstore, as far as this process knows: it asks again after a minute."""

    ASK_AGAIN_S = 60.0

    def __init__(self) -> None:
        self._until: datetime | None = None
        self._ask_at = 0.0

    def until(self) -> datetime | None:
        """The end of the newest day that was compressed; None when there is none."""
        if time.monotonic() >= self._ask_at:
            self._until = self._asked()
            self._ask_at = time.monotonic() + self.ASK_AGAIN_S
        return self._until

    def forget(self) -> None:
        """Ask at the next occasion."""
        self._until, self._ask_at = None, 0.0

    @staticmethod
    def _asked() -> datetime | None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')")
            if not cursor.fetchone()[0]:
                return None
            ends = [chunk.high for chunk in chunks(cursor, RECORDS.table) if chunk.compressed]
        return max(ends, default=None)


columnstore_edge = ColumnstoreEdge()


def chunks(cursor: Any, table: str) -> list[Chunk]:
    """The chunks of a hypertable, the oldest first."""
    cursor.execute(
        "SELECT format('%%I.%%I', chunk_schema, chunk_name), range_start, range_end, is_compressed"
        " FROM timescaledb_information.chunks"
        " WHERE hypertable_schema = current_schema() AND hypertable_name = %s ORDER BY range_start",
        [table],
    )
    return [Chunk(*row) for row in cursor.fetchall()]


def columnstore_ensure(cursor: Any, series: TimeSeries, *, after: timedelta) -> list[str]:
    """Switch the columnstore on, with a policy that compresses what is older than `after`; says what it did.

    Only for a hypertable under the full licence. Can be repeated, and follows a changed `after`.
    """
    done = []
    cursor.execute(
        "SELECT compression_enabled FROM timescaledb_information.hypertables"
        " WHERE hypertable_schema = current_schema() AND hypertable_name = %s",
        [series.table],
    )
    if not cursor.fetchone()[0]:
        cursor.execute(
            f"ALTER TABLE {series.table} SET (timescaledb.enable_columnstore,"
            f" timescaledb.segmentby = '{series.segment_by}', timescaledb.orderby = '{series.order_by}')"
        )
        done.append(f"{series.table}: columnstore switched on")
    held = _policy_after(cursor, series.table)
    if held != after:
        if held is not None:
            cursor.execute("CALL remove_columnstore_policy(%s::regclass)", [series.table])
        cursor.execute(
            "CALL add_columnstore_policy(%s::regclass, after => %s::interval)", [series.table, after]
        )
        done.append(f"{series.table}: days are compressed {after.days} days after their end")
    return done


def _policy_after(cursor: Any, table: str) -> timedelta | None:
    cursor.execute(
        "SELECT (config ->> 'compress_after')::interval FROM timescaledb_information.jobs"
        " WHERE hypertable_schema = current_schema() AND hypertable_name = %s AND proc_name = 'policy_compression'",
        [table],
    )
    row = cursor.fetchone()
    return row[0] if row else None


def policy_run(cursor: Any, table: str) -> str | None:
    """How the policy's last run ended, such as Success or Failed; None when there is none, or it has not run yet."""
    cursor.execute(
        "SELECT s.last_run_status FROM timescaledb_information.job_stats s"
        " JOIN timescaledb_information.jobs j USING (job_id)"
        " WHERE j.hypertable_schema = current_schema() AND j.hypertable_name = %s"
        " AND j.proc_name = 'policy_compression'",
        [table],
    )
    row = cursor.fetchone()
    return row[0] if row else None


def chunk_sizes(cursor: Any, table: str) -> dict[str, tuple[int, int | None]]:
    """Of each chunk by name: bytes on disk with indexes, and what they were before it was compressed."""
    cursor.execute(
        "SELECT format('%%I.%%I', chunk_schema, chunk_name), d.total_bytes, s.before_compression_total_bytes"
        " FROM chunks_detailed_size(%s) AS d"
        " LEFT JOIN chunk_compression_stats(%s) AS s USING (chunk_schema, chunk_name)",
        [table, table],
    )
    return {name: (int(size_bytes), before) for name, size_bytes, before in cursor.fetchall()}


def chunks_compress(cursor: Any, table: str, *, before: datetime) -> Iterator[Chunk]:
    """Compress what ended before this time and is not compressed, or only partly; yields each chunk when it is done.

    Writers of late rows into the same chunk wait while it is compressed for the first time.
    """
    for chunk in chunks(cursor, table):
        if chunk.high <= before and not _settled(cursor, chunk):
            cursor.execute("SELECT compress_chunk(%s::regclass)", [chunk.name])
            yield chunk


def chunks_decompress(cursor: Any, table: str) -> Iterator[Chunk]:
    """Back to rows, before the licence is given up; the policy goes first, it would undo it."""
    cursor.execute("CALL remove_columnstore_policy(%s::regclass, if_exists => true)", [table])
    for chunk in chunks(cursor, table):
        if chunk.compressed:
            cursor.execute("SELECT decompress_chunk(%s::regclass)", [chunk.name])
            yield chunk


def _settled(cursor: Any, chunk: Chunk) -> bool:
    """All of the chunk is in the columnstore; rows that came later make it partial."""
    if not chunk.compressed:
        return False
    cursor.execute("SELECT _timescaledb_functions.chunk_status_text(%s::regclass)", [chunk.name])
    return not {"PARTIAL", "UNORDERED"} & set(cursor.fetchone()[0])
