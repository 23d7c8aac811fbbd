"""Maintenance windows in time. Pure: no database, no clock.

A window that repeats has the time of day and the length of its first time, in the account's time zone: 02:00 to 04:00
stays so when daylight saving begins. Where the clock skips or repeats a time, the window begins at the earlier moment
that is meant and ends at the later, so that none is too short.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import NamedTuple, Protocol

DAILY, WEEKLY, ONCE = "daily", "weekly", "once"


class Window(Protocol):
    """What is asked of a maintenance window; a row of the database is one."""

    @property
    def starts_at(self) -> datetime: ...
    @property
    def ends_at(self) -> datetime: ...
    @property
    def repeat(self) -> str: ...
    @property
    def weekdays(self) -> list[int]: ...
    @property
    def until(self) -> datetime | None: ...


class Span(NamedTuple):
    """One time of a window: `begins` included, `ends` not."""

    begins: datetime
    ends: datetime


def covers(window: Window, at: datetime, zone: tzinfo) -> bool:
    return span_at(window, at, zone) is not None


def span_at(window: Window, at: datetime, zone: tzinfo) -> Span | None:
    """The time of the window that holds this moment; of two that overlap the one that ends later."""
    spans = [span for span in _spans_near(window, at, zone) if span.begins <= at < span.ends]
    return max(spans, key=lambda span: span.ends, default=None)


def next_span(window: Window, after: datetime, zone: tzinfo) -> Span | None:
    """The first time of the window that has not ended then; None when there is none any more."""
    if window.repeat == ONCE:
        return Span(window.starts_at, window.ends_at) if after < window.ends_at else None
    day = max(_local(window.starts_at, zone).date(), _first_day(window, after, zone))
    for _ in range((window.ends_at - window.starts_at).days + 10):  # each weekday is among those to come
        span = _span_of_day(window, day, zone)
        if span is not None and span.ends > after:
            return span
        day += timedelta(days=1)
        if window.until is not None and _local(window.until, zone).date() < day:
            return None
    return None


def _spans_near(window: Window, at: datetime, zone: tzinfo) -> Iterator[Span]:
    """Those of its times that could hold this moment."""
    if window.repeat == ONCE:
        yield Span(window.starts_at, window.ends_at)
        return
    day, last = _first_day(window, at, zone), _local(at, zone).date()
    while day <= last:
        span = _span_of_day(window, day, zone)
        if span is not None:
            yield span
        day += timedelta(days=1)


def _first_day(window: Window, at: datetime, zone: tzinfo) -> date:
    """The first day on which a time can begin that has not ended by then."""
    days = (window.ends_at - window.starts_at).days + 2
    return _local(at, zone).date() - timedelta(days=days)


def _span_of_day(window: Window, day: date, zone: tzinfo) -> Span | None:
    """Its time that begins on this day of the account, None when it has none."""
    if window.repeat == WEEKLY:
        weekdays = window.weekdays or [_local(window.starts_at, zone).weekday()]
        if day.weekday() not in weekdays:
            return None
    first, last = _local(window.starts_at, zone), _local(window.ends_at, zone)
    if day < first.date():
        return None
    begins = min(_moments(day, first.time(), zone))
    if window.until is not None and begins >= window.until:
        return None
    end_day = day + (last.date() - first.date())
    ends = max(_moments(end_day, last.time(), zone))
    return Span(begins, ends) if begins < ends else None


def _local(at: datetime, zone: tzinfo) -> datetime:
    return at.astimezone(zone)


def _moments(day: date, clock: time, zone: tzinfo) -> list[datetime]:
    """What a clock reading can mean, two where it is skipped or repeated.

    In UTC, since times of one zone are compared by their clocks.
    """
    return [
        datetime.combine(day, clock.replace(fold=fold, tzinfo=None), zone).astimezone(UTC) for fold in (0, 1)
    ]
