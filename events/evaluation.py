"""Rules against a batch, within the transaction that stores it.

`find` looks, before any lock is taken, which values meet a rule. `settle` comes after the latest values are written:
it reads where the rules stand with the batch's devices, takes the readings that matter in order of measurement
through the pure machine, and writes what has changed, with its notifications.

Two writers may hold messages of one device (docs/decisions/0013). A batch that could begin something takes its
channels' locks alone, every other one shares them: whoever comes second sees what the first has stored. So no alert
begins by a reading that is not the newest, and none stays open that a newer reading has ended.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from channels.keys import key_split, value_at
from events.alert_store import (
    Ending,
    Outcome,
    Standing,
    endings_write,
    heard_write,
    outcomes_write,
    seen_write,
    standings_read,
    usual_intervals_read,
)
from events.heard import newest_of_each
from events.machine import PATIENCE, Phase, Reading, Run, State, run, run_late
from events.rulebook import AnyMeasured, Found, Instance, RuleBook, RuleEntry

logger = logging.getLogger(__name__)

LOCK_CLASS = 5_160  # no other lock of the two-number kind has it
LOCK_BUCKETS = 32  # so that a batch of many channels does not fill the server's table of locks
INTERVALS_OF_PATIENCE = 3
SEEN_EVERY = timedelta(seconds=60)
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
NOTHING_FOUND = Found((), {}, set(), set(), [])

Cursor = psycopg.Cursor[tuple[Any, ...]]


class Series(NamedTuple):
    """One device's messages in one channel under one tag ("": none)."""

    device_key: int
    channel_key: int
    tag: str


class Wanted(NamedTuple):
    """Records of a series by their times, both included. `own`: so many of them may be the batch's own."""

    series: Series
    low: datetime
    high: datetime
    own: int


class Stored(NamedTuple):
    """A record in the database."""

    at: datetime
    digest: int
    value: Any


class Newest(NamedTuple):
    """The newest records that were wanted, newest first; `complete`: all of them."""

    records: Sequence[Stored]
    complete: bool


RecordsNewest = Callable[[Cursor, Sequence[Wanted]], Sequence[Newest]]


class Arrival(NamedTuple):
    """One measurement of the batch that says something at a key path."""

    reading: Reading
    received_at: datetime | None
    digest: int


@dataclass(frozen=True, slots=True)
class Case:
    """An instance that the batch concerns: where it stands, and what the batch says of it in order of measurement.

    `own` counts the series' records in the batch; `all_new`: none of the device's had been stored before.
    """

    instance: Instance
    rule: RuleEntry
    standing: Standing | None
    arrivals: Sequence[Arrival]
    own: int
    all_new: bool

    @property
    def series(self) -> Series:
        return Series(self.instance.device_key, self.rule.channel_key, self.instance.tag)

    @property
    def is_outdated(self) -> bool:
        """Whether the rule has changed its meaning since."""
        return self.standing is not None and self.standing.config_version < self.rule.version

    @property
    def state(self) -> State | None:
        return None if self.standing is None or self.is_outdated else self.standing.state

    def may_change(self) -> bool:
        """Whether any of the readings could, late or not."""
        if self.is_outdated:
            return True
        all_readings = self.run(self.readings())
        return bool(all_readings.transitions) or all_readings.withheld or all_readings.state != self.state

    def readings(self) -> list[Reading]:
        return [arrival.reading for arrival in self.arrivals]

    def run(self, readings: Iterable[Reading], *, patience: timedelta = PATIENCE) -> Run:
        return run(self.rule.condition, self.state, readings, patience=patience)

    def wanted(self) -> Wanted:
        """The records that could show that a reading is late.

        Not those from farther ahead than a clock may be wrong: a device whose clock was set back is heard at once.
        """
        received = [arrival.received_at for arrival in self.arrivals]
        high = max((at + PATIENCE if at else FOREVER for at in received), default=FOREVER)
        return Wanted(self.series, self.arrivals[0].reading.at, high, self.own)

    def known_until(self, newest: Newest) -> datetime | None:
        """The time of the newest record with this key path that is not of the batch itself."""
        levels = key_split(self.instance.path)
        own = {(arrival.reading.at, arrival.digest) for arrival in self.arrivals}
        for record in newest.records:
            if (record.at, record.digest) not in own and scalars_at(record.value, levels):
                return record.at
        return None if newest.complete else FOREVER

    def outcome(self, known_until: datetime | None, *, patience: timedelta = PATIENCE) -> Outcome:
        late, readings = self._late(known_until)
        state = self.state
        if known_until is not None:
            state = run_late(self.rule.condition, state, late, known_until=known_until)
        found = run(self.rule.condition, state, readings, patience=patience)
        last = self.arrivals[-1].reading
        return Outcome(self.instance, self.rule, self.standing, self.is_outdated, found, last.at)

    def _late(self, known_until: datetime | None) -> tuple[list[Reading], list[Reading]]:
        """The readings that come too late to count, and the others.

        Where some of the device's records were duplicates nobody knows which, and only the newest counts: if it is
        one, it changes nothing.
        """
        readings = self.readings()
        if not self.all_new:
            return readings[:-1], [r for r in readings[-1:] if known_until is None or r.at > known_until]
        if known_until is None:
            return [], readings
        return [r for r in readings if r.at < known_until], [r for r in readings if r.at >= known_until]


