"""Numbers of a range folded by bucket of time, from roll-ups as far as they reach and from the records beyond.

The answer is the same whatever it is made from: roll-ups hold exact sums, and what they do not know yet is read from
the records, up to the last one (streams/cover.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from channels.keys import key_join
from streams.cover import Resolution, Span, cover
from streams.numbers import Column, Levels, Parameters, columns_of, plain_sql, pooled_path, pooled_sql
from streams.rollup_rows import EVERY_DEVICE, HOURS, MINUTES
from streams.selectors import RecordFilter, narrow_sql, sql_text
from streams.writer import STREAMS_PER_CHANNEL

MOST_WIDE = 120  # key paths of one statement that has columns for each

Key = tuple[Column, ...]  # what is folded together: the numbers at a key path, perhaps its yes and no too
# SQL for an aggregate, made of SQL for the count, sum, minimum and maximum; count 0 is left to the caller.
Aggregate = Callable[[str, str, str, str], str]


@dataclass(frozen=True)
class Scope:
    """Whose numbers: conditions on streams_record AS r, on roll-ups AS m and on notes of what is due AS d."""

    records: str
    rollups: str
    due: str
    values: Parameters
    channel_key: int | None = None  # None: of whatever channels the devices have sent to


def of_devices(device_keys: Sequence[int]) -> Scope:
    return Scope(
        "r.device_key = ANY(%(devices)s)",
        "m.device_key = ANY(%(devices)s)",
        f"d.device_key = ANY(%(devices)s) OR d.device_key = {EVERY_DEVICE}",
        {"devices": list(device_keys)},
    )


def of_records(narrow: RecordFilter) -> Scope:
    """The records of this filter, apart from its times."""
    text, values = narrow_sql(narrow)
    values = {name: value for name, value in values.items() if name not in ("low", "high")}
    rollups = ["m.channel_key = %(channel_key)s"]
    due = "d.channel_key = %(channel_key)s"
    if narrow.device_keys is not None:
        values["rolled_devices"] = list(narrow.device_keys)
        rollups.append("m.device_key = ANY(%(rolled_devices)s)")
        due += f" AND (d.device_key = ANY(%(rolled_devices)s) OR d.device_key = {EVERY_DEVICE})"
    else:
        rollups.append("m.device_key = -%(channel_key)s")
    if narrow.tag is not None:
        rollups.append("m.tag = %(tag)s")
    elif narrow.device_keys is None:
        rollups.append("m.whole")
    records = f"r.channel_key = %(channel_key)s {text}"
    return Scope(records, " AND ".join(rollups), due, values, narrow.channel_key)


@contextmanager
def reading(*, limit_s: int = 0) -> Iterator[None]:
    """Around the queries of one answer: one transaction, in which a query may take `limit_s`, 0 for any time."""
    with transaction.atomic(), connection.cursor() as cursor:
        # Compiling such wide statements takes longer than they do.
        cursor.execute(
            "SELECT set_config('jit', 'off', true), set_config('statement_timeout', %s, true)",
            [f"{limit_s}s"],
        )
        yield


class Folds:
    """Numbers of a scope from `low` up to, not including, `high`, ready to be folded.

    `bucket` is SQL that makes a bucket of the time `at`. `cuts` are the edges that no row of a roll-up may span, and
    `coarsest` is what the buckets allow. With `booleans` yes and no count as 1 and 0.
    """

    def __init__(
        self,
        scope: Scope,
        keys: Sequence[Levels],
        *,
        low: datetime,
        high: datetime,
        bucket: str = "at",
        values: Parameters | None = None,
        cuts: Iterable[datetime] = (),
        coarsest: Resolution = Resolution.HOUR,
        booleans: bool = False,
        by_device: bool = False,
    ) -> None:
        self.scope = scope
        self.keys = keys
        self.bucket = bucket
        self.values = (values or {}) | scope.values
        self.booleans = booleans
        self.by_device = by_device
        self._names: dict[Column, list[int]] = {}
        until, due = (None, []) if coarsest == Resolution.RAW else _border(scope, low, high)
        self.cover = cover(low, high, until=until, due=due, cuts=cuts, coarsest=coarsest)
        if keys and self._rolled and not self._names_find():
            self.cover = cover(low, high, until=None)

    @property
    def _rolled(self) -> bool:
        return bool(self.cover.hours or self.cover.minutes)

    def only_name(self, levels: Levels) -> int | None:
        """What roll-ups call the values at a key path; None where that is unknown, or there are several names."""
        names = [*self._names.get(Column(levels), ()), *self._names.get(Column(levels, boolean=True), ())]
        return names[0] if len(names) == 1 else None

    def rows(self, aggregates: Sequence[Aggregate]) -> list[tuple[Any, ...]]:
        """Of each bucket with records: the bucket, the device if `by_device`, and the aggregates of each key.

        Few keys only: MOST_WIDE.
        """
        keys = [self._columns(levels) for levels in self.keys]
        rows = self._run(keys, aggregates, pooled=False)
        if any(row[1] for row in rows):  # arrays are rare, and take longer
            rows = self._run(keys, aggregates, pooled=True)
        return [(row[0], *row[2:]) for row in rows]

    def long_rows(self, aggregates: Sequence[Aggregate], *, most: int) -> list[tuple[Any, ...]]:
        """Bucket, number of the key counted from 1, and the aggregates; for any number of keys."""
        values, parts = dict(self.values), []
        ids = [
            (name, number)
            for number, levels in enumerate(self.keys, start=1)
            for name in self._names.get(Column(levels), ())
        ]
        values |= {"ids": [name for name, _ in ids], "places": [number for _, number in ids], "most": most}
        if self._rolled:
            parts.append(
                f"SELECT {self.bucket} AS bucket, i.place, coalesce(u.n, q.records) AS n, u.s, coalesce(u.l, u.s) AS l,"
                f" coalesce(u.h, u.s) AS h FROM ({self._rollups(values)}) AS q CROSS JOIN LATERAL"
                " unnest(q.streams, q.counts, q.sums, q.lows, q.highs) AS u (stream, n, s, l, h)"
                " JOIN unnest(%(ids)s::int[], %(places)s::int[]) AS i (stream, place) ON i.stream = u.stream"
            )
        if self.cover.raw:
            parts.append(
                f"SELECT {self.bucket} AS bucket, number AS place, 1 AS n, v AS s, v AS l, v AS h"
                f" FROM (SELECT at, number, found::numeric AS v FROM ({self._many(values)}) AS f OFFSET 0) AS q"
            )
        made = ", ".join(one("sum(n)", "sum(s)", "min(l)", "max(h)") for one in aggregates)
        sql = f"SELECT bucket, place, {made} FROM ({' UNION ALL '.join(parts)}) AS f GROUP BY 1, 2 ORDER BY 1, 2"
        return _execute(f"{sql} LIMIT %(most)s", values)

    def records(self, *, most: int) -> int:
        """About how many records there are; of those that are not rolled up `most` at most are counted."""
        values = self.values | {"most": most}
        parts = []
        if self._rolled:
            parts.append(f"SELECT sum(records) AS n FROM ({self._rollups(values, columns='m.records')}) AS q")
        if self.cover.raw:
            raw = self._raw(values, "1")
            parts.append(f"SELECT count(*) AS n FROM (SELECT 1 FROM ({raw}) AS q LIMIT %(most)s) AS q")
        if not parts:
            return 0
        ((count,),) = _execute(
            f"SELECT coalesce(sum(n), 0)::bigint FROM ({' UNION ALL '.join(parts)}) AS c", values
        )
        return int(count)

    # --- names of streams in roll-ups ---

    def _names_find(self) -> bool:
        """Look up what the streams of these keys are called.

        False when a key may be no stream because its channel has too many: then the roll-ups do not know it.
        """
        channel_keys = self._channel_keys()
        keys = {key_join(levels): levels for levels in self.keys}
        found = _execute(
            "SELECT id, type, key FROM channels_stream WHERE channel_id = ANY(%(channels)s) AND key = ANY(%(keys)s)",
            {"channels": channel_keys, "keys": list(keys)},
        )
        if len(found) < len(keys) * len(channel_keys) and _any_full(channel_keys):
            return False
        for column, name in columns_of((name, kind, keys[key]) for name, kind, key in found):
            self._names.setdefault(column, []).append(name)
        return True

    def _channel_keys(self) -> list[int]:
        if self.scope.channel_key is not None:
            return [self.scope.channel_key]
        values = dict(self.values)
        rows = self._rollups(values, columns="m.channel_key")
        return [key for (key,) in _execute(f"SELECT DISTINCT channel_key FROM ({rows}) AS q", values)]

    def _columns(self, levels: Levels) -> Key:
        """What is folded together for a key: only what its stream is known to have, both when nothing is known."""
        both = (Column(levels), Column(levels, boolean=True))[: 2 if self.booleans else 1]
        return tuple(column for column in both if column in self._names) or both

    # --- SQL ---

    def _run(
        self, keys: Sequence[Key], aggregates: Sequence[Aggregate], *, pooled: bool
    ) -> list[tuple[Any, ...]]:
        columns = list(dict.fromkeys(column for key in keys for column in key))
        places = {column: place for place, column in enumerate(columns)}
        values = dict(self.values)
        parts = []
        if self._rolled:
            parts.append(self._wide_rollups(columns, values))
        if self.cover.raw:
            parts.append(self._wide_raw(columns, values, pooled=pooled))
        if not parts:
            return []
        made = [one(*_folded([places[column] for column in key])) for key in keys for one in aggregates]
        device = ", device_key" if self.by_device else ""
        return _execute(
            f"SELECT bucket, bool_or(pooled){device}, {', '.join(made)} FROM ({' UNION ALL '.join(parts)}) AS f"
            f" GROUP BY bucket{device} ORDER BY bucket",
            values,
        )

    def _wide_rollups(self, columns: Sequence[Column], values: Parameters) -> str:
        found, folds = [], []
        for place, column in enumerate(columns):
            names = [f"array_position(streams, {name})" for name in self._names.get(column, ())]
            found.append(f"coalesce({', '.join([*names, 'NULL'])})::int AS p{place}")
            folds.append(
                f"coalesce(counts[p{place}], CASE WHEN p{place} IS NOT NULL THEN records END) AS n{place},"
                f" sums[p{place}] AS s{place}, coalesce(lows[p{place}], sums[p{place}]) AS l{place},"
                f" coalesce(highs[p{place}], sums[p{place}]) AS h{place}"
            )
        held = "at, device_key, records, counts, sums, lows, highs"
        return (
            f"SELECT {self.bucket} AS bucket, device_key, false AS pooled, {', '.join(folds)}"
            f" FROM (SELECT {held}, {', '.join(found)} FROM ({self._rollups(values)}) AS m OFFSET 0) AS q"
        )

    def _wide_raw(self, columns: Sequence[Column], values: Parameters, *, pooled: bool) -> str:
        records = self._raw(values, "r.at, r.device_key, r.value")
        if pooled:
            numbers, parameters = pooled_sql(columns, keep="at, device_key", records=records)
            folds = [
                f"a{place}[1]::bigint AS n{place}, a{place}[2] AS s{place}, a{place}[3] AS l{place},"
                f" a{place}[4] AS h{place}"
                for place in range(len(columns))
            ]
        else:
            numbers, parameters = plain_sql(columns, keep="at, device_key", records=records)
            folds = [
                f"(c{place} IS NOT NULL)::int::bigint AS n{place}, c{place} AS s{place}, c{place} AS l{place},"
                f" c{place} AS h{place}"
                for place in range(len(columns))
            ]
        values |= parameters
        flag = "false" if pooled else "pooled"
        return f"SELECT {self.bucket} AS bucket, device_key, {flag} AS pooled, {', '.join(folds)} FROM ({numbers}) AS q"

    def _rollups(self, values: Parameters, *, columns: str = "m.*") -> str:
        parts = [
            f"SELECT {columns} FROM {table} AS m WHERE {self.scope.rollups}{_within('m', name, span, values)}"
            for table, spans in ((HOURS, self.cover.hours), (MINUTES, self.cover.minutes))
            for name, span in _named(table, spans)
        ]
        return " UNION ALL ".join(parts)

    def _raw(self, values: Parameters, columns: str) -> str:
        parts = [
            f"SELECT {columns} FROM streams_record AS r WHERE {self.scope.records}{_within('r', name, span, values)}"
            for name, span in _named("raw", self.cover.raw)
        ]
        return " UNION ALL ".join(parts)

    def _many(self, values: Parameters) -> str:
        """numbers_many.sql for each of the spans."""
        values |= {
            "paths": [pooled_path(levels) for levels in self.keys],
            "tops": [levels[0] for levels in self.keys],
        }
        text = sql_text("numbers_many")
        parts = []
        for name, span in _named("raw", self.cover.raw):
            within = _within("r", name, span, values)
            parts.append(f"({text.format(where=self.scope.records + within)})")
        return " UNION ALL ".join(parts)


def _border(scope: Scope, low: datetime, high: datetime) -> tuple[datetime | None, list[Span]]:
    """Up to where there are roll-ups, and what of them is due to be made anew, by the hour."""
    rows = _execute(
        "SELECT k.rolled_until, min(d.low), max(d.high) FROM streams_rollupmark AS k LEFT JOIN streams_rollupdue AS d"
        f" ON ({scope.due}) AND d.low < %(high)s AND d.high > %(low)s"
        " GROUP BY k.rolled_until, date_trunc('hour', d.low, 'UTC')",
        scope.values | {"low": low, "high": high},
    )
    until = rows[0][0] if rows else None
    return until, [(begin, end) for _, begin, end in rows if begin is not None]


def _any_full(channel_keys: Sequence[int]) -> bool:
    values = {"channels": channel_keys, "most": STREAMS_PER_CHANNEL}
    sql = "SELECT channel_id FROM channels_stream WHERE channel_id = ANY(%(channels)s) GROUP BY 1 HAVING count(*) >= "
    return bool(_execute(f"{sql} %(most)s", values))


def _folded(places: Sequence[int]) -> tuple[str, str, str, str]:
    """SQL for count, sum, minimum and maximum of these columns together."""
    counts = " + ".join(f"coalesce(sum(n{place}), 0)" for place in places)
    sums = f"sum(s{places[0]})"
    if len(places) > 1:
        sums = " + ".join(f"coalesce(sum(s{place}), 0)" for place in places)
    lows = ", ".join(f"min(l{place})" for place in places)
    highs = ", ".join(f"max(h{place})" for place in places)
    return f"({counts})", f"({sums})", f"least({lows})", f"greatest({highs})"


def _named(name: str, spans: Sequence[Span]) -> Iterator[tuple[str, Span]]:
    """Each span with a name for its parameters."""
    return ((f"{name}{place}", span) for place, span in enumerate(spans))


def _within(table: str, name: str, span: Span, values: Parameters) -> str:
    values |= {f"{name}_low": span[0], f"{name}_high": span[1]}
    return f" AND {table}.at >= %({name}_low)s AND {table}.at < %({name}_high)s"


def _execute(sql: str, values: Parameters) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
