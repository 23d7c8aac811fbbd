"""Where time series lie: in TimescaleDB hypertables where the extension is loaded, in native partitions otherwise.

One SQL serves both; only making tables, adding days and dropping days differ. What the server offers is
asked without trying, because a failed attempt to create the extension ends the connection. What only TimescaleDB
does is in streams/hypertable.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

DETECT_SQL = """
SELECT (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'),
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
       current_setting('timescaledb.disable_load', true) IS NOT NULL,
       current_setting('timescaledb.license', true),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
"""
DAYS_AHEAD = 3
_EPOCH = date(1970, 1, 1).toordinal()
PARTITION_LOCK = 7_227_001  # one number for everybody who makes or drops days


# Devices that share a batch of the columnstore, see docs/decisions/0011. Part of tables that exist: never change it.
BUCKET_DEVICES = 32


@dataclass(frozen=True)
class TimeSeries:
    """A table cut into pieces of `piece_days` days by its column `at`: hypertable chunks or native partitions.

    It has the columns `channel_key` and `device_key` too: a channel says how long its rows are kept, and both can
    be deleted with their rows, so that each needs an index which begins with it and goes on with `at`. `key` are the
    primary key's columns, `at` among them. `segment_by` and `order_by` say how the columnstore sorts its batches;
    without them the table stays in rows. With `bucketed` a hypertable has the column `device_bucket`, by which
    neighbouring devices share batches. Of a `derived` table only whole pieces are taken away; its single rows follow
    from those of another one.
    """

    table: str
    key: tuple[str, ...]
    indexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    piece_days: int = 1
    segment_by: str = ""
    order_by: str = ""
    bucketed: bool = False
    derived: bool = False


RECORDS = TimeSeries(
    "streams_record",
    key=("device_key", "at", "digest"),
    indexes={"streams_record_channel": ("channel_key", "at")},
    segment_by="device_bucket, channel_key",
    order_by="at, device_key, digest",
    bucketed=True,
)
# They stay in rows: late ones are made anew by joins, for which the columnstore would unpack whole days.
ROLLUP_MINUTES = TimeSeries(
    "streams_rollupminute",
    key=("device_key", "at", "channel_key", "tag"),
    indexes={"streams_rollupminute_channel": ("channel_key", "at")},
    derived=True,
)
# Every table that the worker makes days for, drops days of, and deletes single rows from when they are too old.
TIME_SERIES: tuple[TimeSeries, ...] = (RECORDS, ROLLUP_MINUTES)


class Kind(StrEnum):
    HYPERTABLE = "hypertable"
    PARTITIONS = "partitions"
    MISSING = "missing"


class HypertableUnloaded(psycopg.OperationalError):
    """The table is a hypertable, but the server runs without the extension that knows how to read and write it.

    Rows written now would lie where the extension never looks for them, and what the columnstore holds is not seen.
    """


@dataclass(frozen=True)
class Engine:
    """What the database server offers for time series."""

    available: str | None
    created: str | None
    preloaded: bool
    license: str | None
    superuser: bool

    @property
    def usable(self) -> bool:
        """TimescaleDB is there, or can be created without risk to the connection."""
        return bool(self.created) or (bool(self.available) and self.preloaded and self.superuser)

    @property
    def columnstore(self) -> bool:
        return bool(self.created) and self.license == "timescale"


def engine_detect(cursor: Any) -> Engine:
    """Ask the server; needs no rights and cannot fail."""
    cursor.execute("SELECT 1")  # a session knows the licence only after its first query
    cursor.execute(DETECT_SQL)
    available, created, preloaded, license_name, superuser = cursor.fetchone()
    return Engine(available, created, preloaded, license_name, bool(superuser))


def storage_kind(cursor: Any, *, table: str = "streams_record") -> Kind:
    """How the table was made, whatever the settings say now. Raises HypertableUnloaded."""
    cursor.execute(
        "SELECT c.relkind, e.oid IS NOT NULL AND current_setting('timescaledb.disable_load', true) IS NULL"
        " FROM pg_class c LEFT JOIN pg_extension e ON e.extname = 'timescaledb' WHERE c.oid = to_regclass(%s)",
        [table],
    )
    row = cursor.fetchone()
    if row is None:
        return Kind.MISSING
    if row[0] in ("p", b"p"):
        return Kind.PARTITIONS
    if row[1]:
        raise HypertableUnloaded(
            f"{table} is a hypertable, but TimescaleDB is not loaded. Add timescaledb to shared_preload_libraries "
            "and restart the database server."
        )
    return Kind.HYPERTABLE


class CreateTimeSeriesTable(Operation):
    """A migration operation: a table cut by time on `at` into pieces of `piece_days`, a hypertable or natively.

    `columns` is the column list in SQL, `key` the primary key's columns (with `at` among them),
    `indexes` maps names of further indexes to their columns, `bucketed` as in TimeSeries. The table belongs into
    TIME_SERIES as well; that also brings it its columnstore, where there is one.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(
        self,
        table: str,
        *,
        columns: str,
        key: Sequence[str],
        indexes: Mapping[str, Sequence[str]],
        piece_days: int = 1,
        bucketed: bool = False,
    ) -> None:
        self.table = table
        self.columns = columns
        self.key = key
        self.indexes = indexes
        self.piece_days = piece_days
        self.bucketed = bucketed

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        names = ("columns", "key", "indexes", "piece_days", "bucketed")
        return type(self).__name__, [self.table], {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        return f"Create the time-series table {self.table}"

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """The model is unmanaged and stands in a CreateModel of its own."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        with schema_editor.connection.cursor() as cursor:
            hypertable = want_hypertable(engine_detect(cursor), wish=settings.STORAGE)
        tail = "" if hypertable else " PARTITION BY RANGE (at)"
        schema_editor.execute(
            f"CREATE TABLE {self.table} ({self.columns}, PRIMARY KEY ({', '.join(self.key)})){tail}"
        )
        if hypertable:
            schema_editor.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            for statement in hypertable_statements(self.table, piece_days=self.piece_days):
                schema_editor.execute(statement)
            for statement in bucket_statements(self.table, self.key) if self.bucketed else ():
                schema_editor.execute(statement)
        for name, names in self.indexes.items():
            schema_editor.execute(f"CREATE INDEX {name} ON {self.table} ({', '.join(names)})")

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        schema_editor.execute(f"DROP TABLE {self.table}")


class AddDeviceBucket(Operation):
    """A migration operation: the column `device_bucket` of a table made without it, where it is a hypertable.

    The hypertable's rows are written anew; on native partitions nothing happens.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, table: str, *, key: Sequence[str]) -> None:
        self.table = table
        self.key = key

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        return type(self).__name__, [self.table], {"key": self.key}

    def describe(self) -> str:
        return f"Add the devices' buckets to {self.table}"

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Models do not know the column; the database fills it in."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        for statement in self._where_hypertable(schema_editor, bucket_statements(self.table, self.key)):
            schema_editor.execute(statement)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        statements = [
            f"ALTER TABLE {self.table} DROP COLUMN device_bucket",
            f"ALTER TABLE {self.table} ADD PRIMARY KEY ({', '.join(self.key)})",
        ]
        for statement in self._where_hypertable(schema_editor, statements):
            schema_editor.execute(statement)

    def _where_hypertable(
        self, schema_editor: BaseDatabaseSchemaEditor, statements: Iterable[str]
    ) -> Iterable[str]:
        with schema_editor.connection.cursor() as cursor:
            kind = storage_kind(cursor, table=self.table)
        return statements if kind is Kind.HYPERTABLE else ()


def hypertable_statements(table: str, *, piece_days: int) -> list[str]:
    """Make an empty table a hypertable; its own key and indexes are enough."""
    return [
        f"SELECT create_hypertable('{table}', by_range('at', INTERVAL '{piece_days} days'),"
        " create_default_indexes => false)"
    ]


def bucket_statements(table: str, key: Sequence[str]) -> list[str]:
    """Add the devices' buckets, to the key as well: the columnstore then finds a row's batches by its key."""
    return [
        f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey",
        f"ALTER TABLE {table} ADD COLUMN device_bucket integer NOT NULL"
        f" GENERATED ALWAYS AS ((device_key / {BUCKET_DEVICES})::integer) STORED",
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY ({', '.join([*key, 'device_bucket'])})",
    ]


def want_hypertable(engine: Engine, *, wish: str) -> bool:
    """Decide between hypertable and partitions. Raises ImproperlyConfigured for a wish that cannot come true."""
    if wish == "partitions":
        return False
    if wish == "timescaledb" and not engine.usable:
        raise ImproperlyConfigured(
            "SERVWATCH_STORAGE=timescaledb, but this server cannot use TimescaleDB. Install it, add it to "
            "shared_preload_libraries, restart the server, and create the extension as its owner; "
            "or leave SERVWATCH_STORAGE at auto."
        )
    return engine.usable


def partition_name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


def days_ahead(now: datetime) -> list[date]:
    """Today and the days that must exist before they begin; more would slow every read down."""
    today = now.astimezone(UTC).date()
    return [today + timedelta(days=number) for number in range(-1, DAYS_AHEAD + 1)]


def piece_begin(day: date, *, piece_days: int) -> date:
    """The first day of the piece that holds this day; pieces are counted from 1970-01-01, as TimescaleDB does."""
    return date.fromordinal(day.toordinal() - (day.toordinal() - _EPOCH) % piece_days)


def partitions_existing(cursor: Any, *, table: str = "streams_record") -> set[date]:
    """The first days of the partitions there are; empty on a hypertable, which makes its own chunks."""
    cursor.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'p' WHERE p.oid = to_regclass(%s)",
        [table],
    )
    names = (row[0].removeprefix(f"{table}_") for row in cursor.fetchall())
    return {datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).date() for name in names if name.isdigit()}


def partitions_create(
    cursor: Any, days: Iterable[date], *, table: str = "streams_record", piece_days: int = 1
) -> None:
    """Make what is missing for these days, each ready before it is attached, so that readers never wait.

    Several processes may ask at once: an advisory lock, held until the transaction ends, lets one do the work.
    Does nothing for a hypertable, so that a process which still believes in partitions goes on.
    """
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [PARTITION_LOCK])
    if storage_kind(cursor, table=table) is not Kind.PARTITIONS:
        return
    begins = {piece_begin(day, piece_days=piece_days) for day in days}
    for begin in sorted(begins - partitions_existing(cursor, table=table)):
        name = partition_name(table, begin)
        low, high = f"{begin:%F} 00:00+00", f"{begin + timedelta(days=piece_days):%F} 00:00+00"
        cursor.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
        cursor.execute(
            f"ALTER TABLE {name} ADD CONSTRAINT {name}_day CHECK (at >= '{low}' AND at < '{high}')"
        )
        cursor.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
        cursor.execute(f"ALTER TABLE {name} DROP CONSTRAINT {name}_day")