class Evaluator:
    """One per writing process, on the writer's connection. `records_newest` is of the room that has the records."""

    def __init__(self, records_newest: RecordsNewest) -> None:
        self.rules = RuleBook()
        self._records_newest = records_newest

    def forget(self) -> None:
        """A transaction failed, or what it relied on has changed: nothing is known to be noted."""
        self.rules.forget()

    def find(self, cursor: Cursor, measured: Sequence[AnyMeasured], *, version: int) -> Found:
        """What the batch has to do with the rules as of this version of the configuration."""
        if not measured:
            return NOTHING_FOUND
        self.rules.follow(cursor, version)
        try:
            return self.rules.find(measured)
        except Exception:  # a fault of ours may cost alerts, not the storing of data
            logger.exception("A batch could not be compared with the rules; it is stored without.")
            return NOTHING_FOUND

    def settle(self, cursor: Cursor, found: Found, stored: Mapping[int, int]) -> bool:
        """Step what the batch concerns, and write what changed. `stored`: device key -> how many records were new.

        Returns whether notifications may have been queued.
        """
        if found.device_keys.isdisjoint(stored):
            return False
        try:
            return _Settling(self.rules, found, stored, self._records_newest).run(cursor)
        except psycopg.Error:
            raise
        except Exception:
            logger.exception("The rules could not be evaluated for a batch; it is stored without.")
            return False


