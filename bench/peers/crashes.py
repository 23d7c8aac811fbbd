"""kill -9 under load, start again after a second: what was acknowledged and is not there afterwards?"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg

from bench.peers.target import Target, Victim

KILLED_AFTER_S, DOWN_S = 4.0, 1.0
SECONDS = 10
WHOLE_QUIET_S, QUIET_S = (
    1.0,
    8.0,
)  # no other report for so long: no more will come; longer while some are missing
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Crash:
    """What to kill of which target, at which rate of reports."""

    make: Callable[[], Target]
    victim: str
    rate: int


@dataclass(frozen=True)
class Losses:
    """Reports. Some that were never acknowledged may be stored all the same; those are no loss and no fault."""

    target: str
    victim: str
    rate: int
    acknowledged: int
    stored: int
    lost: int
    doubled: int
    acknowledgement: str

    @property
    def lost_s(self) -> float:
        """Seconds of traffic."""
        return self.lost / self.rate


def run(crash: Crash) -> Losses:
    # The hands outlive the target: what they start again ends with their thread.
    with ThreadPoolExecutor(1) as hands, crash.make() as target:
        first = _warm_up(target)
        generator = target.generator(first)
        done = hands.submit(_kill_and_restart, target.victims[crash.victim])
        generator.run(rate=crash.rate, count=crash.rate * SECONDS, each_second=_pass)
        done.result()
        acknowledged = {first + number for number in generator.log.acknowledged}
        generator.close()
        stored = [number for number in _settled(target, first + len(acknowledged)) if number >= first]
    return Losses(
        target=target.name,
        victim=crash.victim,
        rate=crash.rate,
        acknowledged=len(acknowledged),
        stored=len(stored),
        lost=len(acknowledged - set(stored)),
        doubled=len(stored) - len(set(stored)),
        acknowledgement=target.acknowledgement,
    )


def _kill_and_restart(victim: Victim) -> None:
    """Beside the load, which may be waiting for the victim."""
    time.sleep(KILLED_AFTER_S)
    victim.kill()
    time.sleep(DOWN_S)
    victim.restart()


def _pass(_elapsed_s: float) -> None:
    """Nothing is done each second."""


def _warm_up(target: Target) -> int:
    """Every device once; the number of the first report afterwards."""
    generator = target.generator(0)
    generator.run(rate=1_000, count=2_000, each_second=_pass)
    generator.close()
    return 2_000


def _settled(target: Target, wanted: int) -> list[int]:
    """What is stored when no more comes; the target may be recovering."""
    deadline = time.monotonic() + PATIENCE_S
    numbers: list[int] = []
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        try:
            now = target.stored_numbers()
        except (OSError, RuntimeError, psycopg.OperationalError):
            now, quiet_since = numbers, time.monotonic()
        if len(now) != len(numbers):
            numbers, quiet_since = now, time.monotonic()
        quiet_s = time.monotonic() - quiet_since
        if quiet_s > (WHOLE_QUIET_S if len(numbers) >= wanted else QUIET_S):
            break
        time.sleep(0.25)
    return numbers
