"""The PostgreSQL server that ours and Zabbix get, with the same settings, and a reader of it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from servwatch_site.embedded.postgres import TemporaryPostgres

# What somebody sets who measures on 24 GiB; durability as PostgreSQL ships.
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "2GB",
    "effective_cache_size": "12GB",
    "maintenance_work_mem": "512MB",
    "wal_buffers": "64MB",
    "min_wal_size": "1GB",
    "max_wal_size": "6GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
    "random_page_cost": "1.1",
}


class Database:
    """Asks a server that may be killed meanwhile: a lost connection is made anew, once a question."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows. Raises psycopg.OperationalError while the server is down."""
        try:
            return self._connected().execute(sql).fetchall()
        except psycopg.OperationalError:
            self.close()
            return self._connected().execute(sql).fetchall()

    def number(self, sql: str) -> int:
        ((value,),) = self.query(sql)
        return int(value)

    def execute(self, sql: str) -> None:
        """One or more statements, none of which answers."""
        self._connected().execute(sql.encode())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.url, autocommit=True)
        return self._connection


@dataclass
class PostgresNewest:
    """Asks for one number; `sql` answers one row."""

    url: str
    sql: str

    def open(self) -> None:
        self._database = Database(self.url)

    def newest(self) -> int:
        return self._database.number(self.sql)


class LivingServer:
    """A temporary server that can be killed and started again while a load goes on in the main thread.

    Its starts are in one thread of its own that outlives it: a server ends with the thread that started it.
    """

    def __init__(self, folder: Path) -> None:
        self._hands = ThreadPoolExecutor(1)
        self._server = TemporaryPostgres(folder, settings=SETTINGS)
        self.url = self._server.url

    def start(self) -> None:
        self._hands.submit(self._server.start).result()

    def close(self) -> None:
        self._server.close()
        self._hands.shutdown()

    def kill(self) -> None:
        self._server.kill()

    def restart(self) -> None:
        """Returns at once."""
        self._hands.submit(self._server.start)

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self._server.pid)
        return [main, *main.children(recursive=True)]