class _Settling:
    """The work on one batch."""

    def __init__(
        self, rules: RuleBook, found: Found, stored: Mapping[int, int], records_newest: RecordsNewest
    ) -> None:
        self._rules = rules
        self._measured = found.measured
        self._stored = stored
        self._device_keys = found.device_keys & stored.keys()
        self._channel_keys = found.channel_keys
        self._candidates = {i: rule for i, rule in found.candidates.items() if i.device_key in stored}
        self._heard = [one for one in found.heard if one.device_key in stored]
        self._records_newest = records_newest
        self._counts: Counter[int] = Counter()
        self._by_series: dict[Series, list[AnyMeasured]] = {}

    def run(self, cursor: Cursor) -> bool:
        """Returns whether something fired or ended."""
        alone = self._may_begin(cursor) if self._candidates else set()
        while True:
            self._lock(cursor, alone=alone)
            standings = standings_read(cursor, self._device_keys, lock=True)
            silent = [standing for standing in standings if standing.cause == "silence"]
            if silent:
                standings = [standing for standing in standings if standing.cause != "silence"]
            cases = self._cases(standings, self._candidates)
            outcomes = self._outcomes(cursor, cases)
            more = _beginning(outcomes) - alone
            if not more:
                break
            alone |= more  # what looked open a moment ago is not: take the lock alone after all
        if outcomes:
            self._write(cursor, outcomes)
        seen_write(cursor, _worth_noting(cases, changed={outcome.instance for outcome in outcomes}))
        endings = self._endings(silent)
        if endings or self._heard:
            self._write_heard(cursor, endings)
        return bool(endings) or any(outcome.run.transitions or outcome.is_outdated for outcome in outcomes)

    def _may_begin(self, cursor: Cursor) -> set[int]:
        """The channels where, as far as can be seen before locking, something begins. What is late now stays late."""
        device_keys = {instance.device_key for instance in self._candidates}
        standing = {
            row.instance for row in standings_read(cursor, device_keys, lock=False) if row.cause != "silence"
        }
        new = {i: rule for i, rule in self._candidates.items() if i not in standing}
        return _beginning(self._outcomes(cursor, self._cases((), new))) if new else set()

    def _lock(self, cursor: Cursor, *, alone: Collection[int]) -> None:
        """The channels' locks until the end of the transaction, in order."""
        modes = {key % LOCK_BUCKETS: "_shared" for key in self._channel_keys}
        modes.update({key % LOCK_BUCKETS: "" for key in alone})
        locks = [f"pg_advisory_xact_lock{modes[b]}({LOCK_CLASS}, {b})" for b in sorted(modes)]
        cursor.execute(f"SELECT {', '.join(locks)}".encode())

    def _cases(self, standings: Iterable[Standing], candidates: Mapping[Instance, RuleEntry]) -> list[Case]:
        """Every instance that stands or may begin, and of which the batch says something, in order."""
        by_instance: dict[Instance, tuple[RuleEntry, Standing | None]] = {}
        for instance, rule in candidates.items():
            by_instance[instance] = (rule, None)
        for standing in standings:
            known = self._rules.get(standing.instance.rule_key)
            if known is not None:  # else the rule ended, and whoever ended it ends its alerts
                by_instance[standing.instance] = (known, standing)
        if not by_instance:
            return []
        self._gather({instance.device_key for instance in by_instance})
        cases = []
        for instance, (rule, own) in sorted(by_instance.items(), key=lambda item: item[0]):
            series = Series(instance.device_key, rule.channel_key, instance.tag)
            measured = self._by_series.get(series, ())
            arrivals = _arrivals(measured, key_split(instance.path))
            if arrivals:
                all_new = self._stored.get(instance.device_key) == self._counts[instance.device_key]
                cases.append(Case(instance, rule, own, arrivals, len(measured), all_new))
        return cases

    def _endings(self, silent: Sequence[Standing]) -> list[Ending]:
        """The silences that the batch ends: by when a message was received, whenever it was measured."""
        if not silent:
            return []
        keys = {standing.instance.device_key for standing in silent}
        measured = [one for one in self._measured if one[1] in keys]
        endings = []
        for standing in silent:
            rule = self._rules.get(standing.instance.rule_key)
            channel_key = None if rule is None else rule.channel_key
            received = [
                at for one in measured if (at := _heard_at(standing.instance, channel_key, one)) is not None
            ]
            if received:
                endings.append(Ending(standing, max(received)))
        return endings

    def _gather(self, device_keys: Collection[int]) -> None:
        """The batch's measurements of these devices by series, in order of measurement."""
        self._by_series, self._counts = {}, Counter()
        for one in self._measured:
            channel_key, device_key, _at, _received_at, metrics = one
            if device_key in device_keys:
                series = Series(device_key, channel_key, metrics.tag or "")
                self._by_series.setdefault(series, []).append(one)
                self._counts[device_key] += 1
        for measured in self._by_series.values():
            measured.sort(key=lambda one: one[2])  # of equal times the later in the batch is the newer

    def _outcomes(self, cursor: Cursor, cases: Iterable[Case]) -> list[Outcome]:
        """Those of the cases that change something."""
        changing = [case for case in cases if case.may_change()]
        if not changing:
            return []
        newest = dict(zip(*self._records(cursor, changing), strict=True))
        known = [case.known_until(newest[case.series]) for case in changing]
        outcomes = [case.outcome(until) for case, until in zip(changing, known, strict=True)]
        if any(outcome.run.withheld for outcome in outcomes):
            patience = self._patience(cursor, outcomes)
            outcomes = [
                case.outcome(until, patience=patience.get(case.instance.device_key, PATIENCE))
                for case, until in zip(changing, known, strict=True)
            ]
        return [outcome for outcome in outcomes if outcome.is_change]

    def _records(self, cursor: Cursor, cases: Iterable[Case]) -> tuple[list[Series], Sequence[Newest]]:
        """The stored records that tell which readings are late, by series."""
        wanted: dict[Series, Wanted] = {}
        for case in cases:
            own = case.wanted()
            other = wanted.get(own.series, own)
            low, high = min(own.low, other.low), max(own.high, other.high)
            wanted[own.series] = Wanted(own.series, low, high, own.own)
        return list(wanted), self._records_newest(cursor, list(wanted.values()))

    def _patience(self, cursor: Cursor, outcomes: Iterable[Outcome]) -> dict[int, timedelta]:
        """How old a reading may be to begin an alert, for devices that usually take longer."""
        keys = sorted({o.instance.device_key for o in outcomes if o.run.withheld})
        return {
            key: max(PATIENCE, INTERVALS_OF_PATIENCE * timedelta(seconds=usual_s))
            for key, usual_s in usual_intervals_read(cursor, keys).items()
        }

    def _write_heard(self, cursor: Cursor, endings: Sequence[Ending]) -> None:
        try:
            with cursor.connection.transaction():
                if endings:
                    endings_write(cursor, endings)
                if self._heard:
                    heard_write(cursor, newest_of_each(self._heard))
        except (psycopg.DataError, psycopg.IntegrityError):
            logger.exception("What a batch says of silence could not be written; it is stored without.")

    def _write(self, cursor: Cursor, outcomes: Sequence[Outcome]) -> None:
        try:
            with cursor.connection.transaction():
                outcomes_write(cursor, outcomes, version=self._rules.version)
        except (psycopg.DataError, psycopg.IntegrityError):
            # Else the batch would be searched for a culprit, and good data be refused.
            logger.exception("Alerts of a batch could not be written; it is stored without.")


