"""Where records lie: a TimescaleDB hypertable where the extension is loaded, daily partitions otherwise.

One SQL serves both; only making the table, adding days and dropping days differ. What the server offers is
asked without trying, because a failed attempt to create the extension ends the connection.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

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


@dataclass(frozen=True)
class TimeSeries:
    """A table cut into pieces of `piece_days` days by its column `at`: hypertable chunks or native partitions.

    It has the columns `channel_key` and `device_key` too: a channel says how long its rows are kept, and both can
    be deleted with their rows.
    `key` are the primary key's columns, `at` among them. Of a `derived` table only whole pieces are taken away; its
    single rows follow from those of another one.
    """

    table: str
    key: tuple[str, ...]
    piece_days: int = 1
    derived: bool = False


RECORDS = TimeSeries("streams_record", key=("device_key", "at", "digest"))
ROLLUP_MINUTES = TimeSeries(
    "streams_rollupminute", key=("device_key", "at", "channel_key", "tag"), derived=True
)
# Every table that the worker makes days for, drops days of, and deletes single rows from when they are too old.
TIME_SERIES: tuple[TimeSeries, ...] = (RECORDS, ROLLUP_MINUTES)


class Kind(StrEnum):
    HYPERTABLE = "hypertable"
    PARTITIONS = "partitions"
    MISSING = "missing"


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
    cursor.execute(DETECT_SQL)
    available, created, preloaded, license_name, superuser = cursor.fetchone()
    return Engine(available, created, preloaded, license_name, bool(superuser))


def storage_kind(cursor: Any, *, table: str = "streams_record") -> Kind:
    """How the table was made, whatever the settings say now."""
    cursor.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [table])
    row = cursor.fetchone()
    if row is None:
        return Kind.MISSING
    return Kind.PARTITIONS if row[0] in ("p", b"p") else Kind.HYPERTABLE


class CreateTimeSeriesTable(Operation):
    """A migration operation: a table cut by time on `at` into pieces of `piece_days`, a hypertable or natively.

    `columns` is the column list in SQL, `key` the primary key's columns (with `at` among them),
    `indexes` maps names of further indexes to their columns. The table belongs into TIME_SERIES as well.
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
    ) -> None:
        self.table = table
        self.columns = columns
        self.key = key
        self.indexes = indexes
        self.piece_days = piece_days

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        named = {"columns": self.columns, "key": self.key, "indexes": self.indexes}
        return type(self).__name__, [self.table], {**named, "piece_days": self.piece_days}

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
            schema_editor.execute(
                f"SELECT create_hypertable('{self.table}', by_range('at', INTERVAL '{self.piece_days} days'),"
                " create_default_indexes => false)"
            )
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
