"""A connection of one's own to the default database, for processes that stay and write or listen."""

from typing import Any

import psycopg
from django.db import connection

# What the data of a message may cause: refused values, and limits of the server such as that of an index entry.
CULPABLE = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)
Connection = psycopg.Connection[tuple[Any, ...]]
# What a writer has locked others wait for, so the server gives up a writer that is gone or frozen. Not for every
# connection: the first also cuts off a client that pauses while it reads a long answer.
NOT_HOLDING_OTHERS_UP = "-c tcp_user_timeout=20s -c idle_in_transaction_session_timeout=30s"


def connection_parameters() -> dict[str, Any]:
    """libpq parameters of Django's default database, without what belongs to Django's own connections."""
    parameters = connection.get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold", "pool"):
        parameters.pop(name, None)
    return parameters


def connect(*, name: str) -> Connection:
    """A connection in autocommit mode whose `name` shows in pg_stat_activity. Raises psycopg.OperationalError."""
    parameters = connection_parameters()
    own = {
        "autocommit": True,
        "application_name": f"servwatch-{name}",
        "options": f"{parameters.get('options', '')} {NOT_HOLDING_OTHERS_UP}",
    }
    return psycopg.connect(**{**parameters, **own})
