"""The whole of Servwatch for crash tests: the real supervisor over database, broker, listener, worker and web.

As `make run` starts them (but for the agent), so that what is killed comes back as it would there: by itself, after
half a second. On request all reach the database, and the listener the broker, through proxies of ours.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg

from bench.proxy import Proxy
from bench.stack import PREPARE, free_port, run_python
from servwatch_site.embedded import parts
from servwatch_site.embedded.console import Console
from servwatch_site.embedded.parts import Installation
from servwatch_site.embedded.postgres import NAME, PORT, Postgres
from servwatch_site.embedded.supervisor import BACKOFF_FIRST_S, Child, Supervisor
from servwatch_site.loop import StopFlag

START_PATIENCE_S = 120.0
NO_LIMIT = """
import django
django.setup()
from tokens.models import Account
from tokens.services import account_update
account_update(Account.objects.get(), api_per_second=0, connector_per_second=0)
"""
JOB = "streams.tasks.replay_wanted"  # cheap, and may run at any time


class NoSmallDisk(Exception):
    """No file system of a given size can be mounted here; says why."""


class SmallDisk:
    """A file system in memory of so many bytes. Raises NoSmallDisk."""

    def __init__(self, folder: Path, *, size_bytes: int) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "servwatch", str(folder)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise NoSmallDisk(f"no file system of a given size can be mounted here: {run.stderr.strip()}")

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def fill(self, *, leave_bytes: int) -> None:
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free_bytes - leave_bytes)

    def give_room(self) -> None:
        self._ballast.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


class _Supervisor(Supervisor):
    def forgive(self) -> None:
        """A part that was killed for the second time within half a minute is started as promptly as the first time."""
        for run in self._all():
            run.backoff_s = BACKOFF_FIRST_S


class Supervised:
    """`with Supervised() as stack:`; everything ends with the block.

    `proxied`: `proxies` stand before "postgres" (for listener, worker and web), "broker" (for the listener) and "web"
    (for devices). `disk_bytes`: the database's folder is on a file system of that size; raises NoSmallDisk.
    """

    def __init__(self, *, proxied: bool = False, disk_bytes: int = 0) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="servwatch-ledger-"))
        self.disk: SmallDisk | None = None
        self._proxied = proxied
        self._disk_bytes = disk_bytes
        self._ending = ExitStack()
        self.mqtt_port, self.http_port = free_port(), free_port()
        self.proxies: dict[str, Proxy] = {}
        self.account: dict[str, Any] = {}
        self._stop = StopFlag()
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        try:
            self._enter()
        except BaseException:
            self._ending.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    # --- processes ---

    def pids(self, name: str) -> list[int]:
        """The processes of a part, the one to be killed first; of the broker Mosquitto, of the database all."""
        parent = self._supervisor.pid_of(name)
        if parent is None:
            return []
        try:
            children = psutil.Process(parent).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        if name == "broker":
            return [child.pid for child in children]
        return [parent, *(child.pid for child in children)]

    def kill(self, names: Sequence[str]) -> None:
        """kill -9, all at once."""
        for pid in [self.pids(name)[0] for name in names]:
            os.kill(pid, signal.SIGKILL)

    def signal(self, name: str, number: signal.Signals) -> None:
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def ask_to_stop(self, name: str) -> None:
        """As an operator's restart does it: the part ends in its own time, and the supervisor starts it again."""
        pid = self._supervisor.pid_of(name)
        if pid is not None:
            os.kill(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)

    def forgive(self) -> None:
        """Let the supervisor start what dies next as promptly as the first time."""
        self._supervisor.forgive()

    def memory_mb(self, name: str) -> float:
        return float(psutil.Process(self.pids(name)[0]).memory_info().rss) / 1e6

    # --- what it says ---

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Straight to the database, past the proxies. Raises psycopg.Error while it is away."""
        with psycopg.connect(self.database_url, connect_timeout=5) as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.database_url, connect_timeout=5) as connection:
            connection.execute(sql)

    def broker_saved_at(self) -> float:
        """When Mosquitto last wrote down what it holds, in seconds since the epoch; 0 before the first time."""
        path = self.path / "broker" / "mosquitto.db"
        return path.stat().st_mtime if path.exists() else 0.0

    def log(self, name: str) -> str:
        path = self.path / "log" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def ask_worker(self) -> None:
        """Leave a job for the worker; `not_working` tells when it is done."""
        self.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            f" VALUES ('default', '{JOB}', '{{\"timestamp\": 0}}')"
        )

    def not_working(self) -> str:
        """Which part does not do its work yet, an empty text when all do. Raises psycopg.Error."""
        ((live,),) = self.query(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'servwatch-live'"
        )
        if not live:
            return "the web process does not listen for changes"
        ((waiting,),) = self.query(
            "SELECT count(*) FROM procrastinate_jobs WHERE task_name = %s AND status = 'todo'", [JOB]
        )
        return "the worker does not do its jobs" if waiting else ""

    # --- its life ---

    def _enter(self) -> None:
        self._ending.callback(shutil.rmtree, self.path, ignore_errors=True)
        folder = self.path / "database"
        if self._disk_bytes:
            self.disk = SmallDisk(folder, size_bytes=self._disk_bytes)
            self._ending.callback(self.disk.close)
        (self.path / "log").mkdir()
        # PostgreSQL has one port for its socket's name and TCP; an address of its own keeps installations apart.
        address = f"127.{os.getpid() >> 16 & 127}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        self._server = Postgres(folder, settings={"listen_addresses": address if self._proxied else ""})
        self.database_url = self._server.url
        if self._proxied:
            upstream = {"postgres": (address, PORT)}
            upstream |= {"broker": ("127.0.0.1", self.mqtt_port), "web": ("127.0.0.1", self.http_port)}
            for name, behind in upstream.items():
                self.proxies[name] = self._ending.enter_context(Proxy(behind))
        self._console = self._ending.enter_context((self.path / "log" / "supervisor.log").open("w"))
        self._supervisor = _Supervisor(self.path, Console(self._console), self._stop)
        thread = threading.Thread(target=self._supervise, name="supervisor")
        thread.start()
        self._ending.callback(self._end, thread)
        if not self._ready.wait(START_PATIENCE_S):
            raise RuntimeError("the processes do not start")
        if self._error is not None:
            raise self._error

    def _supervise(self) -> None:
        """In one thread that lives as long as the processes: they are bound to it."""
        try:
            self._start()
            self._ready.set()
            self._supervisor.watch()
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()
            self._supervisor.shut_down()

    def _end(self, thread: threading.Thread) -> None:
        for name in ("postgres", "broker", "listener"):
            self.signal(name, signal.SIGCONT)
        self._stop.set()
        thread.join()

    def _start(self) -> None:
        environment = self._environment()
        installation = Installation(
            data_dir=self.path,
            http_host="127.0.0.1",
            http_port=self.http_port,
            mqtt_host="127.0.0.1",
            mqtt_port=self.mqtt_port,
            own_database=True,
            own_broker=True,
        )
        self._supervisor.start_stage([self._database(installation)])
        run_python(environment, "manage.py", "migrate", "--verbosity", "0")
        run_python(environment, "manage.py", "collectstatic", "--verbosity", "0", "--no-input")
        self.account = json.loads(run_python(environment, "-c", PREPARE))
        run_python(environment, "-c", NO_LIMIT)
        self._supervisor.start_stage([replace(parts.broker(installation), environment=environment)])
        others = [parts.listener(), parts.worker(), parts.web(installation)]
        self._supervisor.start_stage(
            [replace(child, environment=self._proxies(environment)) for child in others]
        )

    def _database(self, installation: Installation) -> Child:
        def command() -> list[str]:
            self._server.prepare(say=lambda _sentence: None)
            return self._server.command()

        usual = parts.database(installation, say=lambda _sentence: None)
        return replace(usual, command=command, is_ready=self._server.is_ready)

    @property
    def device_http_port(self) -> int:
        """Where devices reach the HTTP connector."""
        return self.proxies["web"].port if self.proxies else self.http_port

    def _environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name != "MQTT_URL"},
            "DJANGO_SETTINGS_MODULE": "servwatch_site.settings",
            "DATABASE_URL": self.database_url,
            "SERVWATCH_MQTT_PORT": str(self.mqtt_port),
            "SERVWATCH_HTTP_PORT": str(self.http_port),
            "SERVWATCH_DATA_DIR": str(self.path),
            "SERVWATCH_SECRET_KEY": "secret-key-of-a-throw-away-installation-1",
        }

    def _proxies(self, environment: dict[str, str]) -> dict[str, str]:
        if not self.proxies:
            return environment
        return {
            **environment,
            "DATABASE_URL": f"postgresql://{NAME}@127.0.0.1:{self.proxies['postgres'].port}/{NAME}",
            "SERVWATCH_MQTT_PORT": str(self.proxies["broker"].port),
        }
