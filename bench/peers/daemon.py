"""A peer's programs: where they are, and one of them as a process of ours."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from servwatch_site.embedded import processes

SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin")
READY_S = 90.0
STOP_S = 30.0


class PeerMissing(Exception):
    """A peer is not on this machine; the sentence says how to get it."""


def debian_program(program: str, *, package: str) -> str:
    """The program's path. Nothing is installed from here: raises PeerMissing."""
    folders = [os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS]
    found = shutil.which(program, path=os.pathsep.join(folders))
    if found is None:
        raise PeerMissing(
            f"{program} is not here. Debian has it: apt-get install --no-install-recommends {package}"
        )
    return found


class Daemon:
    """A program in a session of its own that ends with this process. Children are its own: a kill takes them along."""

    def __init__(
        self, name: str, argv: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._argv = list(argv)
        self._folder = folder
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once. Call it from a thread that lives on: the program ends with the thread that started it."""
        with self.log.open("ab") as log:
            self._process = processes.spawn(
                processes.guarded(self._argv, death_signal=signal.SIGTERM),
                env=self._environment,
                cwd=self._folder,
                output=log,
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Raises RuntimeError with the end of the program's log when it does not become ready."""
        deadline = time.monotonic() + READY_S
        while not ready():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start:\n{self.log_text()[-2000:]}")
            time.sleep(0.05)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """kill -9 for the program and all its children."""
        if self._process is not None:
            _kill_group(self._process)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            _kill_group(self._process)
        self._process = None

    def processes(self) -> list[psutil.Process]:
        """The program and its children, none while it is down."""
        if self._process is None or self._process.poll() is not None:
            return []
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """The session's group has the number of its first process, which is not waited for until here."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
