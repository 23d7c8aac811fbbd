"""The log file of one child, and what of it reaches the console."""

import os
import re
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

from servwatch_site.embedded.console import Console

LINE_MAX_BYTES = 64 * 1024
FILE_MAX_BYTES = 10 * 1024 * 1024
KEPT_FILES = 3
ALARMING = re.compile(r"\b(WARNING|ERROR|CRITICAL|FATAL|PANIC)\b|^Traceback")
BURST_LINES = 20
BURST_S = 10.0
KEPT_LINES = 30


class ChildLog:
    """Reads a child's output in a thread of its own, so that the child never waits for a full pipe."""

    def __init__(
        self, path: Path, *, name: str, console: Console, alarming: re.Pattern[str] = ALARMING
    ) -> None:
        self._path = path
        self._name = name
        self._console = console
        self._alarming = alarming
        self._shown_at: deque[float] = deque(maxlen=BURST_LINES)
        self._in_traceback = False
        self._muted = False
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)
        self._ready = threading.Event()
        self._ready_line: re.Pattern[str] | None = None

    @property
    def saw_ready_line(self) -> bool:
        return self._ready.is_set()

    def follow(self, pipe: IO[bytes], *, ready_line: re.Pattern[str] | None) -> threading.Thread:
        """Copy everything until the other end closes; a line like `ready_line` is remembered."""
        self._ready.clear()
        self._ready_line = ready_line
        self.recent.clear()
        thread = threading.Thread(target=self._copy, args=(pipe,), name=f"log of {self._name}", daemon=True)
        thread.start()
        return thread

    def _copy(self, pipe: IO[bytes]) -> None:
        file: IO[bytes] | None = None
        with pipe:
            while raw := pipe.readline(LINE_MAX_BYTES):
                file = self._keep(file, raw)
                self._look_at(raw.decode("utf-8", errors="replace").rstrip())
        if file is not None:
            file.close()

    def _keep(self, file: IO[bytes] | None, raw: bytes) -> IO[bytes] | None:
        """Into the file; returns where the next line goes. On a full disk the line is lost, and the child goes on."""
        try:
            file = file or self._open()
            file.write(raw)
            if file.tell() > FILE_MAX_BYTES:
                file.close()
                file = None
                self._rotate()
        except OSError:
            pass
        return file

    def _open(self) -> IO[bytes]:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "ab", buffering=0)

    def _rotate(self) -> None:
        for number in range(KEPT_FILES - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.rename(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.rename(self._path.with_name(f"{self._path.name}.1"))

    def _look_at(self, line: str) -> None:
        self.recent.append(line)
        if self._ready_line is not None and self._ready_line.search(line):
            self._ready.set()
        if self._is_alarming(line):
            self._show(line)

    def _is_alarming(self, line: str) -> bool:
        """Of a traceback only the last line, which names the error: the rest is in the file."""
        if line.startswith("Traceback"):
            self._in_traceback = True
            return False
        if self._in_traceback and line.startswith((" ", "\t")):
            return False
        if self._in_traceback and line:
            self._in_traceback = False
            return True
        return self._alarming.search(line) is not None

    def _show(self, line: str) -> None:
        now = time.monotonic()
        burst = len(self._shown_at) == BURST_LINES and now - self._shown_at[0] < BURST_S
        if not burst:
            self._shown_at.append(now)
            self._console.line(self._name, line)
        elif not self._muted:
            self._console.line(self._name, f"... many more, see {self._path}")
        self._muted = burst
