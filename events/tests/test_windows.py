"""Maintenance windows in time, with the days on which the clock is changed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from events.windows import Span, covers, next_span, span_at

BERLIN, TOKYO = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Tokyo")


@dataclass
class Window:
    starts_at: datetime
    ends_at: datetime
    repeat: str = "once"
    weekdays: list[int] = field(default_factory=list)
    until: datetime | None = None


def berlin(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


def test_once_begins_with_its_beginning_and_ends_before_its_end() -> None:
    window = Window(berlin("2026-11-23 02:00"), berlin("2026-11-23 04:00"))
    assert not covers(window, berlin("2026-11-23 01:59:59"), BERLIN)
    assert covers(window, berlin("2026-11-23 02:00"), BERLIN)
    assert covers(window, berlin("2026-11-23 03:59:59"), BERLIN)
    assert not covers(window, berlin("2026-11-23 04:00"), BERLIN)
    assert not covers(window, berlin("2026-11-24 03:00"), BERLIN)


def test_daily_holds_each_day_from_the_first_on() -> None:
    window = Window(berlin("2026-11-23 02:00"), berlin("2026-11-23 04:00"), "daily")
    assert not covers(window, berlin("2026-11-22 03:00"), BERLIN)
    assert all(covers(window, berlin(f"2026-11-{day} 03:00"), BERLIN) for day in (23, 24, 30))
    assert not covers(window, berlin("2026-11-24 04:00"), BERLIN)


def test_daily_over_midnight() -> None:
    window = Window(berlin("2026-11-23 22:00"), berlin("2026-11-24 06:00"), "daily")
    assert covers(window, berlin("2026-11-25 05:59"), BERLIN)
    assert not covers(window, berlin("2026-11-25 06:00"), BERLIN)
    assert not covers(window, berlin("2026-11-23 05:00"), BERLIN)


def test_a_whole_day_every_day_has_no_gap() -> None:
    window = Window(berlin("2026-11-23 02:00"), berlin("2026-11-24 02:00"), "daily")
    at = berlin("2026-11-25 01:59:59")
    assert all(covers(window, at + timedelta(seconds=seconds), BERLIN) for seconds in range(3))


def test_weekly_on_its_own_weekday_or_on_those_given() -> None:
    window = Window(berlin("2026-11-23 02:00"), berlin("2026-11-23 04:00"), "weekly")  # a Monday
    assert covers(window, berlin("2026-11-30 03:00"), BERLIN)
    assert not covers(window, berlin("2026-11-24 03:00"), BERLIN)
    window.weekdays = [5, 6]
    assert not covers(window, berlin("2026-11-30 03:00"), BERLIN)
    assert covers(window, berlin("2026-11-29 03:00"), BERLIN)
    assert not covers(window, berlin("2026-11-22 03:00"), BERLIN)  # before the first


def test_weekly_over_a_weekend() -> None:
    window = Window(berlin("2026-11-20 18:00"), berlin("2026-11-23 06:00"), "weekly")  # Friday to Monday
    assert covers(window, berlin("2026-11-29 12:00"), BERLIN)
    assert covers(window, berlin("2026-11-30 05:00"), BERLIN)
    assert not covers(window, berlin("2026-11-30 07:00"), BERLIN)


def test_it_does_not_begin_again_after_its_until() -> None:
    until = berlin("2026-11-25 02:00")
    window = Window(berlin("2026-11-23 02:00"), berlin("2026-11-23 04:00"), "daily", until=until)
    assert covers(window, berlin("2026-11-24 03:00"), BERLIN)
    assert not covers(window, berlin("2026-11-25 03:00"), BERLIN)
    window.until = berlin("2026-11-25 02:30")
    assert covers(window, berlin("2026-11-25 03:00"), BERLIN)  # it had begun


def test_the_time_of_day_stays_when_daylight_saving_begins_and_ends() -> None:
    window = Window(berlin("2026-03-01 12:00"), berlin("2026-03-01 13:00"), "daily")
    for day in ("2026-03-28", "2026-03-29", "2026-03-30", "2026-10-24", "2026-10-25", "2026-10-26"):
        assert not covers(window, berlin(f"{day} 11:59"), BERLIN)
        assert covers(window, berlin(f"{day} 12:00"), BERLIN)
        assert not covers(window, berlin(f"{day} 13:00"), BERLIN)


@pytest.mark.parametrize(
    ("first", "last", "day", "length"),
    [
        # The clock goes from 02:00 to 03:00.
        ("01:00", "04:00", "2026-03-29", 2),
        ("02:15", "02:45", "2026-03-29", 1.5),
        ("01:30", "02:30", "2026-03-29", 1),
        # The clock goes from 03:00 back to 02:00.
        ("01:00", "04:00", "2026-10-25", 4),
        ("02:15", "02:45", "2026-10-25", 1.5),
        ("01:30", "02:30", "2026-10-25", 2),
    ],
)
def test_no_window_is_too_short_when_the_clock_is_changed_within(
    first: str, last: str, day: str, length: float
) -> None:
    window = Window(berlin(f"2026-01-01 {first}"), berlin(f"2026-01-01 {last}"), "daily")
    span = next_span(window, berlin(f"{day} 00:30"), BERLIN)
    assert span is not None
    assert span.ends - span.begins == timedelta(hours=length)
    assert span_at(window, span.begins, BERLIN) == span


def test_the_account_s_zone_says_which_day_it_is() -> None:
    """02:00 on a Monday in Tokyo is Sunday in UTC."""
    starts = datetime(2026, 11, 22, 17, tzinfo=UTC)
    window = Window(starts, starts + timedelta(hours=2), "weekly")
    assert covers(window, datetime(2026, 11, 29, 18, tzinfo=UTC), TOKYO)
    assert not covers(window, datetime(2026, 11, 30, 18, tzinfo=UTC), TOKYO)


def test_the_next_time_is_found_also_long_after_and_none_when_it_is_over() -> None:
    window = Window(berlin("2026-11-23 02:00"), berlin("2026-11-23 04:00"), "weekly", [6])
    after = berlin("2031-01-01 00:00")
    found = next_span(window, after, BERLIN)
    assert found == Span(berlin("2031-01-05 02:00"), berlin("2031-01-05 04:00"))
    window.until = after
    assert next_span(window, after, BERLIN) is None
    once = Window(berlin("2026-11-23 02:00"), berlin("2026-11-23 04:00"))
    assert next_span(once, berlin("2026-11-20 00:00"), BERLIN) == Span(once.starts_at, once.ends_at)
    assert next_span(once, berlin("2026-11-23 04:00"), BERLIN) is None
