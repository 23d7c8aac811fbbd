"""What `make run` says: calm sentences, and the alarming lines of its children under their names."""

import os
import sys
import threading
from typing import TextIO

COLOURS = (36, 35, 34, 33, 32, 96, 95)
NAME_WIDTH = 8


class Console:
    """Safe to use from several threads; goes silent when nobody reads any more."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._lock = threading.Lock()
        self._colourful = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._colours: dict[str, int] = {}
        self._broken = False

    def say(self, text: str) -> None:
        self._write(f"{text}\n")

    def line(self, name: str, text: str) -> None:
        """One line of a child."""
        self._write(f"{self._prefix(name)} {text}\n")

    def _prefix(self, name: str) -> str:
        padded = f"{name:>{NAME_WIDTH}} |"
        if not self._colourful:
            return padded
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        return f"\033[{colour}m{padded}\033[0m"

    def _write(self, text: str) -> None:
        with self._lock:
            if self._broken:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # the reader of a pipe went away, or the terminal was closed
                self._broken = True
