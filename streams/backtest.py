"""A rule over past data before it is saved: when it would have fired, and for how long."""

from dataclasses import dataclass, field
from datetime import datetime

from channels.keys import Scalar
from events.models import Cause, Rule
from streams.cover import Resolution
from tokens.models import Account

MOST_DAYS = 90


@dataclass(frozen=True)
class Firing:
    """One alert that there would have been.

    `tag` and, of a silent device, `key` are "" for none; `device_id` None: records without a device. `since`: from
    when the condition had held. `until` None: it would still fire. `peak`: the value farthest beyond the threshold,
    None of silence. `exact`: the times are those of records, else within a minute of them.
    """

    device_key: int
    device_id: str | None
    tag: str
    key: str
    cause: Cause
    since: datetime
    at: datetime
    until: datetime | None
    peak: Scalar
    exact: bool


@dataclass(frozen=True)
class Backtest:
    """What a rule would have done between `start` and `end`.

    `firings`: the oldest first, MOST_FIRINGS at most, `firing_count` are all that were found. `resolution`: the
    coarsest stored data that was used. `devices_looked` of `devices` and `keys_looked` of `keys` were looked at.
    `notes`: sentences for people about what could not be looked at or said.
    """

    start: datetime
    end: datetime
    firings: list[Firing] = field(default_factory=list)
    firing_count: int = 0
    resolution: Resolution = Resolution.RAW
    devices_looked: int = 0
    devices: int = 0
    keys_looked: int = 0
    keys: int = 0
    notes: list[str] = field(default_factory=list)


def backtest(account: Account, draft: Rule, *, now: datetime, days: int = 30) -> Backtest:
    """What this rule, saved or not (events.services.rule_draft), would have done in the `days` before `now`.

    Nothing is written, nobody is told.
    """
    raise NotImplementedError
