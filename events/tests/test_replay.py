import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from events.conditions import Condition
from events.machine import Fired, Reading, State, step
from events.replay import (
    NO_AGE,
    Bucket,
    Item,
    Replay,
    Spell,
    buckets_that_matter,
    minutes_that_matter,
)

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
Values = Sequence[tuple[datetime, float]]
Firings = Sequence[tuple[datetime, datetime | None]]


def walk(seed: int, *, count: int = 2_000, gaps: bool = True) -> list[tuple[datetime, float]]:
    """Values every ten seconds or so, wandering between 0 and 100, with a gap now and then."""
    chance = random.Random(seed)  # noqa: S311 - the same data every time
    at, value, found = BEGIN, 50.0, []
    for _ in range(count):
        at += (
            chance.choice([5, 10, 10, 10, 15]) * SECOND if not gaps or chance.random() > 0.005 else 7 * MINUTE
        )
        value = min(max(value + chance.gauss(0, 4), 0), 100)
        found.append((at, round(value, 1)))
    return found


def by_hand(condition: Condition, values: Values) -> list[tuple[datetime, datetime | None]]:
    """The firings as the machine has them, reading by reading."""
    state: State | None = None
    found: list[tuple[datetime, datetime | None]] = []
    for at, value in values:
        state, transition = step(condition, state, Reading(at, [value], NO_AGE))
        if isinstance(transition, Fired):
            found.append((at, None))
        elif transition is not None:
            found[-1] = (found[-1][0], at)
    return found


def minutes(values: Values) -> list[Bucket]:
    found: dict[datetime, list[float]] = {}
    for at, value in values:
        found.setdefault(at.replace(second=0), []).append(value)
    return [Bucket(at, min(some), max(some)) for at, some in found.items()]


def replay(condition: Condition, items: Iterable[Item]) -> Replay:
    found = Replay(condition, width=MINUTE)
    found.run(items)
    return found


def refined(condition: Condition, values: Values) -> list[Spell]:
    """With the records of unsure minutes, looked at again and again."""
    items: list[Item] = list(minutes(values))
    for _ in range(10):
        found = replay(condition, items)
        if not found.unsure:
            return found.spells
        unsure = set(found.unsure)
        records = [Reading(at, [v], NO_AGE) for at, v in values if at.replace(second=0) in unsure]
        kept = [one for one in items if not (isinstance(one, Bucket) and one.at in unsure)]
        items = sorted([*kept, *records], key=lambda one: one.at)
    raise AssertionError("it never becomes sure")


CONDITIONS = [
    Condition.of(operator, "60" if operator in (">", ">=") else "40", clear, for_s)
    for operator, clear in ((">", None), (">", "50"), (">=", "60"), ("<", "45"), ("<=", None))
    for for_s in (0, 25, 60, 300)
]


def test_minutes_with_the_records_of_unsure_ones_say_the_same_as_all_records() -> None:
    for seed in range(6):
        values = walk(seed)
        for condition in CONDITIONS:
            spells = refined(condition, values)
            assert [(one.at, one.until) for one in spells] == by_hand(condition, values), (seed, condition)
            assert all(one.exact for one in spells)


def test_minutes_alone_are_right_to_a_minute() -> None:
    def covered(these: Firings, those: Firings) -> bool:
        """Whether each of these lies within a minute of one of those."""
        return all(
            any(
                at - MINUTE <= (other_until or values[-1][0])
                and other_at <= (until or values[-1][0]) + MINUTE
                for other_at, other_until in those
            )
            for at, until in these
        )

    for seed in range(6):
        values = walk(seed, gaps=False)
        for operator, threshold, clear in ((">", "60", "50"), (">=", "70", None), ("<", "40", "45")):
            for for_s in (0, 120, 300):
                condition = Condition.of(operator, threshold, clear, for_s)
                longer = Condition.of(operator, threshold, clear, for_s + 60 if for_s else 0)
                shorter = Condition.of(operator, threshold, clear, max(for_s - 60, 0))
                found = [(one.at, one.until) for one in replay(condition, minutes(values)).spells]
                assert covered(found, by_hand(shorter, values)), (seed, condition)
                assert covered(by_hand(longer, values), found), (seed, condition)


def test_equality_needs_records_only_where_the_number_may_have_occurred() -> None:
    condition = Condition.of("=", "7", None, 0)
    quiet = [Bucket(BEGIN + n * MINUTE, 8, 9) for n in range(5)]
    assert replay(condition, quiet).unsure == []
    found = replay(condition, [*quiet, Bucket(BEGIN + 5 * MINUTE, 6, 8)])
    assert found.unsure == [BEGIN + 5 * MINUTE] and not found.spells[0].exact
    other = Condition.of("!=", "7", None, 0)
    assert replay(other, [Bucket(BEGIN, 7, 7)]).spells == []
    assert replay(other, [Bucket(BEGIN, 7, 8)]).spells[0].peak == 8


def test_the_peak_is_the_farthest_value_while_it_fired() -> None:
    condition = Condition.of(">", "90", "80", 0)
    values = [70, 95, 85, 99, 82, 70, 100]
    items = [Reading(BEGIN + n * SECOND, [value], NO_AGE) for n, value in enumerate(values)]
    first, second = replay(condition, items).spells
    assert (first.peak, first.until) == (99, BEGIN + 5 * SECOND)
    assert (second.peak, second.until) == (100, None)


def test_only_hours_in_which_it_may_fire_or_go_on_matter() -> None:
    condition = Condition.of(">", "90", "80", 0)
    buckets = [Bucket(BEGIN + n * MINUTE, 0, high) for n, high in enumerate([85, 91, 85, 85, 80, 85, 99, 10])]
    assert buckets_that_matter(condition, buckets) == [BEGIN + n * MINUTE for n in (1, 2, 3, 6)]


def test_what_is_left_out_changes_nothing() -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for seed in range(6):
        every = minutes(walk(seed, count=4_000))
        numbers = [(one.at - epoch) // MINUTE for one in every]
        lows, highs = [one.low for one in every], [one.high for one in every]
        for operator, threshold, clear, for_s in (
            (">", "60", None, 0),
            (">", "60", "50", 300),
            (">=", "20", None, 120),
            ("<", "30", "45", 0),
            ("!=", "0", None, 0),
        ):
            condition = Condition.of(operator, threshold, clear, for_s)
            some = minutes_that_matter(condition, numbers, lows, highs)
            found = []
            for items in (every, some):
                replay = Replay(condition, width=MINUTE)
                replay.run(items)
                found.append((replay.spells, replay.unsure))
            assert found[0] == found[1], (seed, condition)
            assert len(some) < len(every)
