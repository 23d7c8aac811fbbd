"""A connection of one's own to the default database, for processes that stay and write or listen."""

from typing import Any

import psycopg
from django.db import connection

Connection = psycopg.Connection[tuple[Any, ...]]


def connection_parameters() -> dict[str, Any]:
    """libpq parameters of Django's default database, without what belongs to Django's own connections."""
    parameters = connection.get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold", "pool"):
        parameters.pop(name, None)
    return parameters


def connect(*, name: str) -> Connection:
    """A connection in autocommit mode whose `name` shows in pg_stat_activity. Raises psycopg.OperationalError."""
    return psycopg.connect(
        **connection_parameters(),
        autocommit=True,
        application_name=f"servwatch-{name}",
        connect_timeout=10,
        keepalives_idle=30,
    )
