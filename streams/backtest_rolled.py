"""Minutes and hours of many devices and key paths out of roll-ups, as columns: an object for each would take longer."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from django.db import connection

from channels.keys import key_split
from events.replay import Bucket
from streams.backtest_reads import SeriesReader
from streams.cover import Resolution, Span, without
from streams.rollup_rows import HOURS, MINUTES

Line = tuple[int, str]  # device, key path

_TABLES = {Resolution.HOUR: (HOURS, 3_600), Resolution.MINUTE: (MINUTES, 60)}
# OFFSET keeps the planner from reading every partition once instead of each span by the index.
_LINES_SQL = """
SELECT s.line, array_agg(s.number)::text, array_agg(s.low)::text, array_agg(s.high)::text
FROM (
    SELECT w.line, extract(epoch FROM m.at)::bigint / {seconds} AS number,
           least(greatest(coalesce(m.lows[p.place], m.sums[p.place]), -1e300), 1e300)::float8 AS low,
           least(greatest(coalesce(m.highs[p.place], m.sums[p.place]), -1e300), 1e300)::float8 AS high
    FROM unnest(%(lines)s::int[], %(devices)s::bigint[], %(names)s::int[], %(lows)s::timestamptz[],
                %(highs)s::timestamptz[]) AS w (line, device_key, name, low, high)
    CROSS JOIN LATERAL (
        SELECT * FROM {table} AS t
        WHERE t.device_key = w.device_key AND t.at >= w.low AND t.at < w.high AND t.at >= %(low)s AND t.at < %(high)s
          AND t.channel_key = %(channel)s AND t.tag = %(tag)s
        OFFSET 0
    ) AS m
    CROSS JOIN LATERAL (SELECT array_position(m.streams, w.name) AS place) AS p
    WHERE coalesce(m.counts[p.place], CASE WHEN p.place IS NOT NULL THEN m.records END) > 0
    ORDER BY w.line, m.at
) AS s GROUP BY s.line
"""


class Columns(NamedTuple):
    """Rows of a line in their order: hours or minutes since 1970, and the smallest and largest number of each."""

    numbers: Sequence[int]
    lows: Sequence[float]
    highs: Sequence[float]


class RolledLines:
    """Roll-ups of `device_keys` within the reader's range."""

    def __init__(
        self, reader: SeriesReader, device_keys: Sequence[int], paths: Sequence[str], *, of: Resolution
    ) -> None:
        folds = reader.folds(device_keys, paths, low=reader.low, high=reader.high, of=of)
        self._reader, self._of = reader, of
        self._covered = folds.cover.hours if of is Resolution.HOUR else folds.cover.minutes
        self._names: dict[str, int] = {}
        for path in paths:
            name = folds.only_name(key_split(path))
            if name is not None:
                self._names[path] = name

    def read(self, wanted: Mapping[Line, Sequence[Span]]) -> Iterator[tuple[Line, Columns]]:
        """What roll-ups tell of these spans, each line once."""
        lines = [line for line in wanted if line[1] in self._names]
        rows: list[tuple[int, int, int, datetime, datetime]] = []
        for number, (device_key, path) in enumerate(lines):
            for low, high in self._rolled(wanted[device_key, path]):
                rows.append((number, device_key, self._names[path], low, high))
        if not rows:
            return
        names = ("lines", "devices", "names", "lows", "highs")
        values: dict[str, Any] = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        values |= {"low": min(row[3] for row in rows), "high": max(row[4] for row in rows)}
        values |= {"channel": self._reader.channel_key, "tag": self._reader.tag}
        table, seconds = _TABLES[self._of]
        with connection.cursor() as cursor:
            cursor.execute(_LINES_SQL.format(table=table, seconds=seconds), values)
            for number, *columns in cursor.fetchall():
                yield lines[number], Columns(*(orjson.loads(f"[{text[1:-1]}]") for text in columns))

    def rest(self, wanted: Mapping[Line, Sequence[Span]]) -> Iterator[tuple[Line, Bucket]]:
        """What read() leaves out of these spans, since it is in no roll-up yet or under several names."""
        left: dict[Span, tuple[set[int], set[str]]] = {}
        for (device_key, path), spans in wanted.items():
            some = spans if path not in self._names else without(spans, self._rolled(spans))
            for span in some:
                devices, paths = left.setdefault(span, (set(), set()))
                devices.add(device_key)
                paths.add(path)
        for (low, high), (devices, paths) in sorted(left.items(), key=lambda one: one[0]):
            found = self._reader.buckets(sorted(devices), sorted(paths), low=low, high=high, of=self._of)
            for device_key, path, bucket in found:
                spans = wanted.get((device_key, path), ())
                if any(begin <= bucket.at < end for begin, end in spans):
                    yield (device_key, path), bucket

    def _rolled(self, spans: Sequence[Span]) -> list[Span]:
        return without(spans, without(spans, self._covered))
