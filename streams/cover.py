"""Which parts of a range are read from roll-ups per hour, which per minute, and which from the records. Pure.

Spans are (low, high) with low <= at < high; lists of them are in order and do not touch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
MOST_SPANS = 48  # of hours, and of minutes; beyond, the shortest are read from what is finer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Span = tuple[datetime, datetime]


class Resolution(StrEnum):
    """The stored data an answer was made from."""

    RAW = "raw"
    MINUTE = "minute"
    HOUR = "hour"


@dataclass(frozen=True)
class Cover:
    """A range, cut into what is read from where."""

    hours: list[Span] = field(default_factory=list)
    minutes: list[Span] = field(default_factory=list)
    raw: list[Span] = field(default_factory=list)

    @property
    def resolution(self) -> Resolution:
        """The coarsest that is used."""
        if self.hours:
            return Resolution.HOUR
        return Resolution.MINUTE if self.minutes else Resolution.RAW


def cover(
    low: datetime,
    high: datetime,
    *,
    until: datetime | None,
    due: Iterable[Span] = (),
    cuts: Iterable[datetime] = (),
    coarsest: Resolution = Resolution.HOUR,
) -> Cover:
    """Cut low <= at < high.

    Roll-ups are complete before `until`, None when there are none, but for `due`. `cuts` are times that no row may
    span, as the edges of buckets.
    """
    if low >= high:
        return Cover()
    if until is None or coarsest == Resolution.RAW:
        return Cover(raw=[(low, high)])
    holes = [*due, *((cut, cut) for cut in cuts)]
    hours = _rows([(low, min(high, until))], holes, width=HOUR) if coarsest == Resolution.HOUR else []
    rest = without([(low, high)], hours)
    minutes = _rows([(begin, min(end, until)) for begin, end in rest], holes, width=MINUTE)
    return Cover(hours, minutes, without(rest, minutes))


def _rows(spans: Iterable[Span], holes: Iterable[Span], *, width: timedelta) -> list[Span]:
    """The spans of whole rows within these which no hole touches."""
    whole = [(_ceiling(low, width), _floor(high, width)) for low, high in spans if low < high]
    touched = ((_floor(low, width), _ceiling(high, width)) for low, high in holes)
    missing = _merged((low, high) for low, high in touched if low < high)
    return _longest(without([(low, high) for low, high in whole if low < high], missing))


def _longest(spans: list[Span]) -> list[Span]:
    if len(spans) <= MOST_SPANS:
        return spans
    kept = sorted(spans, key=lambda span: span[1] - span[0], reverse=True)[:MOST_SPANS]
    return sorted(kept)


def _merged(spans: Iterable[Span]) -> list[Span]:
    found: list[Span] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def without(spans: Iterable[Span], holes: Sequence[Span]) -> list[Span]:
    """What is left of the spans."""
    left = []
    place = 0
    for low, high in spans:
        while place < len(holes) and holes[place][1] <= low:
            place += 1
        for hole_low, hole_high in islice(holes, place, None):
            if hole_low >= high:
                break
            if low < hole_low:
                left.append((low, hole_low))
            low = max(low, hole_high)
        if low < high:
            left.append((low, high))
    return left


def _floor(at: datetime, width: timedelta) -> datetime:
    return at - (at - _EPOCH) % width


def _ceiling(at: datetime, width: timedelta) -> datetime:
    return at + (_EPOCH - at) % width
