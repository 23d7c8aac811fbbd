"""Where a value is heading. Pure.

The slope is the median of the slopes between all pairs of points (Theil-Sen), so that a quarter of the points may be
wild. A single jump is no trend: each half of the points must lead the same way, at a quarter of the whole slope at
least, or nothing is forecast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from events.conditions import Comparison


class Point(NamedTuple):
    """The average of a minute, hour or so that began `at`."""

    at: datetime
    value: float


@dataclass(frozen=True)
class Trend:
    """A straight line: the value at `at`, and by how much it grows a second."""

    at: datetime
    value: float
    per_s: float

    def value_in(self, span: timedelta) -> float:
        return self.value + self.per_s * span.total_seconds()

    def reaches_in(self, comparison: Comparison) -> timedelta | None:
        """How long until the value meets it, zero when it does already; None: not as it is heading."""
        raise NotImplementedError


def trend_of(points: Sequence[Point], *, at: datetime) -> Trend | None:
    """The line through these points, in order of time, as it stands `at`; None where there is no steady trend."""
    raise NotImplementedError
