"""Where a value is heading. Pure.

The slope is the median of the slopes between all pairs of points (Theil-Sen), so that a quarter of the points may be
wild; least squares would follow a single one. A jump, as when a large file is copied, pulls that median as well, and
is no trend: each half of the points must by itself lead the same way, at a quarter of the whole slope at least.

What the machine (events/machine.py) is shown is the time until the value meets the rule's condition: it fires when
that is `ahead_s` or less, and recovers when it is half as much again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from statistics import median
from typing import NamedTuple

from events.conditions import Comparison, Condition
from events.machine import Reading

LEAST_POINTS = 12
LEAST_OF_SLOPE = 0.25  # in each half
RECOVERS_AT = 1.5  # times as far ahead
NEVER_S = 1e300
SHORTEST, LONGEST = timedelta(hours=1), timedelta(days=7)
HOUR = timedelta(hours=1)
BY_HOUR_FROM = timedelta(days=1)
POINTS = 60


class Point(NamedTuple):
    """The average of a minute, hour or so that began `at`."""

    at: datetime
    value: float


class Window(NamedTuple):
    """How far back a trend is read, and how much time one point stands for: whole minutes, or an hour."""

    span: timedelta
    step: timedelta

    @classmethod
    def ahead(cls, ahead: timedelta) -> "Window":
        """As far back as ahead, within reason."""
        span = min(max(ahead, SHORTEST), LONGEST)
        if span >= BY_HOUR_FROM:
            return cls(span, HOUR)
        return cls(span, timedelta(minutes=max(1, round(span / timedelta(minutes=POINTS)))))


@dataclass(frozen=True)
class Trend:
    """A straight line: the value at `at`, and by how much it grows a second."""

    at: datetime
    value: float
    per_s: float

    def reaches_in(self, comparison: Comparison) -> timedelta | None:
        """How long until the value meets it, zero when it does already; None: not as it is heading."""
        if comparison.matches(self.value):
            return timedelta(0)
        rising = comparison.operator in (">", ">=")
        if comparison.number is None or not self.per_s or rising != (self.per_s > 0):
            return None
        seconds = (comparison.number - self.value) / self.per_s
        return timedelta(seconds=seconds) if seconds <= LONGEST.total_seconds() * 52 else None


def trend_of(points: Sequence[Point], *, at: datetime) -> Trend | None:
    """The line through these points, in order of time, as it stands `at`; None for fewer than LEAST_POINTS.

    Where they lead nowhere steadily the line is level.
    """
    if len(points) < LEAST_POINTS:
        return None
    seconds = [(point.at - at).total_seconds() for point in points]
    values = [point.value for point in points]
    slope = _slope(seconds, values)
    half = len(points) // 2
    for low, high in ((0, half), (half, len(points))):
        own = _slope(seconds[low:high], values[low:high])
        if own * slope <= 0 or abs(own) < LEAST_OF_SLOPE * abs(slope):
            return Trend(at, median(values[-3:]), 0.0)
    value = median(value - slope * second for second, value in zip(seconds, values, strict=True))
    return Trend(at, value, slope)


def trend_condition(ahead: timedelta, for_: timedelta) -> Condition:
    """What the machine asks of the seconds that are left."""
    seconds = ahead.total_seconds()
    return Condition(
        Comparison.of("<=", repr(seconds)), Comparison.of("<=", repr(seconds * RECOVERS_AT)), for_
    )


def trend_reading(trend: Trend, comparison: Comparison) -> Reading:
    """The seconds that are left, for the machine."""
    left = trend.reaches_in(comparison)
    return Reading(trend.at, [NEVER_S if left is None else left.total_seconds()], timedelta(0))


def _slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    pairs = combinations(range(len(seconds)), 2)
    slopes = [
        (values[b] - values[a]) / (seconds[b] - seconds[a]) for a, b in pairs if seconds[b] != seconds[a]
    ]
    return median(slopes) if slopes else 0.0
