"""A pytest plugin: every test run gets a PostgreSQL server of its own, or the one that is named.

`SERVWATCH_TEST_DATABASE_URL` names a server to use instead, for example one with TimescaleDB.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from servwatch_site.embedded.postgres import TemporaryPostgres

_named = os.environ.get("SERVWATCH_TEST_DATABASE_URL")
_server = None if _named else TemporaryPostgres()

# Settings are read once, before any fixture runs.
os.environ["DATABASE_URL"] = _named or (_server.url if _server else "")
os.environ["SERVWATCH_SECRET_KEY"] = "the-secret-key-of-the-test-run-0123456789"
os.environ["SERVWATCH_ADDRESS_LIMIT"] = "0"  # every test comes from the same address
os.environ["SERVWATCH_DATA_DIR"] = tempfile.mkdtemp(prefix="servwatch-data-")


@contextmanager
def running_server() -> Iterator[None]:
    """The server, running while the `with` block does."""
    if _server is None:
        yield
        return
    with _server:
        yield


def pytest_report_header() -> str:
    return f"database server: {'named by SERVWATCH_TEST_DATABASE_URL' if _named else 'embedded, temporary'}"
