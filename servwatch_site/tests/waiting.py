"""Waiting for what other processes do: on the condition itself, with a deadline."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(
    condition: Callable[[], Found], *, timeout_s: float = 20.0, what: str = "the condition"
) -> Found:
    """The first true answer of `condition`. Fails with `what` when none comes in time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s} s")
        pause.wait(0.02)
