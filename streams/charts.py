"""Chart data: several key paths of a device or channel over a span, raw where few, in even buckets where many.

One pass over the records serves all paths. Minimum and maximum stand beside the average, so that spikes survive.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from channels.keys import BARE_KEY, key_split

MOST_POINTS = 600
MOST_KEYS = 120
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


def chart(
    source: Source, keys: Sequence[str], *, start: datetime, end: datetime, points: int = MOST_POINTS
) -> Chart:
    """The numbers at these key paths from `start` up to, not including, `end`; yes and no count as 1 and 0."""
    keys = list(dict.fromkeys(keys))[:MOST_KEYS]
    if not keys or end <= start:
        return Chart(0, [], {key: Series() for key in keys})
    step_s = 0 if _count(source, start, end, points) <= points else step_for(end - start, points=points)
    with connection.cursor() as cursor:
        cursor.execute(*_chart_sql(source, keys, start=start, end=end, step_s=step_s))
        rows = cursor.fetchall()
    return _assemble(keys, rows, step_s=step_s)


def step_for(span: timedelta, *, points: int) -> int:
    """The smallest even width that needs no more than `points` buckets."""
    least = span.total_seconds() / points
    return next((step for step in STEPS_S if step >= least), STEPS_S[-1])


def sparklines(
    device_keys: Sequence[int], keys: Sequence[str], *, start: datetime, end: datetime, points: int = 40
) -> Mapping[int, dict[str, list[float | None]]]:
    """For many devices at once: device key -> key path -> `points` averages, None where nothing was sent."""
    step_s = max(1.0, (end - start).total_seconds() / points)
    columns, parameters = _columns(keys)
    averages = ", ".join(f"avg(k{number})" for number in range(len(keys)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT device_key, floor(extract(epoch FROM at - %s) / %s)::int, {averages}"
            f" FROM (SELECT device_key, at, {columns} FROM streams_record"
            " WHERE device_key = ANY(%s) AND at >= %s AND at < %s) AS r GROUP BY 1, 2",
            [start, step_s, *parameters, list(device_keys), start, end],
        )
        rows = cursor.fetchall()
    lines: dict[int, dict[str, list[float | None]]] = {
        device_key: {key: [None] * points for key in keys} for device_key in device_keys
    }
    for device_key, bucket, *values in rows:
        for key, value in zip(keys, values, strict=True):
            lines[device_key][key][min(bucket, points - 1)] = None if value is None else round(value, 3)
    return lines


def _count(source: Source, start: datetime, end: datetime, most: int) -> int:
    """How many records there are, counted only as far as it matters."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM streams_record WHERE {source.column} = %s"
            " AND at >= %s AND at < %s LIMIT %s) AS few",
            [source.key, start, end, most + 1],
        )
        return int(cursor.fetchone()[0])


def _chart_sql(
    source: Source, keys: Sequence[str], *, start: datetime, end: datetime, step_s: int
) -> tuple[str, list[Any]]:
    columns, parameters = _columns(keys)
    bucket = "date_bin(make_interval(secs => %s), at, %s)" if step_s else "at"
    folds = ", ".join(f"avg(k{n}), min(k{n}), max(k{n})" for n in range(len(keys)))
    sql = (
        f"SELECT {bucket}, {folds} FROM (SELECT at, {columns} FROM streams_record"
        f" WHERE {source.column} = %s AND at >= %s AND at < %s) AS r GROUP BY 1 ORDER BY 1"
    )
    return sql, [*([step_s, _ORIGIN] if step_s else []), *parameters, source.key, start, end]


def _columns(keys: Sequence[str]) -> tuple[str, list[Any]]:
    """SQL columns k0, k1, ... with the number at each path, NULL for what is no number, and their parameters."""
    columns, parameters = [], []
    for number, key in enumerate(keys):
        found = "value #> %s"
        if key == BARE_KEY:  # also what a bare number is called
            found = "CASE jsonb_typeof(value) WHEN 'object' THEN value #> %s ELSE value END"
        columns.append(
            f"CASE coalesce(jsonb_typeof({found}), 'array')"
            f" WHEN 'number' THEN {_clamped(f'({found})::float8')}"
            f" WHEN 'boolean' THEN ({found})::boolean::int::float8"
            f" WHEN 'array' THEN (SELECT avg({_clamped('element::float8')})"
            f" FROM jsonb_path_query(value, %s::jsonpath) AS element WHERE jsonb_typeof(element) = 'number')"
            f" END AS k{number}"
        )
        levels = key_split(key)
        parameters += [list(levels)] * 3 + [_pooled(levels)]
    return ", ".join(columns), parameters


def _clamped(number: str) -> str:
    """SQL for a number small enough that a sum of many is still one."""
    return f"least(greatest({number}, -1e300), 1e300)"


def _pooled(levels: Sequence[str]) -> str:
    """A jsonpath that also finds the path's numbers inside arrays on the way: they pool under one path."""
    return "lax $" + "".join(f".{json.dumps(level)}" for level in levels) + "[*]"


def _assemble(keys: Sequence[str], rows: Sequence[tuple[Any, ...]], *, step_s: int) -> Chart:
    series = {key: Series() for key in keys}
    for _, *folds in rows:
        for place, key in enumerate(keys):
            one = series[key]
            one.avg.append(folds[3 * place])
            one.min.append(folds[3 * place + 1])
            one.max.append(folds[3 * place + 2])
    return Chart(step_s, [row[0] for row in rows], series)
