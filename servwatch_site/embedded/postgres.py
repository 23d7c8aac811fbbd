"""The embedded PostgreSQL server: made once, started in the foreground, taken over after a crash.

Importing this module costs next to nothing; the settings do it for `socket_dir` and `database_url`.
"""

import argparse
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from servwatch_site.embedded import postgres_binaries, postgres_user, processes
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.postgres_binaries import Binaries
from servwatch_site.embedded.postgres_user import ServerUser, Way

NAME = "servwatch"  # of the database and of its owner
PORT = 5432  # part of the socket's file name, nothing listens on it
SOCKET_DIR_MAX_BYTES = 90  # an address of a Unix socket holds 107 bytes, the file name takes 14
NOBODYS_HOME = Path("/var/lib/servwatch")
FAST_STOP_S = 60.0
ORPHANS_END_S = 30.0

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "random_page_cost": "1.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    "timescaledb.telemetry_level": "off",
}
# A test's server need not survive the machine, only its own kill -9.
TEMPORARY_SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


def socket_dir(data_dir: Path) -> Path:
    """Where the server of this data folder has its socket.

    It depends on the folder and the user alone, so that any process finds the same answer, whatever its
    environment: $XDG_RUNTIME_DIR is set in one shell and missing in the next.
    """
    inside = Path(os.path.abspath(data_dir)) / "run"
    if len(os.fsencode(inside)) <= SOCKET_DIR_MAX_BYTES and "," not in str(inside):  # libpq: a list of hosts
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    return Path(f"/tmp/servwatch-{os.getuid()}-{digest}")  # noqa: S108 - made 0700, its owner is checked


def database_url(data_dir: Path) -> str:
    return f"postgresql:///{NAME}?host={quote(str(socket_dir(data_dir)), safe='/')}&user={NAME}"


