"""The highest rate a platform sustains: no backlog that grows, everything stored, for a whole window."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Self

import psutil

from bench.peers import data
from bench.peers.probe import Latencies, Probing
from bench.peers.target import Platform
from bench.steady import Cost, cost_of

STEP = 1.15  # from a rate that held to the next
BACK = 0.95  # of what was stored while a rate did not hold
SHORT = 6  # a window to look for the rate is so much shorter than the one that counts
SHORTEST_S = 5
MOST_STEPS = 4
MOST_LONG_WINDOWS = 6
CAUGHT_UP = 200  # reports; a quick count is some dozens off
QUIET_S = 3.0  # without another report stored: no more will come
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Group:
    """A group of processes during a window: cores used, and memory at its end."""

    cores: float
    memory_mb: float


@dataclass(frozen=True)
class Window:
    """One load at a fixed rate. `backlogs` are acknowledged but not stored, once a second."""

    rate: int
    seconds: int
    took_s: float
    acknowledged: int
    stored: int
    backlogs: tuple[int, ...]
    drained_s: float
    groups: dict[str, Group]
    latencies: Latencies

    @property
    def held(self) -> bool:
        """Sent in time, stored in full, and not falling behind.

        In the last five seconds never more than a second's reports behind, and in the middle not more than half a
        second's further than in the beginning.
        """
        head, tail = self.backlogs[1:6], self.backlogs[-5:]
        if not tail or self.lost or self.took_s > self.seconds * 1.01 + 0.5:
            return False
        return max(tail) <= self.rate and median(tail) <= median(head) + self.rate / 2

    @property
    def stored_rate(self) -> float:
        """Reports a second that were stored, from the beginning until nothing was left to be stored."""
        return max(1, self.stored) / (self.took_s + self.drained_s)

    @property
    def lost(self) -> int:
        return self.acknowledged - self.stored

    def __str__(self) -> str:
        cores = "  ".join(f"{name} {group.cores:.2f}" for name, group in self.groups.items())
        return (
            f"{self.rate}/s for {self.seconds} s: {'held' if self.held else 'did not hold'}; took {self.took_s:.1f} s, "
            f"acknowledged {self.acknowledged}, stored {self.stored}, backlog at the end {self.backlogs[-1:]}, drained "
            f"in {self.drained_s:.1f} s, latency {self.latencies}; cores: {cores}"
        )


@dataclass(frozen=True)
class Sustained:
    """The highest rate that held its whole window, and the lowest that did not; None where there was none."""

    held: Window | None
    broke: Window | None


def search(run: Callable[[int, int], Window], *, start: int, seconds: int) -> Sustained:
    """Short windows from `start` upwards, then the best rate for the whole window; `run(rate, seconds)`."""
    rate, broke = _climb(run, start=start, seconds=max(SHORTEST_S, seconds // SHORT))
    for _ in range(MOST_LONG_WINDOWS):
        window = run(rate, seconds)
        if window.held:
            return Sustained(window, broke)
        broke = window
        rate = _lower(window)
    return Sustained(None, broke)


def _climb(run: Callable[[int, int], Window], *, start: int, seconds: int) -> tuple[int, Window | None]:
    """The highest rate that held, or one that may, and the lowest that did not."""
    rate, best, broke = start, 0, None
    for _ in range(MOST_STEPS):
        window = run(rate, seconds)
        if window.held:
            best = rate
            if broke is not None:
                break
            rate = round(rate * STEP)
        else:
            broke = window
            rate = _lower(window)
            if rate <= best:
                break
    return best or rate, broke


def _lower(window: Window) -> int:
    """What was stored while a rate did not hold, and a little less."""
    return round(min(window.rate, window.stored_rate) * BACK)


class Bench:
    """Loads a platform, window after window. After one that did not hold it is started anew: overload may last.

    Numbers go on from window to window, so that nothing is stored twice.
    """

    def __init__(self, make: Callable[[], Platform], *, say: Callable[[object], None]) -> None:
        self._make = make
        self._say = say
        self._running = ExitStack()
        self._platform: Platform | None = None
        self._first = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def run(self, rate: int, seconds: int) -> Window:
        platform = self._platform or self._start()
        window = self._load(platform, rate, seconds)
        self._say(f"{platform.name}: {window}")
        if not window.held:
            self._running.close()
            self._platform = None
        return window

    def _start(self) -> Platform:
        """With every device known: no window has to register them."""
        self._first = 0
        self._platform = platform = self._running.enter_context(self._make())
        self._load(platform, data.DEVICES, 2)
        return platform

    def _load(self, platform: Platform, rate: int, seconds: int) -> Window:
        count = rate * seconds
        generator = platform.generator(self._first)
        self._first += count
        done_before, stored_before = platform.progress(), platform.stored()
        backlogs: list[int] = []

        def each_second(_elapsed_s: float) -> None:
            backlogs.append(len(generator.log.acknowledged) - (platform.progress() - done_before))

        with Probing(platform.probe()) as probing:
            before = _costs(platform, probing)
            took_s = generator.run(rate=rate, count=count, each_second=each_second)
            after = _costs(platform, probing)
            acknowledged = len(generator.log.acknowledged)
            drained_s = _drain(lambda: acknowledged - (platform.progress() - done_before))
        generator.close()
        stored = _stored(platform, stored_before + acknowledged) - stored_before
        groups = {
            name: Group((cost.cpu_s - before[name].cpu_s) / took_s, cost.memory_mb)
            for name, cost in after.items()
        }
        return Window(
            rate, seconds, took_s, acknowledged, stored, tuple(backlogs), drained_s, groups, probing.found
        )


def _costs(platform: Platform, probing: Probing) -> dict[str, Cost]:
    groups = {**platform.processes(), "generator": [psutil.Process()], "probe": probing.processes}
    return {name: cost_of(processes) for name, processes in groups.items()}


def _stored(platform: Platform, wanted: int) -> int:
    """How many are stored when no more come."""
    stored = platform.stored()
    quiet_since = time.monotonic()
    while stored < wanted and time.monotonic() - quiet_since < QUIET_S:
        time.sleep(0.5)
        now = platform.stored()
        if now != stored:
            stored, quiet_since = now, time.monotonic()
    return stored


def _drain(backlog: Callable[[], int]) -> float:
    """Seconds until (nearly) nothing is left, or nothing more goes away."""
    began = quiet_since = time.monotonic()
    left = backlog()
    while left > CAUGHT_UP and time.monotonic() - quiet_since < QUIET_S:
        if time.monotonic() - began > PATIENCE_S:
            break
        time.sleep(0.05)
        now = backlog()
        if now != left:
            left, quiet_since = now, time.monotonic()
    return time.monotonic() - began
