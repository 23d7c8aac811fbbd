"""What the database server offers for time series, how their tables lie there, and what could be better."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from streams.hypertable import Chunk, chunk_sizes, chunks, policy_run
from streams.retention import longest_retention, shortest_retention
from streams.storage import (
    DAYS_AHEAD,
    TIME_SERIES,
    Engine,
    Kind,
    TimeSeries,
    engine_detect,
    partition_name,
    partitions_existing,
    storage_kind,
)
from streams.upkeep import columnstore_after


@dataclass(frozen=True)
class Piece:
    """A partition or chunk, low <= at < high. `rows` of what is not compressed are an estimate, None is unknown.

    `bytes_before` is its size before it was compressed.
    """

    name: str
    low: datetime
    high: datetime
    rows: int | None
    bytes: int
    compressed: bool = False
    bytes_before: int | None = None


@dataclass(frozen=True)
class TableStatus:
    """`columnstore`: it belongs there, where there is one. `policy` is how the policy's last run ended."""

    table: str
    kind: Kind
    pieces: list[Piece]
    columnstore: bool = False
    policy: str | None = None

    @property
    def bytes(self) -> int:
        return sum(piece.bytes for piece in self.pieces)

    @property
    def rows(self) -> int:
        return sum(piece.rows or 0 for piece in self.pieces)

    @property
    def compressed(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.compressed]

    @property
    def ratio(self) -> float | None:
        """How many times smaller compression made what is compressed."""
        before = sum(piece.bytes_before or 0 for piece in self.compressed)
        after = sum(piece.bytes for piece in self.compressed)
        return before / after if before and after else None

    def days_ahead(self, today: date) -> int:
        """How many days after today have their partition."""
        most = max((piece.high for piece in self.pieces), default=None)
        return 0 if most is None else max(0, (most.astimezone(UTC).date() - today).days - 1)


@dataclass(frozen=True)
class StorageStatus:
    """Everything `manage.py storage_status` says."""

    postgresql: str
    engine: Engine
    wish: str
    tables: list[TableStatus]
    longest_retention: timedelta
    shortest_retention: timedelta
    columnstore_after: timedelta
    now: datetime


def storage_status(*, now: datetime) -> StorageStatus:
    """Looks at catalogs and sizes; of records it counts only those in the columnstore, which counts batches.

    Raises HypertableUnloaded.
    """
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        (version,) = cursor.fetchone()
        engine = engine_detect(cursor)
        tables = [_table(cursor, series, engine) for series in TIME_SERIES]
    return StorageStatus(
        postgresql=str(version).split(" ")[0],
        engine=engine,
        wish=settings.STORAGE,
        tables=tables,
        longest_retention=longest_retention(),
        shortest_retention=shortest_retention(),
        columnstore_after=columnstore_after(),
        now=now,
    )


def storage_advice(status: StorageStatus) -> list[str]:
    """What could be better, each a sentence with what to do; pure."""
    found = [sentence for table in status.tables for sentence in _table_advice(table, status)]
    engine = status.engine
    if engine.created and not engine.columnstore:
        found.append(
            "The Apache licence has no columnstore: expect about six times the disk of the full licence."
        )
    elif not engine.usable:
        found.append("TimescaleDB under its full licence would keep old days on about a sixth of the disk.")
    return found


def _table_advice(table: TableStatus, status: StorageStatus) -> Iterator[str]:
    engine = status.engine
    if table.kind is Kind.PARTITIONS:
        if engine.usable and status.wish != "partitions":
            yield f"{table.table} lies in partitions, though TimescaleDB could hold it: run storage_convert."
        if table.days_ahead(status.now.astimezone(UTC).date()) < DAYS_AHEAD:
            yield f"{table.table} has too few days ahead: start the worker, or run storage_maintain."
    if table.compressed and not engine.columnstore:
        yield (
            f"{len(table.compressed)} pieces of {table.table} lie in the columnstore, which this licence cannot read: "
            "set timescaledb.license to timescale and restart the server."
        )
    if table.policy == "Failed":
        yield f"The columnstore's policy for {table.table} failed: see timescaledb_information.job_errors."
    due = status.now - status.columnstore_after
    waiting = [piece for piece in table.pieces if piece.high <= due and not piece.compressed]
    if waiting and table.columnstore and engine.columnstore:
        yield f"{len(waiting)} pieces of {table.table} wait to be compressed: storage_maintain does it now."