def _arrivals(measured: Iterable[AnyMeasured], levels: tuple[str, ...]) -> list[Arrival]:
    """What these say at a key path; those that say nothing are left out."""
    found = []
    for _channel_key, _device_key, at, received_at, metrics in measured:
        values = scalars_at(metrics.value, levels)
        if values:
            age = None if received_at is None else received_at - at
            found.append(Arrival(Reading(at, values, age), received_at, metrics.digest))
    return found


def _heard_at(instance: Instance, channel_key: int | None, measured: AnyMeasured) -> datetime | None:
    """When a message was received that says that the device or stream is not silent, else None."""
    heard_in, device_key, _at, received_at, metrics = measured
    if device_key != instance.device_key:
        return None
    if instance.tag or instance.path:
        if heard_in != channel_key or (metrics.tag or "") != instance.tag:
            return None
        if instance.path and not scalars_at(metrics.value, key_split(instance.path)):
            return None
    return received_at


def scalars_at(value: Any, levels: tuple[str, ...]) -> list[Any]:
    """The values at a key path; null is none."""
    return [scalar for scalar in value_at(value, levels) if scalar is not None]


def _beginning(outcomes: Iterable[Outcome]) -> set[int]:
    """The channels where something begins."""
    return {o.rule.channel_key for o in outcomes if o.begins}


def _worth_noting(cases: Iterable[Case], *, changed: Collection[Instance]) -> list[tuple[Standing, Reading]]:
    """What goes on firing, with its newest reading, once in a while."""
    return [
        (case.standing, case.arrivals[-1].reading)
        for case in cases
        if case.standing is not None
        and case.standing.state.phase is Phase.FIRING
        and case.instance not in changed
        and case.arrivals[-1].reading.at - case.standing.last_at >= SEEN_EVERY
    ]
