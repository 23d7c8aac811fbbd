"""System checks: what was found on the database server, what it gives, and what contradicts itself."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.db import connections
from django.db.utils import OperationalError

from streams.hypertable import chunks
from streams.storage import RECORDS, Engine, HypertableUnloaded, Kind, engine_detect, storage_kind

OLDEST_POSTGRESQL = 15
TESTED_TIMESCALEDB = ((2, 18), (2, 29))


@register(Tags.database)
def check_storage(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Runs with `manage.py check --database default` and before `migrate`."""
    if not databases or "default" not in databases:
        return []
    connection = connections["default"]
    try:
        with connection.cursor() as cursor:
            engine = engine_detect(cursor)
            kind = storage_kind(cursor)
            compressed = _compressed(cursor) if kind is Kind.HYPERTABLE else 0
    except HypertableUnloaded as error:
        hint = "Nothing may be written until then: it would lie where nobody looks for it afterwards."
        return [Error(str(error), hint=hint, id="servwatch.E004")]
    except OperationalError as error:
        hint = "Start it, or correct DATABASE_URL."
        return [Error(f"The database cannot be reached: {error}", hint=hint, id="servwatch.E001")]
    version = connection.pg_version // 10_000  # type: ignore[attr-defined]
    return storage_messages(
        engine, kind=kind, postgresql=version, wish=settings.STORAGE, compressed=compressed
    )


def _compressed(cursor: Any) -> int:
    return sum(chunk.compressed for chunk in chunks(cursor, RECORDS.table))


def storage_messages(
    engine: Engine, *, kind: Kind, postgresql: int, wish: str, compressed: int = 0
) -> list[CheckMessage]:
    """What to say about a server; pure. `compressed`: how many days lie in the columnstore."""
    if postgresql < OLDEST_POSTGRESQL:
        return [
            Error(
                f"PostgreSQL {postgresql} is too old.",
                hint="Use PostgreSQL 15 or newer.",
                id="servwatch.E002",
            )
        ]
    found: list[CheckMessage] = []
    if wish == "timescaledb" and not engine.usable:
        found.append(
            Error(
                "SERVWATCH_STORAGE=timescaledb, but this server cannot use TimescaleDB.",
                hint="Install and preload it, then create the extension; or leave SERVWATCH_STORAGE at auto.",
                id="servwatch.E003",
            )
        )
    if compressed and not engine.columnstore:
        found.append(
            Error(
                f"{compressed} days lie in the columnstore, which the licence {engine.license} cannot read.",
                hint="Set timescaledb.license to timescale and restart the database server. To give the full licence "
                "up, run `manage.py storage_maintain --to-rows` under it first.",
                id="servwatch.E005",
            )
        )
    if engine.created and not TESTED_TIMESCALEDB[0] <= _version(engine.created) <= TESTED_TIMESCALEDB[1]:
        found.append(
            Warning(
                f"TimescaleDB {engine.created} has not been tested with Servwatch.",
                hint="Tested are 2.18 to 2.29.",
                id="servwatch.W004",
            )
        )
    if engine.available and not engine.preloaded and not engine.created:
        found.append(
            Warning(
                f"TimescaleDB {engine.available} is installed but not loaded; records lie in daily partitions.",
                hint="Add timescaledb to shared_preload_libraries and restart the server.",
                id="servwatch.W001",
            )
        )
    elif engine.available and not engine.usable:
        found.append(
            Warning(
                f"TimescaleDB {engine.available} is loaded, but this user may not create the extension.",
                hint="Let the database's owner run CREATE EXTENSION timescaledb.",
                id="servwatch.W002",
            )
        )
    if kind is Kind.PARTITIONS and engine.usable and wish != "partitions":
        found.append(
            Warning(
                "Records lie in daily partitions, though TimescaleDB could hold them.",
                hint="Run `manage.py storage_convert`; docs/storage.md says what it does and needs.",
                id="servwatch.W003",
            )
        )
    return [*found, _summary(engine, kind)]


def _version(text: str) -> tuple[int, ...]:
    """Major and minor of a version such as 2.29.2 or 2.30.0-dev."""
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _summary(engine: Engine, kind: Kind) -> CheckMessage:
    if kind is Kind.HYPERTABLE:
        edition = (
            "full licence: columnstore" if engine.columnstore else f"licence {engine.license}: no columnstore"
        )
        text = f"Storage: TimescaleDB {engine.created} hypertable ({edition})."
    elif kind is Kind.MISSING and engine.usable:
        text = f"Storage: will be a TimescaleDB {engine.available} hypertable."
    else:
        text = "Storage: plain PostgreSQL with daily partitions; several times the disk of a columnstore."
    return Info(text, id="servwatch.I001")
