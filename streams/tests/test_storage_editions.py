"""One database under changing servers: without the extension's library, and under the other licence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from servwatch_site.embedded.postgres import TemporaryPostgres
from streams.hypertable import chunks, chunks_compress, columnstore_ensure
from streams.storage import (
    HypertableUnloaded,
    Kind,
    TimeSeries,
    engine_detect,
    hypertable_statements,
    storage_kind,
)
from streams.upkeep import columnstore_after

SERIES = TimeSeries("measured", key=("device_key", "at"), segment_by="device_key", order_by="at")
CONF = os.environ.get("SERVWATCH_PG_CONF", "")

pytestmark = pytest.mark.skipif(
    not CONF or "timescaledb" not in Path(CONF).read_text(encoding="utf-8"),
    reason="needs a server that can be restarted with TimescaleDB and without: set SERVWATCH_PG_CONF",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TemporaryPostgres]:
    """With a hypertable that has rows of one old day."""
    with TemporaryPostgres(tmp_path / "data") as running:
        with psycopg.connect(running.url, autocommit=True) as own:
            own.execute("CREATE EXTENSION timescaledb")
            own.execute(
                "CREATE TABLE measured (device_key bigint, at timestamptz, value int, PRIMARY KEY (device_key, at))"
            )
            for statement in hypertable_statements("measured", piece_days=1):
                own.execute(statement)
            own.execute("INSERT INTO measured SELECT n, '2026-01-01', 0 FROM generate_series(1, 9) AS n")
        yield running


@contextmanager
def restarted(
    server: TemporaryPostgres, conf: Path, *lines: str
) -> Iterator[psycopg.Cursor[tuple[object, ...]]]:
    """A cursor after the server was started again with this file of settings."""
    conf.write_text("\n".join(lines) + "\n", encoding="utf-8")
    server.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVWATCH_PG_CONF", str(conf))
        server.start()
    with psycopg.connect(server.url, autocommit=True) as own, own.cursor() as cursor:
        yield cursor


def test_nothing_is_written_to_a_hypertable_without_its_extension(
    server: TemporaryPostgres, tmp_path: Path
) -> None:
    with restarted(server, tmp_path / "without.conf", "") as cursor, pytest.raises(HypertableUnloaded):
        storage_kind(cursor, table="measured")
    with restarted(server, tmp_path / "with.conf", f"include '{CONF}'") as cursor:
        assert storage_kind(cursor, table="measured") is Kind.HYPERTABLE


def test_compressed_days_are_known_under_a_licence_that_cannot_read_them(
    server: TemporaryPostgres, tmp_path: Path
) -> None:
    with psycopg.connect(server.url, autocommit=True) as own, own.cursor() as cursor:
        if not engine_detect(cursor).columnstore:
            pytest.skip("needs TimescaleDB under its full licence")
        columnstore_ensure(cursor, SERIES, after=columnstore_after())
        assert list(chunks_compress(cursor, "measured", before=chunks(cursor, "measured")[0].high))
    apache = f"include '{CONF}'", "timescaledb.license = 'apache'"
    with restarted(server, tmp_path / "apache.conf", *apache) as cursor:
        assert not engine_detect(cursor).columnstore
        assert [chunk.compressed for chunk in chunks(cursor, "measured")] == [True]
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            cursor.execute("SELECT count(*) FROM measured")
    with restarted(server, tmp_path / "full.conf", f"include '{CONF}'") as cursor:
        cursor.execute("SELECT count(*) FROM measured")
        assert cursor.fetchone() == (9,)
