"""System checks: what was found on the database server, what it gives, and what contradicts itself."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.db import connections
from django.db.utils import OperationalError

from streams.storage import Engine, Kind, engine_detect, storage_kind

OLDEST_POSTGRESQL = 15
TESTED_TIMESCALEDB = "2.29"


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
    except OperationalError as error:
        hint = "Start it, or correct DATABASE_URL."
        return [Error(f"The database cannot be reached: {error}", hint=hint, id="servwatch.E001")]
    version = connection.pg_version // 10_000  # type: ignore[attr-defined]
    return storage_messages(engine, kind=kind, postgresql=version, wish=settings.STORAGE)


def storage_messages(engine: Engine, *, kind: Kind, postgresql: int, wish: str) -> list[CheckMessage]:
    """What to say about a server; pure."""
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
                hint="A table that is partitioned already cannot become a hypertable in place; it must be copied.",
                id="servwatch.W003",
            )
        )
    return [*found, _summary(engine, kind)]


def _summary(engine: Engine, kind: Kind) -> CheckMessage:
    if kind is Kind.HYPERTABLE or (kind is Kind.MISSING and engine.usable):
        edition = "full licence: columnstore" if engine.columnstore else "Apache licence: no columnstore"
        text = f"Storage: TimescaleDB {engine.created or engine.available} hypertable ({edition})."
    else:
        text = "Storage: plain PostgreSQL with daily partitions; about ten times the disk of a columnstore."
    return Info(text, id="servwatch.I001")
