"""The corner cases of rules, one measurement after the other, without a database."""

from datetime import UTC, datetime, timedelta
from typing import Any

from events.conditions import Condition
from events.machine import Fired, Phase, Reading, Recovered, State, Transition, run, run_late, step

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
HIGH = Condition.of(">", "90", None, 0)
HIGH_FOR_A_MINUTE = Condition.of(">", "90", None, 60)
HIGH_UNTIL_80 = Condition.of(">", "90", "80", 0)


def at(at_s: float) -> datetime:
    return BEGIN + timedelta(seconds=at_s)


def reading(at_s: float, *values: Any, age_s: float | None = 1) -> Reading:
    return Reading(at(at_s), values, None if age_s is None else timedelta(seconds=age_s))


def readings(*values: Any, every_s: float = 20) -> list[Reading]:
    return [reading(number * every_s, value) for number, value in enumerate(values)]


def told(transitions: list[Transition]) -> list[tuple[str, float]]:
    """`fired` and `recovered` with the seconds since the beginning."""
    return [
        ("fired" if isinstance(one, Fired) else "recovered", (one.at - BEGIN).total_seconds())
        for one in transitions
    ]


def test_rising_fires_with_the_first_value_beyond() -> None:
    found = run(HIGH, None, readings(50, 91, 95))
    assert found.transitions == [Fired(at(20), at(20), 91)]
    assert found.state == State(Phase.FIRING, at(20))


def test_falling_recovers_with_the_first_value_within() -> None:
    found = run(HIGH, State(Phase.FIRING, at(-60)), readings(95, 90, 50))
    assert found.transitions == [Recovered(at(20), 90)]
    assert found.state is None


def test_flapping_fires_and_recovers_each_time() -> None:
    found = run(HIGH, None, readings(95, 50, 95, 50))
    assert told(found.transitions) == [("fired", 0), ("recovered", 20), ("fired", 40), ("recovered", 60)]


def test_flapping_round_the_threshold_is_one_alert_with_another_level_for_recovery() -> None:
    found = run(HIGH_UNTIL_80, None, readings(95, 85, 95, 81, 80, 85))
    assert told(found.transitions) == [("fired", 0), ("recovered", 80)]


def test_exactly_equal_is_not_beyond() -> None:
    assert run(HIGH, None, readings(90, 90)).transitions == []
    assert told(run(Condition.of(">=", "90", None, 0), None, readings(90)).transitions) == [("fired", 0)]


def test_string_values_fire_and_recover() -> None:
    down = Condition.of("=", "down", None, 0)
    found = run(down, None, readings("up", "down", "down", "up"))
    assert found.transitions == [Fired(at(20), at(20), "down"), Recovered(at(60), "up")]


def test_any_element_of_an_array_fires_and_all_must_recover() -> None:
    arrays = [reading(0, 10, 95, 99), reading(20, 95, 10), reading(40, 10, 90)]
    found = run(HIGH, None, arrays)
    assert found.transitions == [Fired(at(0), at(0), 95), Recovered(at(40), 10)]


def test_it_must_hold_for_its_time_in_measurement_time() -> None:
    found = run(HIGH_FOR_A_MINUTE, None, readings(95, 96, 97, 98, 99))
    assert found.transitions == [Fired(at(60), at(0), 98)]


def test_recovery_before_its_time_starts_the_time_again() -> None:
    found = run(HIGH_FOR_A_MINUTE, None, readings(95, 95, 95, 50, 95, 95, 95))
    assert found.transitions == []
    assert found.state == State(Phase.PENDING, at(80))


def test_pending_looks_at_the_threshold_and_firing_at_the_level_of_recovery() -> None:
    condition = Condition.of(">", "90", "80", 60)
    found = run(condition, None, readings(95, 85, 95, 95, 95, 95, 85, 80))
    assert told(found.transitions) == [("fired", 100), ("recovered", 140)]


def test_the_same_reading_again_changes_nothing() -> None:
    for state in (None, State(Phase.PENDING, at(0)), State(Phase.FIRING, at(0))):
        for value in (50, 95):
            once, _ = step(HIGH_FOR_A_MINUTE, state, reading(60, value))
            assert step(HIGH_FOR_A_MINUTE, once, reading(60, value)) == (once, None)


def test_a_restart_between_any_two_readings_makes_no_difference() -> None:
    values = readings(50, 95, 95, 95, 95, 50, 95, 50, 95, 95, 95, 95)
    whole = run(HIGH_FOR_A_MINUTE, None, values)
    for place in range(len(values)):
        before = run(HIGH_FOR_A_MINUTE, None, values[:place])
        after = run(HIGH_FOR_A_MINUTE, before.state, values[place:])
        assert before.transitions + after.transitions == whole.transitions
        assert after.state == whole.state


def test_what_comes_old_moves_on_and_ends_but_begins_nothing() -> None:
    old = [reading(number * 20, 95, age_s=3600 - number * 20) for number in range(5)]
    found = run(HIGH_FOR_A_MINUTE, None, old)
    assert (found.transitions, found.state) == ([], State(Phase.PENDING, at(0)))
    assert found.withheld
    assert run(HIGH_FOR_A_MINUTE, found.state, [reading(100, 96)]).transitions == [Fired(at(100), at(0), 96)]
    ended = run(HIGH, State(Phase.FIRING, at(-60)), [reading(0, 50, age_s=3600)])
    assert told(ended.transitions) == [("recovered", 0)]


def test_an_old_alarm_that_is_over_is_never_told() -> None:
    found = run(HIGH, None, [reading(0, 95, age_s=3600), reading(20, 50, age_s=3580), reading(3590, 60)])
    assert (found.transitions, found.state) == ([], None)


def test_a_replayed_message_begins_nothing_however_new_it_is() -> None:
    assert run(HIGH, None, [reading(0, 95, age_s=None)]).transitions == []
    assert told(run(HIGH, State(Phase.FIRING, at(0)), [reading(1, 5, age_s=None)]).transitions) == [
        ("recovered", 1)
    ]


def test_patience_is_longer_for_a_device_that_takes_longer() -> None:
    slow = [reading(0, 95, age_s=900)]
    assert run(HIGH, None, slow, patience=timedelta(seconds=899)).withheld
    assert told(run(HIGH, None, slow, patience=timedelta(seconds=900)).transitions) == [("fired", 0)]


def test_a_clock_that_was_set_back_starts_the_time_again() -> None:
    found = run(HIGH_FOR_A_MINUTE, State(Phase.PENDING, at(3000)), readings(95, 95, 95, 95))
    assert found.transitions == [Fired(at(60), at(0), 95)]


def test_late_readings_begin_and_end_nothing() -> None:
    late = [reading(10, 50), reading(20, 95)]
    for state in (None, State(Phase.FIRING, at(0)), State(Phase.PENDING, at(30))):
        assert run_late(HIGH, state, late, known_until=at(60)) == state


def test_a_late_reading_within_the_time_of_waiting_starts_it_again() -> None:
    pending = State(Phase.PENDING, at(0))
    assert run_late(HIGH, pending, [reading(10, 50)], known_until=at(60)) == State(Phase.PENDING, at(60))
    assert run_late(HIGH, pending, [reading(10, 95)], known_until=at(60)) == pending
