"""The floor under every long-running command: a flag that SIGTERM and SIGINT set."""

import gc
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SLICE_S = 0.25
COLLECT_AFTER = 50_000  # new objects


def collect_less() -> None:
    """Look for garbage in cycles less often, and never among what start-up made.

    Python looks after every 700 new objects. A batch of messages is tens of thousands, none of them in a cycle:
    looking cost the listener four tenths of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 100)


class StopFlag:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once.

    stop = StopFlag().install()
    while not stop.is_set():
        if not step():
            stop.wait(1.0)

    It is a plain variable on purpose: a handler runs inside the main thread, and the lock of a
    `threading.Event` that this thread holds at that moment would never be released.
    """

    def __init__(self, *, on_stop: Callable[[], None] | None = None) -> None:
        self._is_set = False
        self._on_stop = on_stop

    def install(self) -> Self:
        """Take over the two signals; only the main thread may."""
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, self._receive)
        return self

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the flag is set or the time is over; answers whether it is set.

        An interrupted sleep goes on after the handler, so it is cut in slices.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_set and (remaining_s := deadline - time.monotonic()) > 0:
            time.sleep(min(remaining_s, SLICE_S))
        return self._is_set

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._is_set:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        self._is_set = True
        if self._on_stop is not None:
            self._on_stop()
