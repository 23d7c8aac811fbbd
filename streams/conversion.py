"""From native partitions to a hypertable, beside writers that go on.

1. `begin`, one short transaction: an empty hypertable, and triggers by which every change of the old table is made
   in the new one too, in the same transaction.
2. `copy`: what was there before, partition by partition, some thousand pages a step. Each step is a transaction
   that notes how far it came, so that a killed run goes on where it was.
3. `check`: number and digest of a day's rows in both tables, seen at one moment.
4. `finish`, one short transaction with both tables locked: they change their names. The partitions stay beside the
   hypertable until `old_drop`.

A row deleted while a step copies it must not come back: a DELETE or UPDATE waits for the step that is under way.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import psycopg

from streams.database import connect
from streams.hypertable import chunks
from streams.storage import (
    Kind,
    TimeSeries,
    bucket_statements,
    engine_detect,
    hypertable_statements,
    partition_name,
    partitions_existing,
    storage_kind,
)

CONVERSION_LOCK = 7_227_003  # one conversion at a time
STEP_LOCK = 7_227_004  # with the table's oid: a step against deletes
STEP_PAGES = 4_096  # of 8 kB; half a second or so
SWAP_TIMEOUT = "2s"  # writers queue behind a lock that is waited for
SWAP_ATTEMPTS = 60
TAKE_OVER_S = 10.0  # the server needs a moment to notice that a run was killed

_STEPS_SQL = """
CREATE TABLE IF NOT EXISTS streams_conversion (
    source text, day date, file oid NOT NULL, pages bigint NOT NULL, done boolean NOT NULL, PRIMARY KEY (source, day)
)
"""
_MIRROR_SQL = """
CREATE FUNCTION {source}_mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM {target} AS t USING gone AS g WHERE {same}
            AND t.at >= (SELECT min(at) FROM gone) AND t.at <= (SELECT max(at) FROM gone);
    ELSE
        INSERT INTO {target} ({columns}) SELECT {columns} FROM made ON CONFLICT ({key}) DO UPDATE SET {all_new};
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION {source}_mirror_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({step_lock}, {oid});
    RETURN NULL;
END $$;
CREATE TRIGGER mirror_insert AFTER INSERT ON {source} REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION {source}_mirror();
CREATE TRIGGER mirror_update AFTER UPDATE ON {source} REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION {source}_mirror();
CREATE TRIGGER mirror_delete AFTER DELETE ON {source} REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION {source}_mirror();
CREATE TRIGGER mirror_wait BEFORE UPDATE OR DELETE ON {source}
    FOR EACH STATEMENT EXECUTE FUNCTION {source}_mirror_wait();
