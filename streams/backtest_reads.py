"""What a back-test reads: minutes and hours of many devices from roll-ups, and records where they are needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from django.db import connection

from channels.keys import Scalar, key_split
from events.machine import Reading
from events.replay import NO_AGE, Bucket
from streams.cover import HOUR, Resolution
from streams.folds import Folds, Scope
from streams.numbers import OBJECT, pooled_path
from streams.rollup_rows import EVERY_DEVICE
from streams.selectors import BEGINNING

_SPANS_SQL = """
SELECT w.device_key, q.at, {paths} FROM unnest(%(devices)s::bigint[], %(lows)s::timestamptz[], %(highs)s::timestamptz[])
    AS w (device_key, low, high)
CROSS JOIN LATERAL (
    SELECT r.at, {object} AS object FROM streams_record AS r
    WHERE r.device_key = w.device_key AND r.at >= w.low AND r.at < w.high AND r.at >= %(low)s AND r.at < %(high)s
      AND r.channel_key = %(channel)s AND coalesce(r.tag, '') = %(tag)s
      AND (r.value ?| %(names)s::text[] OR jsonb_typeof(r.value) <> 'object')
    ORDER BY r.at {order}, r.digest {order} LIMIT %(most)s
) AS q ORDER BY 1, 2
"""


class SpanOf(NamedTuple):
    """Times of a device: low <= at < high."""

    device_key: int
    low: datetime
    high: datetime


@dataclass(frozen=True)
class SeriesReader:
    """Records of a channel under one tag ("": none), between `low` and `high`."""

    channel_key: int
    tag: str
    low: datetime
    high: datetime

    def count(self, device_keys: Sequence[int] | None, *, most: int) -> int:
        """About how many records there are; beyond `most` no further."""
        return Folds(self._scope(device_keys), [], low=self.low, high=self.high).records(most=most)

    def buckets(
        self,
        device_keys: Sequence[int] | None,
        paths: Sequence[str],
        *,
        low: datetime,
        high: datetime,
        of: Resolution,
    ) -> Iterator[tuple[int, str, Bucket]]:
        """Device key (0: all devices of the channel together), key path and its minute or hour, in order of time."""
        folds = self.folds(device_keys, paths, low=max(low, self.low), high=min(high, self.high), of=of)
        for row in folds.rows([_low, _high]):
            device_key, numbers = (0, row[1:]) if device_keys is None else (row[1], row[2:])
            for place, path in enumerate(paths):
                if numbers[2 * place] is not None:
                    yield device_key, path, Bucket(row[0], numbers[2 * place], numbers[2 * place + 1])

    def folds(
        self,
        device_keys: Sequence[int] | None,
        paths: Sequence[str],
        *,
        low: datetime,
        high: datetime,
        of: Resolution,
    ) -> Folds:
        """What minutes or hours are made of."""
        return Folds(
            self._scope(device_keys),
            [key_split(path) for path in paths],
            low=low,
            high=high,
            bucket=f"date_trunc('{of}', at, 'UTC')",
            coarsest=of,
            booleans=True,
            by_device=device_keys is not None,
        )

    def averages(
        self, device_keys: Sequence[int], paths: Sequence[str], *, step: timedelta
    ) -> Iterator[tuple[int, str, datetime, float]]:
        """Device key, key path, time and average of each `step`, whole minutes or an hour, in order of time."""
        folds = Folds(
            self._scope(device_keys),
            [key_split(path) for path in paths],
            low=self.low,
            high=self.high,
            bucket="date_bin(%(step)s, at, %(origin)s)",
            values={"step": step, "origin": BEGINNING},
            coarsest=Resolution.HOUR if step >= HOUR else Resolution.MINUTE,
            booleans=True,
            by_device=True,
        )
        for at, device_key, *numbers in folds.rows([_average]):
            for path, value in zip(paths, numbers, strict=True):
                if value is not None:
                    yield device_key, path, at, value

    def records(
        self, spans: Sequence[SpanOf], paths: Sequence[str], *, most: int, newest: bool = False
    ) -> Iterator[tuple[int, datetime, list[list[Scalar]]]]:
        """Device key, time and the values at each path of the records in each span, by device and time.

        The oldest `most` of a span, or the newest. Records without any of the paths' first levels are left out.
        """
        if not spans:
            return
        values: dict[str, Any] = {
            "devices": [span.device_key for span in spans],
            "lows": [span.low for span in spans],
            "highs": [span.high for span in spans],
            "low": max(self.low, min(span.low for span in spans)),
            "high": min(self.high, max(span.high for span in spans)),
            "channel": self.channel_key,
            "tag": self.tag,
            "most": most,
            "names": sorted({key_split(path)[0] for path in paths}),
        }
        found = []
        for place, path in enumerate(paths):
            values[f"path{place}"] = pooled_path(key_split(path))
            found.append(
                f"jsonb_path_query_array(q.object, %(path{place})s::jsonpath, silent => true) AS p{place}"
            )
        sql = _SPANS_SQL.format(
            paths=", ".join(found), object=OBJECT.format(value="r.value"), order="DESC" if newest else "ASC"
        )
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            for device_key, at, *at_paths in cursor.fetchall():
                yield device_key, at, [_scalars(text) for text in at_paths]

    def _scope(self, device_keys: Sequence[int] | None) -> Scope:
        values: dict[str, Any] = {"channel_key": self.channel_key, "b_tag": self.tag}
        records = "r.channel_key = %(channel_key)s AND coalesce(r.tag, '') = %(b_tag)s"
        rollups = "m.channel_key = %(channel_key)s AND m.tag = %(b_tag)s AND m.device_key = "
        due = "d.channel_key = %(channel_key)s"
        if device_keys is None:
            return Scope(records, f"{rollups}-%(channel_key)s", due, values, self.channel_key)
        values["b_devices"] = list(device_keys)
        return Scope(
            f"r.device_key = ANY(%(b_devices)s) AND {records}",
            f"{rollups}ANY(%(b_devices)s)",
            f"{due} AND (d.device_key = ANY(%(b_devices)s) OR d.device_key = {EVERY_DEVICE})",
            values,
            self.channel_key,
        )


def reading_of(at: datetime, values: Sequence[Scalar]) -> Reading:
    return Reading(at, values, NO_AGE)


def spans_of(beginnings: Sequence[datetime], width: timedelta) -> list[tuple[datetime, datetime]]:
    """Neighbouring buckets joined, from their beginnings in order."""
    found: list[tuple[datetime, datetime]] = []
    for at in beginnings:
        if found and found[-1][1] >= at:
            found[-1] = (found[-1][0], at + width)
        else:
            found.append((at, at + width))
    return found


def _scalars(text: str) -> list[Scalar]:
    """What may be held against a rule: no null, and nothing that has keys of its own."""
    return [value for value in orjson.loads(text) if isinstance(value, (str, int, float))]


def _average(count: str, total: str, low: str, high: str) -> str:
    return (
        f"CASE WHEN {count} > 0 THEN least(greatest({total} / nullif({count}, 0), -1e300), 1e300)::float8 END"
    )


def _low(count: str, total: str, low: str, high: str) -> str:
    return f"CASE WHEN {count} > 0 THEN least(greatest({low}, -1e300), 1e300)::float8 END"


def _high(count: str, total: str, low: str, high: str) -> str:
    return f"CASE WHEN {count} > 0 THEN least(greatest({high}, -1e300), 1e300)::float8 END"
