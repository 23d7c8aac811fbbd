from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from events.conditions import Comparison
from events.machine import Phase, State, step
from events.trend import HOUR, Point, Trend, Window, trend_condition, trend_of, trend_reading

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
FULL = Comparison.of(">", "98")
DAY = timedelta(days=1)


def trend(value: Callable[[int], float], *, count: int = 24) -> Trend:
    """Of hourly values of the last day."""
    points = [Point(AT - (count - n) * HOUR, value(n)) for n in range(count)]
    found = trend_of(points, at=AT)
    assert found is not None
    return found


def hours_left(value: Callable[[int], float], comparison: Comparison = FULL) -> float | None:
    left = trend(value).reaches_in(comparison)
    return None if left is None else round(left / HOUR, 1)


def test_a_steady_rise_is_carried_on() -> None:
    assert hours_left(lambda n: 50 + n) == 24.0


def test_a_rise_with_noise_and_some_wild_points_is_still_one() -> None:
    wild = {3: 0.0, 11: 99.0, 17: 5.0, 20: 97.0}
    left = hours_left(lambda n: wild.get(n, 50 + n + (-1) ** n * 0.4))
    assert left is not None and 22 <= left <= 26


def test_a_single_jump_is_no_trend() -> None:
    for place in range(1, 24):
        assert hours_left(lambda n, place=place: 50.0 if n < place else 75.0) is None  # type: ignore[misc]


def test_what_fell_or_stays_reaches_nothing_above() -> None:
    assert hours_left(lambda n: 80 - n) is None
    assert hours_left(lambda n: 80) is None
    assert hours_left(lambda n: 60 - n, Comparison.of("<", "12")) == 24.0


def test_what_rose_and_then_stopped_reaches_nothing() -> None:
    assert hours_left(lambda n: min(50 + 2 * n, 70)) is None


def test_what_is_there_already_needs_no_time() -> None:
    assert hours_left(lambda n: 99) == 0.0


def test_too_few_points_say_nothing() -> None:
    assert trend_of([Point(AT - n * HOUR, n) for n in range(11, 0, -1)], at=AT) is None


def test_it_recovers_only_when_half_as_much_time_again_is_left() -> None:
    asked = trend_condition(DAY, timedelta(0))
    state: State | None = None
    phases = []
    for per_hour in (0.9, 2.0, 1.6, 1.4, 1.2, 2.0):  # of 48 that are missing: 53, 24, 30, 34, 40 and 24 hours
        line = Trend(AT, 50, per_hour / 3600)
        state, _ = step(asked, state, trend_reading(line, FULL))
        phases.append(state is not None and state.phase is Phase.FIRING)
    assert phases == [False, True, True, True, False, True]


def test_it_looks_back_as_far_as_ahead_within_reason() -> None:
    assert Window.ahead(timedelta(minutes=10)) == Window(HOUR, timedelta(minutes=1))
    assert Window.ahead(6 * HOUR) == Window(6 * HOUR, timedelta(minutes=6))
    assert Window.ahead(DAY) == Window(DAY, HOUR)
    assert Window.ahead(30 * DAY) == Window(7 * DAY, HOUR)
