"""The value half of a back-test.

Few records are read all. Else hours of the whole channel say where anything could have fired at all, hours of each
device there say which, minutes say when, and records only those minutes in which something begins or ends
(events/replay.py). Texts are in no roll-up: of those the newest records are read.

What is read is bounded (Budget), whatever the data. Devices for which nothing is left are not looked at.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from events.conditions import Condition
from events.replay import Bucket, Item, Replay, Shares, Spell, buckets_that_matter, buckets_within
from streams.backtest_reads import SeriesReader, SpanOf, reading_of, spans_of
from streams.cover import HOUR, MINUTE, Resolution

FEW_RECORDS = 20_000
PART = 6 * HOUR  # minutes of many devices are read by so much at once,
DAY = 24 * HOUR  # and those of one device,
MOSTLY = 0.6  # unless so much of the whole is wanted
ROUNDS = 6  # of looking at records: what begins may show later than it was thought
RECORDS_A_MINUTE = 1_000
DEVICES_BY_RECORD = 200
AFTER_A_STRETCH = 5  # records in which to look for the end of what still fires

Line = tuple[int, str]  # device, key path


@dataclass
class Budget:
    """What one back-test may still read."""

    device_hours: int = 40_000
    minutes: int = 100_000  # times key paths
    raw_minutes: int = 2_000
    records: int = 100_000


class Found(NamedTuple):
    """A firing of a device, at a key path."""

    device_key: int
    path: str
    spell: Spell


@dataclass
class ValuesLook:
    """One tag's values held against a condition; afterwards what was looked at, and from when."""

    reader: SeriesReader
    condition: Condition
    devices: Sequence[int]
    budget: Budget
    looked: int = 0
    resolution: Resolution = Resolution.RAW
    texts_from: datetime | None = None
    coarse: bool = False
    _interesting: dict[int, dict[str, list[datetime]]] = field(default_factory=dict)
    _within: dict[Line, dict[datetime, Bucket]] = field(default_factory=dict)

    def run(self, *, numeric: Sequence[str], others: Sequence[str]) -> list[Found]:
        """`numeric`: the key paths that roll-ups can answer."""
        one = len(self.devices) == 1
        self.looked = len(self.devices)
        count = self.reader.count(self.devices if one else None, most=FEW_RECORDS + 1)
        if count <= FEW_RECORDS:
            return self._by_record([*numeric, *others], most=FEW_RECORDS + 1)
        found = []
        if numeric:
            found += self._by_minute(numeric)
        if others:
            devices = min(len(self.devices), DEVICES_BY_RECORD)
            self.looked = min(self.looked, devices)
            found += self._by_record(others, most=max(self.budget.records // devices, 1))
        return found

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

    def _by_minute(self, paths: Sequence[str]) -> list[Found]:
        hours = self._hours_of_channel(paths)
        if not hours:
            self.resolution = Resolution.HOUR
            return []
        self.resolution = Resolution.MINUTE
        devices = self.devices[: max(self.budget.device_hours // len(hours), 1)]
        self.budget.device_hours = max(self.budget.device_hours - len(devices) * len(hours), 0)
        if len(self.devices) > 1:
            self._interesting = self._hours_of_devices(devices, paths, hours)
        else:
            self._interesting = {self.devices[0]: self._channel_hours}
        items: dict[Line, list[Item]] = {}
        looked = self._minutes(devices, paths, items)
        self.looked = looked
        self._ends_add(items, paths)
        return self._replayed(items)

    def _hours_of_channel(self, paths: Sequence[str]) -> list[datetime]:
        """The hours in which anything at all could fire."""
        devices = self.devices if len(self.devices) == 1 else None
        rows: dict[str, list[Bucket]] = {}
        for _, path, bucket in self._hours(devices, paths, self.reader.low, self.reader.high):
            rows.setdefault(path, []).append(bucket)
        self._channel_hours = {path: buckets_that_matter(self.condition, some) for path, some in rows.items()}
        if devices:
            self._note_within({(devices[0], path): some for path, some in rows.items()})
        return sorted({at for hours in self._channel_hours.values() for at in hours})

    def _hours_of_devices(
        self, devices: Sequence[int], paths: Sequence[str], hours: Sequence[datetime]
    ) -> dict[int, dict[str, list[datetime]]]:
        rows: dict[Line, list[Bucket]] = {}
        for low, high in _few(spans_of(hours, HOUR)):
            for device_key, path, bucket in self._hours(devices, paths, low, high):
                rows.setdefault((device_key, path), []).append(bucket)
        self._note_within(rows)
        found: dict[int, dict[str, list[datetime]]] = {}
        for (device_key, path), some in rows.items():
            matter = buckets_that_matter(self.condition, some)
            if matter:
                found.setdefault(device_key, {})[path] = matter
        return found

    def _note_within(self, rows: dict[Line, list[Bucket]]) -> None:
        """Hours in which it fires throughout need no look at their minutes."""
        for line, some in rows.items():
            within = buckets_within(self.condition, some, width=HOUR)
            self._within[line] = {bucket.at: bucket for bucket in within}

    def _hours(
        self, devices: Sequence[int] | None, paths: Sequence[str], low: datetime, high: datetime
    ) -> Iterator[tuple[int, str, Bucket]]:
        return self.reader.buckets(devices, paths, low=low, high=high, of=Resolution.HOUR)

    def _minutes(self, devices: Sequence[int], paths: Sequence[str], items: dict[Line, list[Item]]) -> int:
        """Read the minutes of interesting hours as far as the budget goes; returns for how many devices it went."""
        looked, chosen = 0, []
        for device_key in devices:
            cost = 60 * sum(len(hours) for _, hours in self._to_read(device_key))
            if cost > self.budget.minutes and looked:
                break
            self.budget.minutes -= cost
            looked += 1
            if device_key in self._interesting:
                chosen.append(device_key)
        wanted: dict[Line, set[datetime]] = {}
        parts: dict[datetime, dict[int, set[str]]] = {}
        width = self._width(chosen)
        base = self.reader.low.replace(minute=0, second=0, microsecond=0)  # parts are of whole hours
        for device_key in chosen:
            for path, hours in self._to_read(device_key):
                wanted[device_key, path] = set(hours)
                for at in hours:
                    part = base + (at - base) // width * width
                    parts.setdefault(part, {}).setdefault(device_key, set()).add(path)
            for path in self._interesting[device_key]:
                items[device_key, path] = list(self._within[device_key, path].values())
        for part, by_device in sorted(parts.items()):
            some = [path for path in paths if any(path in own for own in by_device.values())]
            hours = [
                at
                for device_key, own in by_device.items()
                for path in own
                for at in wanted[device_key, path]
                if part <= at < part + width
            ]
            for device_key, path, bucket in self.reader.buckets(
                sorted(by_device),
                some,
                low=min(hours),
                high=max(hours) + HOUR,
                of=Resolution.MINUTE,
            ):
                if bucket.at.replace(minute=0) in wanted.get((device_key, path), ()):
                    items[device_key, path].append(bucket)
        return looked

    def _to_read(self, device_key: int) -> Iterator[tuple[str, list[datetime]]]:
        """By key path the hours of a device whose minutes are to be looked at."""
        for path, hours in self._interesting.get(device_key, {}).items():
            within = self._within[device_key, path]
            yield path, [at for at in hours if at not in within]

    def _width(self, chosen: Sequence[int]) -> timedelta:
        """How much time is read at once."""
        if len(chosen) != 1:
            return PART
        hours = {at for _, some in self._to_read(chosen[0]) for at in some}
        span = (self.reader.high - self.reader.low) // HOUR * HOUR + 2 * HOUR
        return span if len(hours) * HOUR > MOSTLY * span else DAY

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
        replays = {line: self._replay(own) for line, own in items.items()}
        unsure = {line: replay.unsure for line, replay in replays.items() if replay.unsure}
        for _ in range(ROUNDS):
            unsure = self._affordable(unsure)
            if not unsure:
                break
            self._records_put(items, unsure)
            for line in unsure:
                replays[line] = self._replay(items[line])
            unsure = {line: replays[line].unsure for line in unsure if replays[line].unsure}
        self.coarse = any(not spell.exact for replay in replays.values() for spell in replay.spells)
        return [Found(*line, spell) for line, replay in replays.items() for spell in replay.spells]

    def _replay(self, items: Iterable[Item]) -> Replay:
        replay = Replay(self.condition, width=MINUTE)
        replay.run(items)
        return replay

    def _affordable(self, unsure: dict[Line, list[datetime]]) -> dict[Line, list[datetime]]:
        """The newest first, since those are asked for most."""
        found: dict[Line, list[datetime]] = {}
        for line, minutes in unsure.items():
            minutes = list(dict.fromkeys(minutes))
            some = minutes[-self.budget.raw_minutes :] if self.budget.raw_minutes else []
            self.budget.raw_minutes -= len(some)
            if some:
                found[line] = some
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
