"""Latency: from sending a report until a reader sees it, measured beside the load in a process of its own."""

import multiprocessing
import queue
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import psutil

INTERVAL_S = 0.1
LOOK_EVERY_S = 0.01  # how finely latencies are told
PATIENCE_S = 10.0


class Probe(Protocol):
    """A device of its own. It goes to another process before `open`, so until then it holds plain values."""

    def open(self) -> None: ...

    def send(self, number: int) -> None: ...

    def newest(self) -> int:
        """The highest number that a reader sees, 0 for none."""


@dataclass(frozen=True)
class Latencies:
    """Of the reports that were seen, in seconds; `unseen` did not come within ten seconds of the end."""

    seconds: tuple[float, ...] = ()
    unseen: int = 0

    def percentile(self, share: float) -> float:
        """NaN when nothing was measured."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def __str__(self) -> str:
        unseen = f", {self.unseen} never seen" if self.unseen else ""
        return f"{self.percentile(0.5) * 1000:.0f} / {self.percentile(0.99) * 1000:.0f} ms{unseen}"


class Probing:
    """`with Probing(probe) as probing: ...`, then `probing.found`. The first reports are sent at once."""

    def __init__(self, probe: Probe) -> None:
        context = multiprocessing.get_context("spawn")
        self._over = context.Event()
        self._ready = context.Event()
        self._answers: multiprocessing.Queue[Latencies] = context.Queue()
        self._process = context.Process(
            target=_measure, args=(probe, self._ready, self._over, self._answers), daemon=True
        )
        self.found = Latencies()

    def __enter__(self) -> Self:
        self._process.start()
        if not self._ready.wait(30):
            raise RuntimeError("the probe does not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        try:
            self.found = self._answers.get(timeout=PATIENCE_S + 20)
        except queue.Empty:
            self._process.kill()
            if error is None:
                raise RuntimeError("the probe failed") from None
        self._process.join()

    @property
    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._process.pid)]


def _measure(
    probe: Probe,
    ready: "multiprocessing.synchronize.Event",
    over: "multiprocessing.synchronize.Event",
    answers: "multiprocessing.Queue[Latencies]",
) -> None:
    probe.open()
    ready.set()
    answers.put(_follow(probe, over))


def _follow(probe: Probe, over: "multiprocessing.synchronize.Event") -> Latencies:
    number = first = int(time.time() * 100)  # grows from one probe of a device to the next
    waiting: dict[int, float] = {}
    taken: list[float] = []
    due = time.monotonic()
    ends = float("inf")
    while time.monotonic() < ends:
        now = time.monotonic()
        if over.is_set() and ends == float("inf"):
            ends = now + PATIENCE_S
        if now >= due and not over.is_set():
            number += 1
            waiting[number] = now
            probe.send(number)
            due += INTERVAL_S
        newest = probe.newest()
        seen = time.monotonic()
        for held in [held for held in waiting if first < held <= newest]:
            taken.append(seen - waiting.pop(held))
        if over.is_set() and not waiting:
            break
        time.sleep(LOOK_EVERY_S)
    return Latencies(tuple(taken), len(waiting))
