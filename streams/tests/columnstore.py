"""For tests of the columnstore: only TimescaleDB's full licence has one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from servwatch_site.tests.street import StreetTestCase
from streams.database import connect
from streams.hypertable import Chunk, chunks, chunks_compress, columnstore_edge, columnstore_ensure
from streams.storage import RECORDS, engine_detect

NO_COLUMNSTORE = (
    "needs TimescaleDB under its full licence: set SERVWATCH_TEST_DATABASE_URL or SERVWATCH_PG_CONF"
)


class ColumnstoreTestCase(StreetTestCase):
    """Days can be compressed; afterwards nothing is left in or of the columnstore."""

    def setUp(self) -> None:
        super().setUp()
        with connection.cursor() as cursor:
            if not engine_detect(cursor).columnstore:
                self.skipTest(NO_COLUMNSTORE)
        self.addCleanup(columnstore_forget)

    def compress(self) -> list[Chunk]:
        """Everything that is there now."""
        columnstore_edge.forget()
        with connect(name="test") as own, own.cursor() as cursor:
            columnstore_ensure(cursor, RECORDS, after=timedelta(days=3))
            return list(chunks_compress(cursor, RECORDS.table, before=datetime.now(UTC) + timedelta(days=9)))


def columnstore_forget() -> None:
    """The policy must not run between other tests."""
    columnstore_edge.forget()
    with connection.cursor() as cursor:
        cursor.execute("SELECT drop_chunks('streams_record', older_than => now() + interval '9 days')")
        cursor.execute("CALL remove_columnstore_policy('streams_record', if_exists => true)")
        cursor.execute("ALTER TABLE streams_record SET (timescaledb.enable_columnstore = false)")


def record_chunks() -> list[Chunk]:
    with connection.cursor() as cursor:
        return chunks(cursor, RECORDS.table)


def scalar(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]
