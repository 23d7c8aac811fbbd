"""How one rule stands with one device, tag and key path, step by step. Pure: values in, values out, no clock.

Nothing, pending, firing. Time is time of measurement: the readings come in its order, and how old they are against
their receipt only decides whether an alert may begin (`patience`): what is sent again after an outage moves the state
on and may end an alert, but begins none until a fresh reading says that the condition still holds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from channels.keys import Scalar
from events.conditions import Condition, first_match

PATIENCE = timedelta(seconds=120)


class Phase(StrEnum):
    PENDING = "pending"
    FIRING = "firing"


@dataclass(frozen=True, slots=True)
class State:
    """`since`: the first reading from which on the condition has held. No State is quiet."""

    phase: Phase
    since: datetime


class Reading(NamedTuple):
    """What one message said at the key path: several values when an array lies on the way, at least one.

    `age` is how long before its receipt it was measured; None: however fresh it looks, it begins no alert.
    """

    at: datetime
    values: Sequence[Scalar]
    age: timedelta | None


class Fired(NamedTuple):
    at: datetime
    since: datetime
    value: Scalar


class Recovered(NamedTuple):
    at: datetime
    value: Scalar


Transition = Fired | Recovered


class Run(NamedTuple):
    """Where the readings have led. `withheld`: an alert was due, but no reading was fresh enough to begin it."""

    state: State | None
    transitions: list[Transition]
    withheld: bool


def step(
    condition: Condition, state: State | None, reading: Reading, *, patience: timedelta = PATIENCE
) -> tuple[State | None, Transition | None]:
    """One reading, newer than those before. Repeating one changes nothing."""
    if state is not None and state.phase is Phase.FIRING:
        if first_match(condition.holds, reading.values) is not None:
            return state, None
        return None, Recovered(reading.at, reading.values[0])
    found = first_match(condition.fires, reading.values)
    if found is None:
        return None, None
    since = reading.at if state is None else min(state.since, reading.at)
    if not _due(condition, since, reading) or not _fresh(reading, patience):
        return State(Phase.PENDING, since), None
    return State(Phase.FIRING, since), Fired(reading.at, since, found[0])


def run(
    condition: Condition,
    state: State | None,
    readings: Iterable[Reading],
    *,
    patience: timedelta = PATIENCE,
) -> Run:
    """All readings in their order."""
    transitions: list[Transition] = []
    withheld = False
    for reading in readings:
        state, transition = step(condition, state, reading, patience=patience)
        if transition is not None:
            transitions.append(transition)
        withheld = (
            state is not None and state.phase is Phase.PENDING and _due(condition, state.since, reading)
        )
    return Run(state, transitions, withheld)


def run_late(
    condition: Condition, state: State | None, late: Iterable[Reading], *, known_until: datetime
) -> State | None:
    """Readings older than what is known already, `known_until`: they begin and end nothing.

    One only counts: while the condition is pending, a reading from within that time which does not meet it. The
    condition then has held from the newest known reading on, as far as anybody can tell.
    """
    if state is None or state.phase is not Phase.PENDING:
        return state
    for reading in late:
        if reading.at >= state.since and first_match(condition.fires, reading.values) is None:
            return replace(state, since=known_until)
    return state


def _due(condition: Condition, since: datetime, reading: Reading) -> bool:
    return reading.at - since >= condition.for_


def _fresh(reading: Reading, patience: timedelta) -> bool:
    return reading.age is not None and reading.age <= patience