"""
_UNMIRROR_SQL = """
DROP FUNCTION IF EXISTS {source}_mirror() CASCADE;
DROP FUNCTION IF EXISTS {source}_mirror_wait() CASCADE
"""
_DIGEST_SQL = """
SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text, 0)::numeric), 0) FROM {rows}
"""


class ConversionRefused(Exception):
    """Nothing can be converted; the text says why and what to do."""


class ConversionMismatch(Exception):
    """A day is not the same in both tables. Nothing was taken away; the text says which day."""


class Stage(StrEnum):
    """How far a table has come."""

    PARTITIONS = "partitions"
    COPYING = "copying"
    SWAPPED = "swapped, the partitions are still there"
    HYPERTABLE = "hypertable"
    MISSING = "missing"


@dataclass(frozen=True)
class Step:
    """What one step of copying did: pages of 8 kB out of so many, and rows."""

    day: date
    pages: int
    of_pages: int
    rows: int


class Conversion:
    """One table's way, on a connection of its own: `with Conversion(RECORDS) as conversion:`.

    Raises ConversionRefused at its beginning while another one is running.
    """

    def __init__(self, series: TimeSeries) -> None:
        self.series = series
        self.source = series.table
        self.target = f"{series.table}_hypertable"
        self.old = f"{series.table}_partitions"

    def __enter__(self) -> Self:
        self._own = connect(name="conversion")
        try:
            self._own.execute("SET TIME ZONE 'UTC'")
            self._own.execute(
                "SET client_connection_check_interval = '1s'"
            )  # a killed run must not hold the lock
            self._lock()
        except BaseException:
            self._own.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.close()

    @property
    def stage(self) -> Stage:
        with self._own.cursor() as cursor:
            kind = storage_kind(cursor, table=self.source)
            if kind is Kind.PARTITIONS:
                return Stage.COPYING if self._exists(self.target) else Stage.PARTITIONS
            if kind is Kind.HYPERTABLE:
                return Stage.SWAPPED if self._exists(self.old) else Stage.HYPERTABLE
            return Stage.MISSING

    def begin(self) -> None:
        """Make the hypertable and mirror every change into it from now on. Raises ConversionRefused."""
        if not engine_detect(self._own.cursor()).usable:
            raise ConversionRefused(
                "This server cannot use TimescaleDB. Install it, add it to shared_preload_libraries, restart the "
                "server, and create the extension as its owner."
            )
        self._own.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        self._briefly(self._mirror)

    def days(self) -> list[tuple[date, int]]:
        """The first days of the partitions and their sizes in bytes, the oldest first."""
        with self._own.cursor() as cursor:
            begins = sorted(partitions_existing(cursor, table=self.source))
        return [(begin, self._bytes(begin)) for begin in begins]

    def copy(self, day: date) -> Iterator[Step]:
        """What is left of a partition to be copied, step by step; nothing when it was copied before."""
        while (step := self._step(day)) is not None:
            yield step

    def check(self, day: date) -> int:
        """Compare a day's rows in both tables at one moment; returns how many. Raises ConversionMismatch."""
        low = datetime(day.year, day.month, day.day, tzinfo=UTC)
        high = low + timedelta(days=self.series.piece_days)
        name = partition_name(self.source, day)
        with self._own.transaction(), self._own.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            columns = ", ".join(self._columns())
            cursor.execute(_DIGEST_SQL.format(columns=columns, rows=name))
            here = cursor.fetchone()
            there_sql = _DIGEST_SQL.format(columns=columns, rows=f"{self.target} WHERE at >= %s AND at < %s")
            cursor.execute(there_sql, [low, high])
            there = cursor.fetchone()
        if here is None or there is None or here != there:
            raise ConversionMismatch(
                f"{self.source}, {day:%F}: {here and here[0]} rows in the partition, {there and there[0]} in the "
                "hypertable, or their contents differ. Nothing was taken away; `storage_convert --cancel` undoes the "
                "conversion."
            )
        return int(here[0])

    def finish(self) -> None:
        """Let the tables change their names: from its commit on everybody reads and writes the hypertable."""
        self._briefly(self._swap)
        self._own.execute(f"ANALYZE {self.source}")

    def old_drop(self) -> None:
        """Drop the partitions, after `finish`."""
        names = self._own.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(%s)", [self.old]
        ).fetchall()
        for (name,) in names:
            self._own.execute(f"DROP TABLE {name}")
        self._own.execute(f"DROP TABLE {self.old}")
        if (
            self._exists("streams_conversion")
            and not self._own.execute("SELECT 1 FROM streams_conversion").fetchone()
        ):
            self._own.execute("DROP TABLE streams_conversion")

    def cancel(self) -> None:
        """Undo what was begun; the partitions were never touched."""
        self._briefly(self._undo)

    def _lock(self) -> None:
        deadline = time.monotonic() + TAKE_OVER_S
        while self._own.execute("SELECT pg_try_advisory_lock(%s)", [CONVERSION_LOCK]).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise ConversionRefused("Another conversion is running.")
            time.sleep(0.2)

    def _briefly(self, work: Callable[[], None]) -> None:
        """In one transaction that waits for no lock for long: it is tried again, with pauses for everybody else."""
        for attempt in range(1, SWAP_ATTEMPTS + 1):
            try:
                with self._own.transaction():
                    self._own.execute("SELECT set_config('lock_timeout', %s, true)", [SWAP_TIMEOUT])
                    work()
                return
            except psycopg.errors.LockNotAvailable:
                if attempt == SWAP_ATTEMPTS:
                    raise ConversionRefused(
                        f"{self.source} is in use all the time. Stop what holds it for long, and run the command again."
                    ) from None
                time.sleep(1)

    def _mirror(self) -> None:
        self._target_make()
        self._run(_MIRROR_SQL)
        self._own.execute(_STEPS_SQL)

    def _swap(self) -> None:
        self._own.execute(f"LOCK TABLE {self.source}, {self.target} IN ACCESS EXCLUSIVE MODE")
        self._run(_UNMIRROR_SQL)
        self._dropped_meanwhile()
        for kind, name in self._names():
            self._own.execute(f"ALTER {kind} {name} RENAME TO {name.replace(self.source, self.old, 1)}")
        for kind, name in self._names():
            target = name.replace(self.source, self.target, 1)
            self._own.execute(f"ALTER {kind} {target} RENAME TO {name}")
        self._own.execute("DELETE FROM streams_conversion WHERE source = %s", [self.source])

    def _undo(self) -> None:
        self._run(_UNMIRROR_SQL)
        self._own.execute(f"DROP TABLE {self.target}")
        self._own.execute("DELETE FROM streams_conversion WHERE source = %s", [self.source])

    def _target_make(self) -> None:
        series = self.series
        self._own.execute(
            f"CREATE TABLE {self.target} (LIKE {self.source} INCLUDING DEFAULTS, PRIMARY KEY ({', '.join(series.key)}))"
        )
        statements = hypertable_statements(self.target, piece_days=series.piece_days)
        if series.bucketed:
            statements += bucket_statements(self.target, series.key)
        for statement in statements:
            self._own.execute(statement)
        for name, names in series.indexes.items():
            index = name.replace(self.source, self.target, 1)
            self._own.execute(f"CREATE INDEX {index} ON {self.target} ({', '.join(names)})")

    def _names(self) -> list[tuple[str, str]]:
        """The table with what is named after it."""
        indexes = [f"{self.source}_pkey", *self.series.indexes]
        return [("TABLE", self.source), *(("INDEX", name) for name in indexes)]

    def _run(self, text: str) -> None:
        """One of the texts above."""
        key = [*self.series.key, *(["device_bucket"] if self.series.bucketed else [])]
        columns = self._columns()
        oid = self._own.execute("SELECT to_regclass(%s)::oid::integer", [self.source]).fetchone()
        self._own.execute(
            text.format(
                source=self.source,
                target=self.target,
                columns=", ".join(columns),
                key=", ".join(key),
                same=" AND ".join(f"t.{name} = g.{name}" for name in self.series.key),
                all_new=", ".join(f"{name} = excluded.{name}" for name in columns),
                step_lock=STEP_LOCK,
                oid=oid and oid[0],
            )
        )

    def _columns(self) -> list[str]:
        rows = self._own.execute(
            "SELECT quote_ident(attname) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [self.source],
        ).fetchall()
        return [str(row[0]) for row in rows]

    def _step(self, day: date) -> Step | None:
        name = partition_name(self.source, day)
        columns = ", ".join(self._columns())
        with self._own.transaction(), self._own.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(%s, to_regclass(%s)::oid::integer)", [STEP_LOCK, self.source]
            )
            pages, size, done = self._progress(cursor, day, name)
            if done:
                return None
            until = pages + STEP_PAGES
            cursor.execute(
                f"INSERT INTO {self.target} ({columns}) SELECT {columns} FROM {name}"
                " WHERE ctid >= %s::tid AND ctid < %s::tid ON CONFLICT DO NOTHING",
                [f"({pages},0)", f"({until},0)"],
            )
            rows = cursor.rowcount
            cursor.execute(
                "UPDATE streams_conversion SET pages = %s, done = %s WHERE source = %s AND day = %s",
                [until, until >= size, self.source, day],
            )
        return Step(day, min(until, size), size, rows)

    def _progress(self, cursor: psycopg.Cursor[Any], day: date, name: str) -> tuple[int, int, bool]:
        """Pages copied, pages there are now, and whether all are done. A table written anew is copied anew."""
        cursor.execute("SELECT pg_relation_filenode(%s), pg_relation_size(%s) / 8192", [name, name])
        file, size = cursor.fetchone() or (0, 0)
        cursor.execute(
            "INSERT INTO streams_conversion AS c (source, day, file, pages, done) VALUES (%s, %s, %s, 0, false)"
            " ON CONFLICT (source, day) DO UPDATE SET file = excluded.file,"
            " pages = CASE WHEN c.file = excluded.file THEN c.pages ELSE 0 END,"
            " done = c.done AND c.file = excluded.file RETURNING pages, done",
            [self.source, day, file],
        )
        pages, done = cursor.fetchone() or (0, False)
        return int(pages), int(size), bool(done)

    def _dropped_meanwhile(self) -> None:
        """Days that retention dropped from the partitions while they were copied."""
        with self._own.cursor() as cursor:
            begins = partitions_existing(cursor, table=self.source)
            for chunk in chunks(cursor, self.target):
                if chunk.low.astimezone(UTC).date() not in begins:
                    cursor.execute(
                        "SELECT drop_chunks(%s, older_than => %s::timestamptz, newer_than => %s::timestamptz)",
                        [self.target, chunk.high, chunk.low],
                    )

    def _exists(self, table: str) -> bool:
        return self._own.execute("SELECT to_regclass(%s)", [table]).fetchone() != (None,)

    def _bytes(self, begin: date) -> int:
        name = partition_name(self.source, begin)
        row = self._own.execute("SELECT pg_total_relation_size(to_regclass(%s))", [name]).fetchone()
        return int(row[0] or 0) if row else 0
