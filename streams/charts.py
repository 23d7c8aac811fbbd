"""Chart data: several key paths of a device or channel over a span, raw where few, in even buckets where many.

One pass serves all paths, over roll-ups where the buckets allow it. Minimum and maximum stand beside the average, so
that spikes survive.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from channels.keys import key_split
from streams.cover import HOUR, MINUTE, Resolution
from streams.folds import Aggregate, Folds, Scope, of_devices, of_records, reading
from streams.selectors import RecordFilter

MOST_POINTS = 600
MOST_KEYS = 120
MOST_RAW = 20_000  # records of a chart whose steps are shorter than a minute; beyond, its steps are minutes
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800)
_ORIGIN = datetime(2000, 1, 3, tzinfo=UTC)  # a Monday, so that weeks begin on one


@dataclass(frozen=True)
class Source:
    """Whose records: a device's, or those of all devices in a channel."""

    column: str
    key: int

    @classmethod
    def device(cls, key: int) -> "Source":
        return cls("device_key", key)

    @classmethod
    def channel(cls, key: int) -> "Source":
        return cls("channel_key", key)

    @property
    def scope(self) -> Scope:
        if self.column == "device_key":
            return of_devices([self.key])
        return of_records(RecordFilter(self.key, low=_ORIGIN, high=_ORIGIN))


@dataclass(frozen=True)
class Series:
    """One key path: for each time of the chart average, minimum and maximum, None where there was nothing."""

    avg: list[float | None] = field(default_factory=list)
    min: list[float | None] = field(default_factory=list)
    max: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """`step_s` is the width of the buckets in seconds, 0 for raw records. `times` are their beginnings."""

    step_s: int
    times: list[datetime]
    series: dict[str, Series]
    resolution: Resolution = Resolution.RAW


def chart(
    source: Source, keys: Sequence[str], *, start: datetime, end: datetime, points: int = MOST_POINTS
) -> Chart:
    """The numbers at these key paths from `start` up to, not including, `end`; yes and no count as 1 and 0."""
    keys = list(dict.fromkeys(keys))[:MOST_KEYS]
    if not keys or end <= start:
        return Chart(0, [], {key: Series() for key in keys})
    with reading():
        step_s = _step(source.scope, start, end, points=points)
        folds = Folds(
            source.scope,
            [key_split(key) for key in keys],
            low=start,
            high=end,
            bucket="date_bin(make_interval(secs => %(step_s)s), at, %(origin)s)" if step_s else "at",
            values={"step_s": step_s, "origin": _ORIGIN},
            coarsest=_coarsest(step_s),
            booleans=True,
        )
        rows = folds.rows(_AGGREGATES)
    if step_s:
        rows = [row for row in rows if any(value is not None for value in row[1:])]
    return _assemble(keys, rows, step_s=step_s, resolution=folds.cover.resolution)


def step_for(span: timedelta, *, points: int) -> int:
    """The smallest even width that needs no more than `points` buckets."""
    least = span.total_seconds() / points
    return next((step for step in STEPS_S if step >= least), STEPS_S[-1])


def sparklines(
    device_keys: Sequence[int], keys: Sequence[str], *, start: datetime, end: datetime, points: int = 40
) -> Mapping[int, dict[str, list[float | None]]]:
    """For many devices at once: device key -> key path -> `points` averages or fewer, None where nothing was sent.

    Steps of a minute and more are whole minutes from a whole minute on, so that roll-ups serve.
    """
    step_s = max(1, math.ceil((end - start).total_seconds() / points))
    if step_s >= 60:
        step_s, start = math.ceil(step_s / 60) * 60, start.replace(second=0, microsecond=0)
    with reading():
        folds = Folds(
            of_devices(device_keys),
            [key_split(key) for key in keys],
            low=start,
            high=end,
            bucket="floor(extract(epoch FROM at - %(start)s) / %(step_s)s)::int",
            values={"start": start, "step_s": step_s},
            coarsest=Resolution.RAW if step_s < 60 else Resolution.MINUTE,
            booleans=True,
            by_device=True,
        )
        rows = folds.rows([_average])
    count = math.ceil((end - start).total_seconds() / step_s)
    lines: dict[int, dict[str, list[float | None]]] = {
        device_key: {key: [None] * count for key in keys} for device_key in device_keys
    }
    for bucket, device_key, *values in rows:
        for key, value in zip(keys, values, strict=True):
            lines[device_key][key][bucket] = None if value is None else round(value, 3)
    return lines


def _step(scope: Scope, start: datetime, end: datetime, *, points: int) -> int:
    step_s = step_for(end - start, points=points)
    count = Folds(scope, [], low=start, high=end).records(most=points + 1)
    if count <= points:
        return 0
    return max(step_s, 60) if count > MOST_RAW else step_s


def _coarsest(step_s: int) -> Resolution:
    """What buckets of this width can be made from; they all begin with a minute or hour."""
    if not step_s or step_s % MINUTE.total_seconds():
        return Resolution.RAW
    return Resolution.MINUTE if step_s % HOUR.total_seconds() else Resolution.HOUR


def _average(count: str, total: str, low: str, high: str) -> str:
    return _clamped(f"{total} / nullif({count}, 0)", count)


def _low(count: str, total: str, low: str, high: str) -> str:
    return _clamped(low, count)


def _high(count: str, total: str, low: str, high: str) -> str:
    return _clamped(high, count)


_AGGREGATES: list[Aggregate] = [_average, _low, _high]


def _clamped(number: str, count: str) -> str:
    """SQL for a number that a browser can draw, NULL where there is none."""
    return f"CASE WHEN {count} > 0 THEN least(greatest({number}, -1e300), 1e300)::float8 END"


def _assemble(
    keys: Sequence[str], rows: Sequence[tuple[Any, ...]], *, step_s: int, resolution: Resolution
) -> Chart:
    series = {key: Series() for key in keys}
    for _, *folds in rows:
        for place, key in enumerate(keys):
            one = series[key]
            one.avg.append(folds[3 * place])
            one.min.append(folds[3 * place + 1])
            one.max.append(folds[3 * place + 2])
    return Chart(step_s, [row[0] for row in rows], series, resolution)