def status_json(status: StorageStatus) -> dict[str, Any]:
    """For programs; sizes in bytes, times as ISO 8601."""
    engine = status.engine
    today = status.now.astimezone(UTC).date()
    return {
        "postgresql": status.postgresql,
        "timescaledb": {
            "available": engine.available,
            "created": engine.created,
            "loaded": engine.preloaded,
            "license": engine.license,
            "columnstore": engine.columnstore,
        },
        "wish": status.wish,
        "retention_days": {
            "longest": status.longest_retention.days,
            "shortest": status.shortest_retention.days,
        },
        "columnstore_after_days": status.columnstore_after.days,
        "tables": [_table_json(table, today) for table in status.tables],
        "advice": storage_advice(status),
    }


def _table_json(table: TableStatus, today: date) -> Mapping[str, Any]:
    return {
        "table": table.table,
        "kind": table.kind.value,
        "rows": table.rows,
        "bytes": table.bytes,
        "compressed_pieces": len(table.compressed),
        "ratio": None if table.ratio is None else round(table.ratio, 2),
        "days_ahead": table.days_ahead(today) if table.kind is Kind.PARTITIONS else None,
        "policy": table.policy,
        "pieces": [
            {**asdict(piece), "low": piece.low.isoformat(), "high": piece.high.isoformat()}
            for piece in table.pieces
        ],
    }


def _table(cursor: Any, series: TimeSeries, engine: Engine) -> TableStatus:
    kind = storage_kind(cursor, table=series.table)
    if kind is Kind.PARTITIONS:
        return TableStatus(series.table, kind, _partitions(cursor, series))
    if kind is Kind.MISSING:
        return TableStatus(series.table, kind, [])
    sizes = chunk_sizes(cursor, series.table)
    return TableStatus(
        series.table,
        kind,
        [_chunk(cursor, chunk, engine, sizes[chunk.name]) for chunk in chunks(cursor, series.table)],
        columnstore=bool(series.segment_by),
        policy=policy_run(cursor, series.table),
    )


def _partitions(cursor: Any, series: TimeSeries) -> list[Piece]:
    pieces = []
    for begin in sorted(partitions_existing(cursor, table=series.table)):
        name = partition_name(series.table, begin)
        cursor.execute(
            "SELECT reltuples, pg_total_relation_size(oid) FROM pg_class WHERE oid = to_regclass(%s)", [name]
        )
        rows, size_bytes = cursor.fetchone()
        low = datetime(begin.year, begin.month, begin.day, tzinfo=UTC)
        high = low + timedelta(days=series.piece_days)
        pieces.append(Piece(name, low, high, _estimate(rows), int(size_bytes)))
    return pieces


def _chunk(cursor: Any, chunk: Chunk, engine: Engine, sizes: tuple[int, int | None]) -> Piece:
    """Rows in the columnstore are counted where the licence can read them; others are the planner's estimate."""
    size_bytes, before = sizes
    cursor.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", [chunk.name])
    rows = _estimate(cursor.fetchone()[0])
    if chunk.compressed:
        rows = None
        if engine.columnstore:
            cursor.execute(f"SELECT count(*) FROM {chunk.name}")
            rows = int(cursor.fetchone()[0])
    return Piece(chunk.name, chunk.low, chunk.high, rows, size_bytes, chunk.compressed, before)


def _estimate(reltuples: float) -> int | None:
    return None if reltuples < 0 else int(reltuples)
