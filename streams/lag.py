"""How far a listener is behind the broker, and how its batches are spread. Pure; times are seconds since 1970.

Every second the leader gives a mark to all slots (streams/slots.py). It waits in a slot's session like any message, so
what was published before a mark is committed when the mark is; and while none comes, what was published since the last
one may not be.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

MARK_EVERY_S = 1.0
BATCH_SIZES = (1, 10, 50, 100, 500, 1_000, 2_000, 5_000)
BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LagMeter:
    """Follows the marks of one slot."""

    def __init__(self) -> None:
        self._given_at: float | None = None
        self._way_s = 0.0

    def reached(self, given_at: float, *, now: float) -> None:
        """A mark and everything before it is committed."""
        self._given_at = given_at
        self._way_s = max(0.0, now - given_at)

    def lag_s(self, *, now: float, oldest_at: float | None) -> float | None:
        """Age of the oldest message that is acknowledged to a device and not committed, at least; None: not known.

        `oldest_at`: when the oldest message that is here came, None when none is.
        """
        here_s = now - oldest_at if oldest_at is not None else None
        if self._given_at is None:
            return here_s
        silent_s = now - self._given_at - MARK_EVERY_S
        return max(self._way_s, silent_s, here_s or 0.0)


class Spread:
    """Counts values by upper bounds, the last beyond all."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class SlotReport(NamedTuple):
    """What the listener of a slot tells of itself; totals since it began."""

    slot: int
    connected: bool
    lag_s: float | None
    queued: int
    committed: int
    batch_sizes: list[int]
    batch_durations: list[int]
    batch_seconds: float
