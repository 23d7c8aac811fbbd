"""Whether somebody is to be told of a notification now, later or not at all. Pure: values in, values out, no clock.

What is held becomes overtaken when the alert ends meanwhile: who was not told that it fires is not told that it ended.
An alert that was not held is told of in full, also when it ended at once.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

FLAPPING_FIRINGS = 4
FLAPPING_WITHIN = timedelta(minutes=30)
CALM_AFTER = timedelta(minutes=15)


class Kind(StrEnum):
    """As Notification.Kind."""

    FIRING = "firing"
    RESOLVED = "resolved"
    REPEAT = "repeat"
    AWAKE = "awake"
    FLAPPING = "flapping"
    CALM = "calm"


class Why(StrEnum):
    """As Notification.Outcome: how a notification is settled."""

    SENT = "sent"
    NOBODY = "nobody"
    MAINTENANCE = "maintenance"
    SNOOZED = "snoozed"
    FLAPPING = "flapping"
    OVERTAKEN = "overtaken"


class Case(NamedTuple):
    """A notification and what is known of its alert.

    `was_held`: it was looked at before, and kept. `firing_waits`: the alert's firing is held still. `told`: somebody
    was told that it fires. `maintenance_until`: when the windows end that cover it now. `flapping`: its instance is
    known to. `often`: it has fired FLAPPING_FIRINGS times within FLAPPING_WITHIN.
    """

    kind: Kind
    resolved: bool
    was_held: bool = False
    firing_waits: bool = False
    told: bool = False
    snoozed_until: datetime | None = None
    maintenance_until: datetime | None = None
    flapping: bool = False
    often: bool = False


class Hold(NamedTuple):
    """Look at it again then."""

    until: datetime


class Settle(NamedTuple):
    """It is done with. `tell`: what people are to be told, None for nothing."""

    why: Why
    tell: Kind | None = None


def decide(case: Case, *, now: datetime) -> Hold | Settle:
    """What becomes of a notification."""
    if case.kind is Kind.RESOLVED:
        return _decide_resolved(case)
    if case.flapping and case.kind is not Kind.CALM:
        return Settle(Why.FLAPPING)
    if (
        case.resolved
        and (case.was_held or case.kind in (Kind.REPEAT, Kind.AWAKE))
        and case.kind is not Kind.CALM
    ):
        return Settle(Why.OVERTAKEN)
    if case.maintenance_until is not None:
        if case.kind is Kind.REPEAT:  # the next one comes after it
            return Settle(Why.MAINTENANCE)
        return Hold(case.maintenance_until)
    if not case.resolved and case.snoozed_until is not None and now < case.snoozed_until:
        return Settle(Why.SNOOZED)
    if case.kind is Kind.FIRING and case.often:
        return Settle(Why.FLAPPING, Kind.FLAPPING)
    return Settle(Why.SENT, case.kind)


def _decide_resolved(case: Case) -> Hold | Settle:
    """A snooze does not matter: who was told that it fires is told that it is over."""
    if case.flapping:
        return Settle(Why.FLAPPING)
    if case.firing_waits or not case.told:
        return Settle(Why.OVERTAKEN)
    if case.maintenance_until is not None:
        return Hold(case.maintenance_until)
    return Settle(Why.SENT, Kind.RESOLVED)


def repeat_is_due(
    *,
    notified_at: datetime | None,
    repeat_s: int | None,
    acknowledged: bool,
    snoozed_until: datetime | None,
    now: datetime,
) -> bool:
    """Whether people are to be told again of an alert that fires."""
    if notified_at is None or repeat_s is None or acknowledged:
        return False
    if snoozed_until is not None and now < snoozed_until:
        return False
    return now >= notified_at + timedelta(seconds=repeat_s)


def awake_is_due(*, notified_at: datetime | None, snoozed_until: datetime | None, now: datetime) -> bool:
    """Whether a snooze has ended of which nobody was told yet."""
    if snoozed_until is None or now < snoozed_until:
        return False
    return notified_at is None or notified_at < snoozed_until
