"""The embedded PostgreSQL: really started, killed and taken over."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from servwatch_site.embedded import postgres_binaries, processes
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.postgres import TemporaryPostgres, database_url, socket_dir
from servwatch_site.env import database_from_url
from servwatch_site.tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import sys
from pathlib import Path
from servwatch_site.embedded.postgres import TemporaryPostgres
with TemporaryPostgres(Path(sys.argv[1])) as postgres:
    print(postgres.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TemporaryPostgres]:
    """In a folder whose name needs quoting everywhere."""
    with TemporaryPostgres(tmp_path / 'it\'s a "place"') as running:
        yield running


def ask(url: str, query: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return str(row[0]) if row else ""


def test_it_brings_a_unicode_database_on_a_private_socket(server: TemporaryPostgres) -> None:
    assert ask(server.url, "SELECT current_database() || ' ' || current_user") == "servwatch servwatch"
    assert ask(server.url, "SHOW server_encoding") == "UTF8"
    assert ask(server.url, "SELECT lower('ÄÖ')") == "äö"
    assert ask(server.url, "SHOW listen_addresses") == ""
    assert ask(server.url, "SHOW timezone") == "UTC"
    sockets = Path(str(database_from_url(server.url)["HOST"])).resolve()
    assert sockets.stat().st_mode & 0o777 == 0o700


def test_it_keeps_committed_rows_when_the_server_is_killed(server: TemporaryPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.kill()
    server.start()
    assert ask(server.url, "SELECT answer FROM kept") == "42"


def test_it_stops_a_server_that_an_earlier_run_left_behind(server: TemporaryPostgres) -> None:
    left_behind = server.pid
    with TemporaryPostgres(server.path) as second:
        assert second.pid != left_behind
        assert not processes.is_running(left_behind)
        assert ask(second.url, "SELECT 1") == "1"


def test_it_starts_although_the_lock_names_a_stranger_that_lives(server: TemporaryPostgres) -> None:
    """As after a restart of a container, where process numbers begin again."""
    lock = server.path / "postgres" / "postmaster.pid"
    content = lock.read_text(encoding="utf-8")
    server.stop()
    lock.write_text(content.replace(content.splitlines()[0], str(os.getpid()), 1), encoding="utf-8")
    server.start()
    assert ask(server.url, "SELECT 1") == "1"


def test_it_starts_after_a_set_up_that_was_interrupted(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres.new"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n", encoding="utf-8")
    with TemporaryPostgres(tmp_path) as server:
        assert ask(server.url, "SELECT 1") == "1"
    assert not unfinished.exists()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        postmaster = int(owner.stdout.readline())
        assert processes.is_running(postmaster)
        owner.kill()
    wait_until(lambda: not processes.is_running(postmaster), what="the end of the orphaned server")


def test_it_reads_settings_of_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own settings.conf"
    own.write_text("work_mem = '7MB'\n", encoding="utf-8")
    monkeypatch.setenv("SERVWATCH_PG_CONF", str(own))
    with TemporaryPostgres(tmp_path / "data") as server:
        assert ask(server.url, "SHOW work_mem") == "7MB"


def test_it_says_when_the_settings_of_the_operator_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVWATCH_PG_CONF", str(tmp_path / "nowhere.conf"))
    with pytest.raises(EmbeddedError, match=r"SERVWATCH_PG_CONF names .*nowhere\.conf"):
        TemporaryPostgres(tmp_path / "data").start()


def test_its_command_line_runs_a_command_with_a_database() -> None:
    """No key is needed: what is stored goes away with the server."""
    script = "import os, sys; sys.exit(7 if os.environ['DATABASE_URL'].startswith('postgresql://') else 1)"
    argv = [
        sys.executable,
        "-m",
        "servwatch_site.embedded.postgres",
        "run",
        "--",
        sys.executable,
        "-c",
        script,
    ]
    assert subprocess.run(argv, cwd=ROOT, check=False).returncode == 7


def test_the_socket_lies_in_the_data_folder_where_its_path_is_short_enough() -> None:
    assert socket_dir(Path("/srv/servwatch/var")) == Path("/srv/servwatch/var/run")
    assert socket_dir(Path("var")) == Path.cwd() / "var" / "run"


@pytest.mark.parametrize("folder", ["/srv/" + "long/" * 20, "/srv/" + "長い/" * 12, "/srv/one,two"])
def test_the_socket_lies_in_tmp_where_the_path_would_not_do(folder: str) -> None:
    """Too many bytes, or a comma, which the client library takes for a list."""
    short = socket_dir(Path(folder))
    assert short.parent == Path("/tmp")
    assert short == socket_dir(Path(folder))
    assert short != socket_dir(Path(folder) / "other")


def test_the_address_survives_a_path_with_spaces() -> None:
    url = database_url(Path("/srv/my data/100%"))
    assert database_from_url(url)["HOST"] == "/srv/my data/100%/run"
    assert database_from_url(url)["USER"] == "servwatch"


def test_it_refuses_a_named_folder_without_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVWATCH_PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError, match="SERVWATCH_PG_BIN"):
        postgres_binaries.find()


def test_it_refuses_a_named_postgresql_that_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("postgres", "initdb"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n", encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("SERVWATCH_PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError, match="PostgreSQL 14; Servwatch needs 15"):
        postgres_binaries.find()


def test_it_does_not_open_data_of_another_major_version(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("11\n", encoding="utf-8")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 11"):
        TemporaryPostgres(tmp_path).start()


def test_a_second_signal_is_not_needed_to_stop_it(server: TemporaryPostgres) -> None:
    """An open session does not hold the fast stop up."""
    with psycopg.connect(server.url):
        pid = server.pid
        processes.send(pid, signal.SIGINT)
        wait_until(lambda: not processes.is_running(pid), what="the stop of the server")
