"""A rule over the past, where some of it is known by records and some only by the minute. Pure.

Of a minute its smallest and largest number are known. That answers whether none or all of its numbers meet a
comparison; where only some do, or something begins or ends, the minute is `unsure`: with its records in its place
the answer is exact. Without them a minute counts by its extreme, and is the first or last of a firing as a whole.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from channels.keys import Scalar
from events.conditions import Comparison, Condition, Number, first_match, number_of
from events.machine import Fired, Phase, Reading, State, step

NO_AGE = timedelta(0)  # as if everything had come at once
_EPOCH, _MINUTE = datetime(1970, 1, 1, tzinfo=UTC), timedelta(minutes=1)
Within = Callable[[Number, Number], bool]


class Bucket(NamedTuple):
    """The numbers of a minute or hour that begins `at`."""

    at: datetime
    low: Number
    high: Number


Item = Bucket | Reading


@dataclass(slots=True)
class Spell:
    """One firing. `until` None: it goes on. `exact`: known by records throughout where it matters."""

    since: datetime
    at: datetime
    until: datetime | None
    peak: Scalar
    exact: bool


class Shares(NamedTuple):
    """Whether, of numbers between two that occur, some may meet a comparison; whether all do for sure."""

    some: Within
    all: Within

    @classmethod
    def of(cls, comparison: Comparison) -> "Shares":
        number: Any = comparison.number  # roll-ups are only asked where it is one
        return {
            ">": cls(lambda low, high: high > number, lambda low, high: low > number),
            ">=": cls(lambda low, high: high >= number, lambda low, high: low >= number),
            "<": cls(lambda low, high: low < number, lambda low, high: high < number),
            "<=": cls(lambda low, high: low <= number, lambda low, high: high <= number),
            "=": cls(lambda low, high: low <= number <= high, lambda low, high: low == number == high),
            "!=": cls(
                lambda low, high: not low == number == high, lambda low, high: not low <= number <= high
            ),
        }[comparison.operator]


def buckets_that_matter(condition: Condition, buckets: Iterable[Bucket]) -> list[datetime]:
    """The beginnings of those, in order, in which the rule may fire or go on firing."""
    fires, holds = Shares.of(condition.fires), Shares.of(condition.holds)
    found = []
    going = False
    for at, low, high in buckets:
        going = fires.some(low, high) or (going and holds.some(low, high))
        if going:
            found.append(at)
    return found


def buckets_within(condition: Condition, buckets: Iterable[Bucket], *, width: timedelta) -> list[Bucket]:
    """Those, in order, so deep within a firing that nothing begins or ends in them, whatever their records say."""
    fires = Shares.of(condition.fires)
    enough = 2 + -(-condition.for_ // width)
    found, in_a_row, last = [], 0, None
    for bucket in buckets:
        if not fires.all(bucket.low, bucket.high):
            in_a_row = 0
        else:
            in_a_row = in_a_row + 1 if last is not None and bucket.at - last == width else 1
        last = bucket.at
        if in_a_row > enough:
            found.append(bucket)
    return found


def minutes_that_matter(
    condition: Condition, numbers: Sequence[int], lows: Sequence[Number], highs: Sequence[Number]
) -> list[Bucket]:
    """Minutes, counted since 1970 and in order, without those that tell nothing new.

    Of quiet ones in a row the first is kept, and the last of each hour; of a stretch deep within a firing (as
    buckets_within() has it) one that stands for all.
    """
    fires, holds = Shares.of(condition.fires), Shares.of(condition.holds)
    some, whole, on = fires.some, fires.all, holds.some
    enough = 2 + -(-condition.for_ // _MINUTE)
    found: list[Bucket] = []
    deep: tuple[int, Number, Number] | None = None
    in_a_row, last, was_quiet = 0, -1, False
    following = [*numbers[1:], -1]
    for number, low, high, next_ in zip(numbers, lows, highs, following, strict=False):
        if whole(low, high):
            in_a_row = in_a_row + 1 if last == number - 1 else 1
            if in_a_row > enough:
                deep = (
                    (number, low, high) if deep is None else (number, min(deep[1], low), max(deep[2], high))
                )
                last = number
                continue
            is_quiet = False
        else:
            in_a_row = 0
            is_quiet = not (some(low, high) or on(low, high))
        if deep is not None:
            found.append(Bucket(_EPOCH + deep[0] * _MINUTE, deep[1], deep[2]))
            deep = None
        if not (is_quiet and was_quiet and next_ // 60 == number // 60):
            found.append(Bucket(_EPOCH + number * _MINUTE, low, high))
        was_quiet, last = is_quiet, number
    if deep is not None:
        found.append(Bucket(_EPOCH + deep[0] * _MINUTE, deep[1], deep[2]))
    return found


class Replay:
    """Takes items in order of time; `spells` are the firings, `unsure` the buckets whose records would tell more."""

    def __init__(self, condition: Condition, *, width: timedelta) -> None:
        self.spells: list[Spell] = []
        self.unsure: list[datetime] = []
        self._condition = condition
        self._width = width
        self._fires, self._holds = Shares.of(condition.fires), Shares.of(condition.holds)
        self._state: State | None = None
        self._since_exact = True

    def run(self, items: Iterable[Item]) -> None:
        for item in items:
            if isinstance(item, Bucket):
                self._bucket(item)
            else:
                self._reading(item, exact=True)

    def _bucket(self, bucket: Bucket) -> None:
        _, low, high = bucket
        if self._state is not None and self._state.phase is Phase.FIRING:
            self._bucket_firing(bucket)
        elif self._fires.some(low, high):
            self._bucket_beginning(bucket)
        elif self._state is not None:
            self._state = None

    def _bucket_firing(self, bucket: Bucket) -> None:
        at, low, high = bucket
        if self._holds.some(low, high):
            spell = self.spells[-1]
            spell.peak = self._farther(spell.peak, self._extreme(bucket))
            if not self._holds.all(low, high):
                self.unsure.append(at)
                spell.exact = False
        else:
            self.unsure.append(at)
            self._reading(Reading(at, [low], NO_AGE), exact=False)

    def _bucket_beginning(self, bucket: Bucket) -> None:
        at, low, high = bucket
        for_ = self._condition.for_
        whole = self._fires.all(low, high)
        since = at if self._state is None else self._state.since
        due = since + for_
        if not whole or self._state is None or due < at + self._width:
            self.unsure.append(at)
        extreme = Reading(at, [self._extreme(bucket)], NO_AGE)
        if not for_ or whole:
            if at < due < at + self._width:
                extreme = extreme._replace(at=due)
                self._state = State(Phase.PENDING, since)
            self._reading(extreme, exact=False)
        else:  # not throughout the minute: so it held at most from within it
            self._state, self._since_exact = State(Phase.PENDING, at), False

    def _reading(self, reading: Reading, *, exact: bool) -> None:
        before = self._state
        self._state, transition = step(self._condition, before, reading)
        if before is None:
            self._since_exact = exact
        if isinstance(transition, Fired):
            exact = exact and self._since_exact
            self.spells.append(Spell(transition.since, transition.at, None, transition.value, exact))
        spell = self.spells[-1] if self.spells else None
        if spell is None or spell.until is not None:
            return
        if transition is not None and not isinstance(transition, Fired):
            spell.until = transition.at
            spell.exact = spell.exact and exact
            return
        if self._state is not None and self._state.phase is Phase.FIRING:
            for value in reading.values:
                if first_match(self._condition.holds, [value]) is not None:
                    spell.peak = self._farther(spell.peak, value)

    def _extreme(self, bucket: Bucket) -> Number:
        """The number farthest on the side that fires."""
        comparison = self._condition.fires
        match comparison.operator:
            case ">" | ">=":
                return bucket.high
            case "<" | "<=":
                return bucket.low
            case "=":
                return comparison.number if comparison.number is not None else bucket.high
            case _:
                return bucket.low if comparison.matches(bucket.low) else bucket.high

    def _farther(self, one: Scalar, other: Scalar) -> Scalar:
        left, right = number_of(one), number_of(other)
        if left is None or right is None:
            return one
        match self._condition.fires.operator:
            case ">" | ">=":
                return other if right > left else one
            case "<" | "<=":
                return other if right < left else one
            case _:
                return one
