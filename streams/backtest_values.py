"""The value half of a back-test.

Few records are read all. Else hours of the whole channel say where anything could have fired at all, hours of each
device there say which, minutes say when, and records only those minutes in which something begins or ends
(events/replay.py). Texts are in no roll-up: of those the newest records are read.

What is read is bounded (Budget), whatever the data, and so is the time. Devices are looked at some at a time, of each
the newest hours first: what was not reached is left out, as if the span began later, and said.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from django.db import OperationalError, transaction

from events.conditions import Condition
from events.replay import (
    Bucket,
    Item,
    Replay,
    Shares,
    Spell,
    buckets_that_matter,
    buckets_within,
    minutes_that_matter,
)
from streams.backtest_patience import TimeIsOver
from streams.backtest_reads import SeriesReader, SpanOf, reading_of, spans_of
from streams.backtest_rolled import Line, RolledLines
from streams.cover import HOUR, MINUTE, Resolution

FEW_RECORDS = 20_000
HOURS_AT_ONCE = 400  # of devices and key paths, whose minutes are read by one query
FIRST_DEVICES = 4  # are looked at before it is known how long one takes
GROWTH = 4
FOR_MINUTES = 0.4  # of the time that is left; then come the ends of firings, and records
A_MINUTES_RECORDS_S = 0.0005  # to read and to run through
A_RECORD_S = 0.00003
ROUNDS = 6  # of looking at records: what begins may show later than it was thought
RECORDS_A_MINUTE = 1_000
DEVICES_BY_RECORD = 200
AFTER_A_STRETCH = 5  # records in which to look for the end of what still fires

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Budget:
    """What one back-test may still read."""

    device_hours: int = 400_000
    minutes: int = 300_000  # times key paths
    raw_minutes: int = 2_000
    records: int = 100_000
    left_s: Callable[[], float] = lambda: math.inf


class Found(NamedTuple):
    """A firing of a device, at a key path."""

    device_key: int
    path: str
    spell: Spell


@dataclass
class ValuesLook:
    """One tag's values held against a condition; afterwards what was looked at, and from when.

    It may be broken off when the time is over: what was found before is in `found`.
    """

    reader: SeriesReader
    condition: Condition
    devices: Sequence[int]
    budget: Budget
    found: list[Found] = field(default_factory=list)
    looked: int = 0
    resolution: Resolution = Resolution.RAW
    texts_from: datetime | None = None
    values_from: datetime | None = None
    coarse: bool = False
    _interesting: dict[int, dict[str, list[datetime]]] = field(default_factory=dict)
    _within: dict[Line, dict[datetime, Bucket]] = field(default_factory=dict)

    def run(self, *, numeric: Sequence[str], others: Sequence[str]) -> None:
        """`numeric`: the key paths that roll-ups can answer."""
        one = len(self.devices) == 1
        count = self.reader.count(self.devices if one else None, most=FEW_RECORDS + 1)
        if count <= FEW_RECORDS:
            self.looked = len(self.devices)
            self.found += self._by_record([*numeric, *others], most=FEW_RECORDS + 1)
            return
        if numeric:
            self._by_minute(numeric)
        if others:
            devices = min(len(self.devices), DEVICES_BY_RECORD)
            self.looked = min(self.looked, devices) if numeric else devices
            records = min(self.budget.records, self.budget.left_s() * FOR_MINUTES / A_RECORD_S)
            self.found += self._by_record(others, most=max(int(records) // max(devices, 1), 1))

    # --- records alone ---

    def _by_record(self, paths: Sequence[str], *, most: int) -> list[Found]:
        spans = [SpanOf(key, self.reader.low, self.reader.high) for key in self.devices[: self.looked]]
        replays: dict[Line, Replay] = {}
        counts: dict[int, int] = {}
        firsts: dict[int, datetime] = {}
        for device_key, at, values in self.reader.records(spans, paths, most=most, newest=True):
            counts[device_key] = counts.get(device_key, 0) + 1
            firsts.setdefault(device_key, at)
            for path, some in zip(paths, values, strict=True):
                if some:
                    line = (device_key, path)
                    if line not in replays:
                        replays[line] = Replay(self.condition, width=MINUTE)
                    replays[line].run([reading_of(at, some)])
        cut = [firsts[key] for key, count in counts.items() if count >= most]
        if cut:
            self.texts_from = max(cut)
        return [Found(*line, spell) for line, replay in replays.items() for spell in replay.spells]

    # --- hours, then minutes, then records ---

    def _by_minute(self, paths: Sequence[str]) -> None:
        hours = self._hours_of_channel(paths)
        if not hours:
            self.resolution = Resolution.HOUR
            self.looked = len(self.devices)
            return
        self.resolution = Resolution.MINUTE
        if len(self.devices) == 1:
            self._interesting = {self.devices[0]: self._channel_hours}
            self._some(self.devices, paths)
            return
        count = FIRST_DEVICES
        left_s = self.budget.left_s()
        while self.looked < len(self.devices) and self.values_from is None:
            count = min(count, self.budget.device_hours // len(hours))
            if self.looked and (count <= 0 or self.budget.minutes <= 0):
                break
            some = self.devices[self.looked : self.looked + max(count, 1)]
            self.budget.device_hours = max(self.budget.device_hours - len(some) * len(hours), 0)
            self._interesting = self._hours_of_devices(some, paths, hours)
            looked = self._some(some, paths)
            if looked < len(some):
                break
            before_s, left_s = left_s, self.budget.left_s()
            if left_s == math.inf:
                count *= GROWTH
            else:
                each_s = max((before_s - left_s) / looked, 1e-6)
                count = min(count * GROWTH, int(left_s * FOR_MINUTES / each_s))

    def _some(self, devices: Sequence[int], paths: Sequence[str]) -> int:
        """Look at the minutes and records of some devices; returns how many of them."""
        items: dict[Line, list[Item]] = {}
        looked = self._minutes(devices, paths, items)
        self._ends_add(items, paths)
        self.found += self._replayed(items)
        self.looked += looked
        return looked

    def _hours_of_channel(self, paths: Sequence[str]) -> list[datetime]:
        """The hours in which anything at all could fire."""
        devices = self.devices if len(self.devices) == 1 else None
        rows: dict[str, list[Bucket]] = {}
        low, high = self.reader.low, self.reader.high
        for _, path, bucket in self.reader.buckets(devices, paths, low=low, high=high, of=Resolution.HOUR):
            rows.setdefault(path, []).append(bucket)
        self._channel_hours = {path: buckets_that_matter(self.condition, some) for path, some in rows.items()}
        if devices:
            self._note_within({(devices[0], path): some for path, some in rows.items()})
        return sorted({at for hours in self._channel_hours.values() for at in hours})

    def _hours_of_devices(
        self, devices: Sequence[int], paths: Sequence[str], hours: Sequence[datetime]
    ) -> dict[int, dict[str, list[datetime]]]:
        spans = _few(spans_of(hours, HOUR))
        wanted = {(device_key, path): spans for device_key in devices for path in paths}
        rolled = RolledLines(self.reader, devices, paths, of=Resolution.HOUR)
        rows: dict[Line, list[Bucket]] = {
            line: [
                Bucket(_EPOCH + number * HOUR, low, high) for number, low, high in zip(*columns, strict=True)
            ]
            for line, columns in rolled.read(wanted)
        }
        for line, bucket in rolled.rest(wanted):
            rows.setdefault(line, []).append(bucket)
        for some in rows.values():
            some.sort()
        self._note_within(rows)
        found: dict[int, dict[str, list[datetime]]] = {}
        for (device_key, path), some in rows.items():
            matter = buckets_that_matter(self.condition, some)
            if matter:
                found.setdefault(device_key, {})[path] = matter
        return found

    def _note_within(self, rows: dict[Line, list[Bucket]]) -> None:
        """Hours in which it fires throughout need no look at their minutes."""
        self._within = {}
        for line, some in rows.items():
            within = buckets_within(self.condition, some, width=HOUR)
            self._within[line] = {bucket.at: bucket for bucket in within}

    def _minutes(self, devices: Sequence[int], paths: Sequence[str], items: dict[Line, list[Item]]) -> int:
        """Read the minutes of interesting hours as far as budget and time go; returns for how many devices it went.

        The newest hours first. Where the time ends, all before that is left out.
        """
        looked, chosen = 0, []
        for device_key in devices:
            cost = 60 * sum(len(hours) for _, hours in self._to_read(device_key))
            if cost > self.budget.minutes and (looked or self.looked):
                break
            self.budget.minutes -= cost
            looked += 1
            if device_key in self._interesting:
                chosen.append(device_key)
        hours = [
            (at, (device_key, path))
            for device_key in chosen
            for path, some in self._to_read(device_key)
            for at in some
        ]
        hours.sort(reverse=True)
        rolled = RolledLines(self.reader, devices, paths, of=Resolution.MINUTE)
        begin_s = self.budget.left_s()
        read: dict[Line, list[Item]] = {}
        since, place = self.reader.low, 0
        while place < len(hours):
            if place and self.budget.left_s() < begin_s * (1 - FOR_MINUTES):
                since = self.values_from = hours[place - 1][0]
                break
            end = min(place + HOURS_AT_ONCE, len(hours))
            while end < len(hours) and hours[end][0] == hours[end - 1][0]:
                end += 1
            wanted: dict[Line, list[datetime]] = {}
            for at, line in reversed(hours[place:end]):
                wanted.setdefault(line, []).append(at)
            spans = {line: spans_of(some, HOUR) for line, some in wanted.items()}
            for line, columns in rolled.read(spans):
                read.setdefault(line, []).extend(minutes_that_matter(self.condition, *columns))
            for line, bucket in rolled.rest(spans):
                read.setdefault(line, []).append(bucket)
            place = end
        for device_key in chosen:
            for path, at_hours in self._interesting[device_key].items():
                line = (device_key, path)
                if self.values_from is not None:
                    at_hours[:] = [at for at in at_hours if at >= since]
                within = [
                    one for at, one in self._within[line].items() if at >= since or not self.values_from
                ]
                items[line] = [*within, *read.get(line, ())]
        return looked

    def _to_read(self, device_key: int) -> Iterator[tuple[str, list[datetime]]]:
        """By key path the hours of a device whose minutes are to be looked at."""
        for path, hours in self._interesting.get(device_key, {}).items():
            within = self._within[device_key, path]
            yield path, [at for at in hours if at not in within]

    def _ends_add(self, items: dict[Line, list[Item]], paths: Sequence[str]) -> None:
        """Beyond each stretch of interesting hours that may end in a firing the first records, of which one ends it."""
        fires, holds = Shares.of(self.condition.fires), Shares.of(self.condition.holds)
        stretches: set[SpanOf] = set()
        for (device_key, path), own in items.items():
            own.sort(key=_order)
            last = {
                one.at.replace(minute=0): one for one in own if isinstance(one, Bucket)
            }  # of each hour the last minute
            spans = spans_of(self._interesting[device_key][path], HOUR)
            nexts = [low for low, _ in spans[1:]] + [self.reader.high]
            for (_, high), next_low in zip(spans, nexts, strict=True):
                one = last.get(high - HOUR)
                may_go_on = one is None or fires.some(*one[1:]) or holds.some(*one[1:])
                if high < next_low and may_go_on:
                    stretches.add(SpanOf(device_key, high, next_low))
        for part in _parts(sorted(stretches), 2_000):
            for device_key, at, values in self.reader.records(part, paths, most=AFTER_A_STRETCH):
                for path, some in zip(paths, values, strict=True):
                    if some and (device_key, path) in items:
                        items[device_key, path].append(reading_of(at, some))
        for own in items.values():
            own.sort(key=_order)

    def _replayed(self, items: dict[Line, list[Item]]) -> list[Found]:
        """Run through all of it; where something is unsure, again with the records of those minutes."""
        began_s = self.budget.left_s()
        replays = {line: self._replay(own) for line, own in items.items()}
        took_s = max(began_s - self.budget.left_s(), 0.0) if began_s != math.inf else 0.0
        unsure = {line: replay.unsure for line, replay in replays.items() if replay.unsure}
        for _ in range(ROUNDS):
            unsure = self._affordable(unsure, took_s=took_s)
            if not unsure:
                break
            try:
                with transaction.atomic():
                    self._records_put(items, unsure)
            except (OperationalError, TimeIsOver):  # what is known to the minute is worth telling
                break
            for line in unsure:
                replays[line] = self._replay(items[line])
            unsure = {line: replays[line].unsure for line in unsure if replays[line].unsure}
        self.coarse = any(not spell.exact for replay in replays.values() for spell in replay.spells)
        return [Found(*line, spell) for line, replay in replays.items() for spell in replay.spells]

    def _replay(self, items: Iterable[Item]) -> Replay:
        replay = Replay(self.condition, width=MINUTE)
        replay.run(items)
        return replay

    def _affordable(self, unsure: dict[Line, list[datetime]], *, took_s: float) -> dict[Line, list[datetime]]:
        """The newest first, since those are asked for most; as many as budget and time allow."""
        count = self.budget.raw_minutes
        left_s = self.budget.left_s()
        if left_s != math.inf:
            count = min(count, int((left_s * FOR_MINUTES - took_s) / A_MINUTES_RECORDS_S))
        minutes = sorted(((at, line) for line, some in unsure.items() for at in set(some)), reverse=True)
        minutes = minutes[: max(count, 0)]
        self.budget.raw_minutes -= len(minutes)
        found: dict[Line, list[datetime]] = {}
        for at, line in minutes:
            found.setdefault(line, []).append(at)
        return found

    def _records_put(self, items: dict[Line, list[Item]], unsure: dict[Line, list[datetime]]) -> None:
        """Put records in the place of these minutes."""
        paths = sorted({path for _, path in unsure})
        by_device: dict[int, set[datetime]] = {}
        for (device_key, _), minutes in unsure.items():
            by_device.setdefault(device_key, set()).update(minutes)
        spans = [
            SpanOf(key, low, high)
            for key, minutes in sorted(by_device.items())
            for low, high in spans_of(sorted(minutes), MINUTE)
        ]
        read: dict[Line, list[Item]] = {}
        most = RECORDS_A_MINUTE * max((span.high - span.low) // MINUTE for span in spans)
        for device_key, at, values in self.reader.records(spans, paths, most=most):
            for path, some in zip(paths, values, strict=True):
                if some and (device_key, path) in unsure:
                    read.setdefault((device_key, path), []).append(reading_of(at, some))
        for line, minutes in unsure.items():
            gone = set(minutes)
            kept = [one for one in items[line] if not (isinstance(one, Bucket) and one.at in gone)]
            got = [one for one in read.get(line, ()) if one.at.replace(second=0, microsecond=0) in gone]
            items[line] = sorted([*kept, *got], key=_order)


def _order(item: Item) -> tuple[datetime, bool]:
    return item.at, not isinstance(item, Bucket)


def _few(spans: list[tuple[datetime, datetime]], *, most: int = 24) -> list[tuple[datetime, datetime]]:
    """At most so many, those with the shortest gap joined."""
    while len(spans) > most:
        gaps = [(spans[n + 1][0] - spans[n][1], n) for n in range(len(spans) - 1)]
        limit = sorted(gaps)[len(spans) - most - 1][0]
        joined = [spans[0]]
        for low, high in spans[1:]:
            if low - joined[-1][1] <= limit:
                joined[-1] = (joined[-1][0], high)
            else:
                joined.append((low, high))
        spans = joined
    return spans


def _parts(spans: Sequence[SpanOf], size: int) -> Iterator[Sequence[SpanOf]]:
    return (spans[place : place + size] for place in range(0, len(spans), size))