class Postgres:
    """The server that keeps its files in `<data_dir>/postgres`."""

    def __init__(
        self, data_dir: Path, *, settings: Mapping[str, str] | None = None, durable: bool = True
    ) -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        self.url = database_url(self.data_dir)
        self._settings = {**SETTINGS, **(settings or {})}
        self._durable = durable
        self._link = self.data_dir / "postgres"
        self._binaries: Binaries | None = None
        self._user: ServerUser | None = None

    @property
    def cluster(self) -> Path:
        """The real folder of the server's files; the user nobody has it elsewhere, behind a link."""
        return self._link.resolve()

    @property
    def sockets(self) -> Path:
        return socket_dir(self.data_dir).resolve()

    @property
    def binaries(self) -> Binaries:
        if self._binaries is None:
            self._binaries = postgres_binaries.find(major=self._existing_major())
        return self._binaries

    @property
    def user(self) -> ServerUser:
        if self._user is None:
            self._user = self._choose_user()
        return self._user

    def _choose_user(self) -> ServerUser:
        """As root without user namespaces the programs may lie where nobody cannot go, such as /root."""
        files_are_nobodys = self._link.is_symlink()
        program = self.binaries.path("postgres")
        try:
            return postgres_user.choose(
                folder=self.data_dir, program=program, files_are_nobodys=files_are_nobodys
            )
        except EmbeddedError:
            if os.geteuid() != 0:
                raise
            copied = postgres_binaries.within_reach(self.binaries, home=_nobodys_home())
            if copied is None:
                raise
            program = copied.path("postgres")
            user = postgres_user.choose(
                folder=self.data_dir, program=program, files_are_nobodys=files_are_nobodys
            )
            self._binaries = copied
            return user

    def prepare(self, *, say: Callable[[str], None]) -> None:
        """Make what is missing and end what an earlier run left behind; then `command` can be started."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._place_folders(say=say)
        if self._existing_major() is None:
            self._create()
        else:
            end_leftover(self.cluster, sockets=self.sockets, say=say)
        self._write_settings()

    def command(self, *, death_signal: signal.Signals = signal.SIGINT) -> list[str]:
        """The server in the foreground. SIGINT is its fast stop: sessions are cut, nothing needs recovery."""
        quoted = str(self.sockets).replace('"', '""')
        argv = [
            self.binaries.path("postgres"),
            "-D",
            str(self.cluster),
            "-c",
            f'unix_socket_directories="{quoted}"',
        ]
        return self.user.wrap(argv, death_signal=death_signal)

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this process number takes connections; after a crash it recovers first."""
        lines = _read_lines(self.cluster / "postmaster.pid")
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _existing_major(self) -> int | None:
        lines = _read_lines(self._link / "PG_VERSION")
        return int(lines[0]) if lines else None

    def _place_folders(self, *, say: Callable[[str], None]) -> None:
        link = socket_dir(self.data_dir)
        if self.user.way is not Way.NOBODY:
            _make_private(link)
            return
        if self._link.is_dir() and not self._link.is_symlink():
            raise EmbeddedError(
                f"The database in {self._link} was made by root in a user namespace, which this system does not "
                "allow any more. Allow it again, or start Servwatch as an ordinary user on a folder of its own."
            )
        if not self._link.is_symlink():
            home = Path(tempfile.mkdtemp(dir=_nobodys_home(), prefix="data-"))
            (home / "run").mkdir(mode=0o700)
            os.chown(home, postgres_user.NOBODY, postgres_user.NOBODY)
            os.chown(home / "run", postgres_user.NOBODY, postgres_user.NOBODY)
            self._link.symlink_to(home / "postgres")
        _relink(link, target=self.cluster.parent / "run")
        say(f"PostgreSQL refuses to run as root; it runs as nobody and keeps its files in {self.cluster}.")

    def _create(self) -> None:
        """Under another name first: an interrupted run leaves nothing that looks like a database."""
        unfinished = self.cluster.with_name("postgres.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        self._initialise(unfinished)
        with (unfinished / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write("\ninclude_if_exists = 'servwatch.conf'  # written anew at every start\n")
        self._create_database(unfinished)
        unfinished.rename(self.cluster)

    def _initialise(self, folder: Path) -> None:
        common = [self.binaries.path("initdb"), "-D", str(folder), "-U", NAME, "-A", "trust", "-E", "UTF8"]
        if not self._durable:
            common.append("--no-sync")
        for locale in _locales(self.binaries.major):
            answer = self._run([*common, *locale])
            if answer.returncode == 0:
                return
        raise EmbeddedError(f"The database could not be made in {folder}: {_last_line(answer.stderr)}")

    def _create_database(self, folder: Path) -> None:
        """In single-user mode: it needs neither a client nor a running server."""
        argv = [self.binaries.path("postgres"), "--single", "-D", str(folder)]
        if not self._durable:
            argv.append("-F")
        answer = self._run([*argv, "template1"], stdin=f"CREATE DATABASE {NAME}\n")
        if answer.returncode != 0:
            raise EmbeddedError(f"The database could not be made in {folder}: {_last_line(answer.stderr)}")

    def _write_settings(self) -> None:
        lines = [f"{name} = {_quoted(value)}" for name, value in self._settings.items()]
        extra = os.environ.get("SERVWATCH_PG_CONF")
        if extra:
            path = Path(extra).expanduser().resolve()
            if not path.is_file():
                raise EmbeddedError(f"SERVWATCH_PG_CONF names {path}, which is not a file.")
            lines.append(f"include = {_quoted(str(path))}")
        path = self.cluster / "servwatch.conf"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o600)
        if self.user.way is Way.NOBODY:
            os.chown(path, postgres_user.NOBODY, postgres_user.NOBODY)

    def _run(self, argv: list[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = self.user.wrap(argv, death_signal=signal.SIGTERM)
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, cwd=self.cluster.parent
        )


class TemporaryPostgres:
    """A server of its own for tests: `with TemporaryPostgres() as postgres: connect(postgres.url)`.

    It ends with the `with` block, and also when this process is killed. A folder that is given is kept.
    """

    def __init__(self, path: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        self._made = path is None
        self.path = path or Path(tempfile.mkdtemp(prefix="servwatch-"))
        merged = {**TEMPORARY_SETTINGS, **(settings or {})}
        self._server = Postgres(self.path, settings=merged, durable=False)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self._server.url

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedError("The temporary database server is not running.")
        return self._process.pid

    def start(self) -> None:
        self._server.prepare(say=lambda _sentence: None)
        with (self.path / "postgres.log").open("ab") as log:
            command = self._server.command(death_signal=signal.SIGQUIT)
            self._process = processes.spawn(command, output=log, cwd=self._server.cluster)
        while not self._server.is_ready(self._process.pid):
            if self._process.poll() is not None:
                last = _last_line((self.path / "postgres.log").read_text(encoding="utf-8", errors="replace"))
                raise EmbeddedError(f"The temporary database server ended at once: {last}")
            time.sleep(processes.POLL_S)

    def stop(self) -> None:
        """The fast stop; a server that does not answer to it within half a minute is ended hard."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """As after a crash: kill -9 for the server; its helpers end by themselves."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        self.stop()
        sockets = socket_dir(self.path)
        if not sockets.is_relative_to(self.path):
            shutil.rmtree(self._server.sockets, ignore_errors=True)
        if self._made:
            if self._server.cluster.parent != self.path.resolve():
                shutil.rmtree(self._server.cluster.parent, ignore_errors=True)
            shutil.rmtree(self.path, ignore_errors=True)


def end_leftover(cluster: Path, *, sockets: Path, say: Callable[[str], None]) -> None:
    """Stop a server that an earlier run left behind on these files, and clear away what a dead one left.

    The server's own lock file holds a process number only; after a restart of the machine or a container
    that number may belong to anybody, and the server would then refuse to start.
    """
    if not Path("/proc/self").exists():  # without it a server cannot be recognised; its own lock remains
        return
    lines = _read_lines(cluster / "postmaster.pid")
    postmaster = int(lines[0]) if lines and lines[0].isdigit() else 0
    if postmaster in _servers(cluster):
        say("Stopping the database server that an earlier run left behind.")
        _stop(postmaster)
    _wait_for_orphans(cluster)
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (sockets / name).unlink(missing_ok=True)


def _servers(cluster: Path) -> list[int]:
    return list(processes.pids_working_in(cluster, program="postgres"))


def _stop(postmaster: int) -> None:
    mark = processes.start_mark(postmaster)
    for stop_signal in (signal.SIGINT, signal.SIGQUIT):
        processes.send(postmaster, stop_signal)
        if processes.wait_gone(postmaster, mark=mark, timeout_s=FAST_STOP_S):
            return
    raise EmbeddedError(
        f"The database server of an earlier run (process {postmaster}) does not stop. End it with "
        f"`kill -9 {postmaster}` and start again."
    )


def _wait_for_orphans(cluster: Path) -> None:
    """Helpers of a killed server end by themselves; starting beside one would damage the files."""
    deadline = time.monotonic() + ORPHANS_END_S
    while servers := _servers(cluster):
        if time.monotonic() > deadline:
            numbers = " ".join(map(str, servers))
            raise EmbeddedError(
                f"Processes of an earlier database server still hold {cluster}: {numbers}. End them with "
                f"`kill -9 {numbers}` and start again."
            )
        time.sleep(processes.POLL_S)


def _nobodys_home() -> Path:
    """Where nobody can get at files; open to be passed through, whatever this process's umask is."""
    NOBODYS_HOME.mkdir(parents=True, exist_ok=True)
    NOBODYS_HOME.chmod(0o755)
    return NOBODYS_HOME


def _locales(major: int) -> list[list[str]]:
    """Unicode order and letter cases that do not change with the operating system come first."""
    system = [["--locale=C.UTF-8"], ["--locale=C"]]
    if major < 17:
        return system
    return [["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"], *system]


def _make_private(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise EmbeddedError(
            f"{folder} belongs to somebody else. Remove it, or choose another SERVWATCH_DATA_DIR."
        )
    folder.chmod(0o700)


def _relink(link: Path, *, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(target)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m servwatch_site.embedded.postgres")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run a command with DATABASE_URL set to a temporary server")
    run.add_argument("command", nargs="+", metavar="COMMAND")
    arguments = parser.parse_args()
    try:
        with TemporaryPostgres() as postgres:
            throw_away = {"SERVWATCH_SECRET_KEY": secrets.token_urlsafe(48)}
            environment = {**throw_away, **os.environ, "DATABASE_URL": postgres.url}
            return subprocess.run(arguments.command, env=environment, check=False).returncode
    except EmbeddedError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(_main())
