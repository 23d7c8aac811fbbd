"""What a killed run left running, remembered on disk and ended before the next one starts."""

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from servwatch_site.embedded import processes

GRACE_S = 10.0


class Entry(TypedDict):
    pid: int
    mark: str | None
    stop_signal: int


class Leftovers:
    """The processes of one owner, in one file. A process is known by number *and* time of start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}

    def remember(self, name: str, *, pid: int, stop_signal: signal.Signals) -> None:
        mark = processes.start_mark(pid)
        self._entries[name] = {"pid": pid, "mark": mark, "stop_signal": int(stop_signal)}
        self._write()

    def forget(self, name: str) -> None:
        if self._entries.pop(name, None) is not None:
            self._write()

    def end_all(self, *, say: Callable[[str], None]) -> None:
        """Stop what still runs, all at once, and kill what does not go."""
        running = {name: entry for name, entry in self._read().items() if _runs(entry)}
        if running:
            say(f"Ending what an earlier run left behind: {', '.join(running)}.")
        for entry in running.values():
            processes.send(entry["pid"], signal.Signals(entry["stop_signal"]))
        deadline = time.monotonic() + GRACE_S
        for entry in running.values():
            remaining_s = max(0.0, deadline - time.monotonic())
            if not processes.wait_gone(entry["pid"], mark=entry["mark"], timeout_s=remaining_s):
                processes.send(entry["pid"], signal.SIGKILL)
                processes.wait_gone(entry["pid"], mark=entry["mark"], timeout_s=GRACE_S)
        self._entries = {}
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Entry]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        """As far as there is room: a full disk must not end what it cannot be written down on."""
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(self._entries), encoding="utf-8")
            draft.chmod(0o600)
            draft.rename(self._path)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            draft.unlink(missing_ok=True)


def _runs(entry: Entry) -> bool:
    return entry["mark"] is not None and processes.start_mark(entry["pid"]) == entry["mark"]
