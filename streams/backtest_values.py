"""The value half of a back-test.

Few records are read all. Else hours of the whole channel say where anything could have fired at all, hours of each
device there say which, minutes say when, and records only those minutes in which something begins or ends
(events/replay.py). Texts are in no roll-up: of those the newest records are read.

What is read is bounded (Budget), whatever the data. Devices for which nothing is left are not looked at.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from events.conditions import Condition
from events.replay import Bucket, Item, Replay, Spell, buckets_that_matter
from streams.backtest_reads import SeriesReader, SpanOf, reading_of, spans_of
from streams.cover import HOUR, MINUTE, Resolution

FEW_RECORDS = 20_000
PART = 6 * HOUR  # minutes of many devices are read by so much at once
ROUNDS = 6  # of looking at records: what begins may show later than it was thought
RECORDS_A_MINUTE = 1_000
DEVICES_BY_RECORD = 200
AFTER_A_STRETCH = 5  # records in which to look for the end of what still fires

Line = tuple[int, str]  # device, key path


@dataclass
class Budget:
    """What one back-test may still read."""

    device_hours: int = 60_000
    minutes: int = 130_000  # times key paths
    raw_minutes: int = 3_000
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
        return sorted({at for hours in self._channel_hours.values() for at in hours})

    def _hours_of_devices(
        self, devices: Sequence[int], paths: Sequence[str], hours: Sequence[datetime]
    ) -> dict[int, dict[str, list[datetime]]]:
        rows: dict[Line, list[Bucket]] = {}
        for low, high in _few(spans_of(hours, HOUR)):
            for device_key, path, bucket in self._hours(devices, paths, low, high):
                rows.setdefault((device_key, path), []).append(bucket)
        found: dict[int, dict[str, list[datetime]]] = {}
        for (device_key, path), some in rows.items():
            matter = buckets_that_matter(self.condition, some)
            if matter:
                found.setdefault(device_key, {})[path] = matter
        return found

    def _hours(
        self, devices: Sequence[int] | None, paths: Sequence[str], low: datetime, high: datetime
    ) -> Iterator[tuple[int, str, Bucket]]:
        return self.reader.buckets(devices, paths, low=low, high=high, of=Resolution.HOUR)

    def _minutes(self, devices: Sequence[int], paths: Sequence[str], items: dict[Line, list[Item]]) -> int:
        """Read the minutes of interesting hours as far as the budget goes; returns for how many devices it went."""
        looked, chosen = 0, []
        for device_key in devices:
            own = self._interesting.get(device_key, {})
            cost = 60 * sum(map(len, own.values()))
            if cost > self.budget.minutes and looked:
                break
            self.budget.minutes -= cost
            looked += 1
            if own:
                chosen.append(device_key)
        parts: dict[datetime, dict[int, set[str]]] = {}
        width = PART if len(chosen) > 1 else self.reader.high - self.reader.low
        wanted: set[tuple[int, str, datetime]] = set()
        for device_key in chosen:
            for path, hours in self._interesting[device_key].items():
                for at in hours:
                    part = self.reader.low + (at - self.reader.low) // width * width
                    parts.setdefault(part, {}).setdefault(device_key, set()).add(path)
                    wanted.add((device_key, path, at))
        for part, by_device in sorted(parts.items()):
            some = [path for path in paths if any(path in own for own in by_device.values())]
            low, high = self._edges(part, part + width, by_device)
            for device_key, path, bucket in self.reader.buckets(
                sorted(by_device), some, low=low, high=high, of=Resolution.MINUTE
            ):
                if (device_key, path, bucket.at.replace(minute=0)) in wanted:
                    items.setdefault((device_key, path), []).append(bucket)
        return looked

    def _edges(
        self, low: datetime, high: datetime, by_device: dict[int, set[str]]
    ) -> tuple[datetime, datetime]:
        """The part of these times in which an hour is interesting for one of the devices."""
        hours = [
            at
            for device_key, paths in by_device.items()
            for path in paths
            for at in self._interesting[device_key][path]
            if low - HOUR < at < high
        ]
        return max(low, min(hours)), min(high, max(hours) + HOUR)

    def _ends_add(self, items: dict[Line, list[Item]], paths: Sequence[str]) -> None:
        """Beyond each stretch of interesting hours the first records, of which one ends what still fires."""
        stretches: set[SpanOf] = set()
        for device_key, path in items:
            own = spans_of(self._interesting[device_key][path], HOUR)
            nexts = [low for low, _ in own[1:]] + [self.reader.high]
            for (_, high), next_low in zip(own, nexts, strict=True):
                if high < next_low:
                    stretches.add(SpanOf(device_key, high, next_low))
        for part in _parts(sorted(stretches), 2_000):
            for device_key, at, values in self.reader.records(part, paths, most=AFTER_A_STRETCH):
                for path, some in zip(paths, values, strict=True):
                    if some and (device_key, path) in items:
                        items[device_key, path].append(reading_of(at, some))
        for some_items in items.values():
            some_items.sort(key=_order)

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
