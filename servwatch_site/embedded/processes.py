"""Processes of the operating system: start them so that they end with us, recognise them later, end them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.02


def guarded(argv: Sequence[str], *, death_signal: signal.Signals) -> list[str]:
    """The command that becomes `argv` and receives `death_signal` as soon as this process is gone."""
    return [sys.executable, "-I", "-S", str(GUARD), str(int(death_signal)), str(os.getpid()), *argv]


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that a Ctrl-C in the terminal does not reach it.

    Call it from a thread that lives on: the death signal is sent when the *thread* that started the
    process ends.
    """
    return subprocess.Popen(
        list(argv),
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
    )


def start_mark(pid: int) -> str | None:
    """What tells this process from a later one with the same number; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return None
    return f"{_boot_id()}:{fields[19]}"


def is_running(pid: int) -> bool:
    return start_mark(pid) is not None


def pids_working_in(directory: Path, *, program: str) -> Iterator[int]:
    """Processes of this program whose working directory is this one, whatever name they show."""
    real = os.path.realpath(directory)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") != real:
                continue
            executable = os.path.basename(os.readlink(entry / "exe")).removesuffix(" (deleted)")
        except OSError:
            continue
        if executable == program:
            yield int(entry.name)


def command_line(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(part) for part in raw.split(b"\0") if part]


def send(pid: int, sig: signal.Signals) -> None:
    """Signal a process that may just have ended."""
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        return


def wait_gone(pid: int, *, mark: str | None, timeout_s: float) -> bool:
    """Wait for a process that need not be our child."""
    deadline = time.monotonic() + timeout_s
    while start_mark(pid) == mark and mark is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "-"
