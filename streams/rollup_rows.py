"""How the rows of roll-ups are made, each step one SQL statement: nothing of the records passes through Python.

    records -> minutes of devices -> minutes of channels
                                  -> hours of devices   -> hours of channels

A row stands for one device, channel, tag and minute or hour: parallel arrays of the streams that had numbers, how
many, their sum, minimum and maximum, all exact. A stream's yes and no stand under the negative of its key.
Rows of a whole channel have the negative of its key as their device key. Where several tags were used in a minute,
there is one more row for all of them under ALL_TAGS, and `whole` marks the rows to read when no tag is asked for.

`counts` is NULL where every record had each of the streams once, `lows` and `highs` where no stream had more than
one number: then they are what `records` and `sums` say.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from channels.keys import key_split
from streams.numbers import OBJECT, Column, Parameters, columns_of, plain_sql, pooled_path

MINUTES = "streams_rollupminute"
HOURS = "streams_rolluphour"
ALL_TAGS = "/"  # no tag can have this name
EVERY_DEVICE = 0  # in a note of what is due: all of the channel
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

MOST_COLUMNS = 400  # a SELECT of PostgreSQL has 1,664 at most, and each of ours takes four
MOST_POSITIONS = 64  # beyond, finding an array's elements one by one takes longer than unfolding it

Cursor = psycopg.Cursor[tuple[Any, ...]]
Keys = tuple[int, int, str, datetime]  # device, channel, tag, begin

_COLUMNS = "device_key, at, channel_key, tag, whole, records, streams, counts, sums, lows, highs"
_KEYS = "device_key, channel_key, tag, at"


class Span(NamedTuple):
    """Whole minutes from `low` to `high` of a channel; of one device there, or None for all of them."""

    channel_key: int
    low: datetime
    high: datetime
    device_key: int | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Group:
    """Channels whose numbers are taken out by one statement, and what their streams are called in roll-ups."""

    columns: tuple[Column, ...]
    names: dict[int, dict[Column, int]]  # channel key -> column -> name


def minutes_make(cursor: Cursor, spans: Sequence[Span], *, busy: Collection[int] = ()) -> None:
    """Make the rows of minutes anew, within the caller's transaction.

    All spans are of devices, or all are of channels. `busy`: channels with so many records that each kind of them is
    worth a statement of its own.
    """
    if not spans:
        return
    names = channel_columns(cursor, {span.channel_key for span in spans})
    _delete(cursor, MINUTES, spans)
    _minutes_of_devices(cursor, spans, names, busy=busy)
    _of_channels(cursor, MINUTES, _of_all_devices(spans), width=_width(names))


def hours_make(cursor: Cursor, spans: Sequence[Span]) -> None:
    """Make the rows of these whole hours anew from those of minutes, within the caller's transaction."""
    if not spans:
        return
    width = _width(channel_columns(cursor, {span.channel_key for span in spans}))
    _delete(cursor, HOURS, spans)
    minutes = _rows(MINUTES, spans, "t.device_key > 0")
    _fold(cursor, minutes, into=HOURS, at="date_trunc('hour', at, 'UTC')", spans=spans, width=width)
    _of_channels(cursor, HOURS, _of_all_devices(spans), width=width)


def hours_within(spans: Iterable[Span], *, until: datetime) -> list[Span]:
    """The whole hours that these spans touch, as far as they end by `until`."""
    found = []
    for span in spans:
        hour = span.low.replace(minute=0, second=0, microsecond=0)
        while hour < span.high and hour + HOUR <= until:
            found.append(span._replace(low=hour, high=hour + HOUR))
            hour += HOUR
    return spans_merged(found)


def spans_merged(spans: Iterable[Span]) -> list[Span]:
    """Those of the same device and channel in one hour become one that spans them."""
    found: dict[tuple[int | None, int, datetime], Span] = {}
    for span in spans:
        key = (span.device_key, span.channel_key, span.low.replace(minute=0))
        had = found.get(key, span)
        found[key] = span._replace(low=min(had.low, span.low), high=max(had.high, span.high))
    return list(found.values())


def channel_columns(cursor: Cursor, channel_keys: Iterable[int]) -> dict[int, dict[Column, int]]:
    """Of each channel that has numbers: its columns and what they are called in roll-ups."""
    cursor.execute(
        "SELECT channel_id, id, type, key FROM channels_stream"
        " WHERE channel_id = ANY(%s) AND type <> 'string' ORDER BY 1, 2",
        [sorted(channel_keys)],
    )
    found: dict[int, list[tuple[int, str, tuple[str, ...]]]] = {}
    for channel_key, key, kind, path in cursor.fetchall():
        found.setdefault(channel_key, []).append((key, kind, key_split(path)))
    return {channel_key: dict(columns_of(streams)) for channel_key, streams in found.items()}


def _width(names: Mapping[int, dict[Column, int]]) -> int:
    """How many positions the arrays of most rows have."""
    return min(max((len(columns) for columns in names.values()), default=0), MOST_POSITIONS)


# --- minutes from records ---


def _minutes_of_devices(
    cursor: Cursor,
    spans: Sequence[Span],
    names: Mapping[int, dict[Column, int]],
    *,
    busy: Collection[int],
) -> None:
    wide = {key: columns for key, columns in names.items() if len(columns) <= MOST_COLUMNS}
    unfolded = [span for span in spans if span.channel_key in names and span.channel_key not in wide]
    for group in groups(wide, busy=busy):
        pooled = _plain(cursor, [span for span in spans if span.channel_key in group.names], group)
        if pooled:
            _unfolded(cursor, pooled, names)
    if unfolded:
        _unfolded(cursor, unfolded, names)


def groups(names: Mapping[int, dict[Column, int]], *, busy: Collection[int]) -> Iterator[Group]:
    """Busy channels only with their like; of the rest as many together as a statement can hold."""
    alike: dict[tuple[Column, ...], dict[int, dict[Column, int]]] = {}
    for key in sorted(names):
        alike.setdefault(tuple(sorted(names[key])), {})[key] = names[key]
    together: dict[int, dict[Column, int]] = {}
    columns: set[Column] = set()
    for own, members in alike.items():
        if any(key in busy for key in members):
            yield Group(own, members)
            continue
        if len(columns | set(own)) > MOST_COLUMNS:
            yield Group(tuple(sorted(columns)), together)
            together, columns = {}, set()
        together |= members
        columns |= set(own)
    if together:
        yield Group(tuple(sorted(columns)), together)


def _plain(cursor: Cursor, spans: Sequence[Span], group: Group) -> list[Span]:
    """Rows of what has no arrays on the way to its numbers; returns the minutes that have."""
    numbers, parameters = plain_sql(group.columns, keep=_KEYS, records=_records(spans))
    places = range(len(group.columns))
    folds = ", ".join(
        f"count(c{n}) AS n{n}, sum(c{n}) AS s{n}, min(c{n}) AS l{n}, max(c{n}) AS h{n}" for n in places
    )
    usual = " AND ".join(f"n{n} IN (0, records)" for n in places)
    most = ", ".join(f"n{n}" for n in places)
    cursor.execute(
        f"""
        WITH packed AS MATERIALIZED (
            SELECT {_KEYS}, records, pooled, {_array("CASE WHEN n{0} > 0 THEN names[{1}] END", places)} AS streams,
                   CASE WHEN {usual} THEN NULL ELSE {_array("nullif(n{0}, 0)", places)} END AS counts,
                   {_array("s{0}", places)} AS sums,
                   CASE WHEN greatest({most}, 0) > 1 THEN {_array("l{0}", places)} END AS lows,
                   CASE WHEN greatest({most}, 0) > 1 THEN {_array("h{0}", places)} END AS highs
            FROM (SELECT {_KEYS}, count(*) AS records, bool_or(pooled) AS pooled, {folds}
                  FROM ({numbers}) AS n GROUP BY {_KEYS}) AS f
            JOIN (SELECT channel_key, names::int[] AS names
                  FROM unnest(%(group_channels)s::bigint[], %(group_names)s::text[]) AS g (channel_key, names)
                  OFFSET 0) AS g USING (channel_key)
        ), put AS (
            INSERT INTO {MINUTES} ({_COLUMNS})
            SELECT device_key, at, channel_key, tag, true, records, streams, counts, sums, lows, highs
            FROM packed WHERE NOT pooled AND cardinality(streams) = cardinality(sums) AND streams <> '{{}}'
        )
        SELECT {_KEYS} FROM packed WHERE pooled OR cardinality(streams) <> cardinality(sums)
        """,
        {
            **parameters,
            **_span_values(spans),
            "group_channels": list(group.names),
            "group_names": [_array_text(map(own.get, group.columns)) for own in group.names.values()],
        },
    )
    return [
        Span(channel_key, at, at + MINUTE, device_key, tag)
        for device_key, channel_key, tag, at in cursor.fetchall()
    ]


def _unfolded(cursor: Cursor, spans: Sequence[Span], names: Mapping[int, dict[Column, int]]) -> None:
    """Rows by looking for each number, in arrays too: slower, and good for any number of key paths."""
    wanted = sorted({span.channel_key for span in spans})
    columns = [(key, column, name) for key in wanted for column, name in names.get(key, {}).items()]
    cursor.execute(
        f"""
        WITH recent AS MATERIALIZED (
            SELECT {_KEYS}, {OBJECT.format(value="value")} AS object FROM ({_records(spans)}) AS r
        ), numbers AS (
            SELECT part.device_key, part.channel_key, part.tag, part.at, p.name,
                   CASE p.kind WHEN 'number' THEN f::numeric ELSE f::boolean::int::numeric END AS v
            FROM (SELECT {_KEYS}, top.key, top.value FROM recent CROSS JOIN LATERAL jsonb_each(object) AS top
                  OFFSET 0) AS part
            JOIN unnest(%(p_channels)s::bigint[], %(p_tops)s::text[], %(p_paths)s::jsonpath[], %(p_kinds)s::text[],
                        %(p_names)s::int[]) AS p (channel_key, top, path, kind, name)
                 ON p.channel_key = part.channel_key AND p.top = part.key
            CROSS JOIN LATERAL jsonb_path_query(jsonb_build_object(part.key, part.value), p.path, silent => true)
                 AS f
            WHERE jsonb_typeof(f) = p.kind
        )
        INSERT INTO {MINUTES} ({_COLUMNS})
        SELECT f.device_key, f.at, f.channel_key, f.tag, true, r.records, array_agg(f.name ORDER BY f.name),
               array_agg(f.n ORDER BY f.name), array_agg(f.s ORDER BY f.name), array_agg(f.l ORDER BY f.name),
               array_agg(f.h ORDER BY f.name)
        FROM (SELECT {_KEYS}, name, count(*) AS n, sum(v) AS s, min(v) AS l, max(v) AS h
              FROM numbers GROUP BY {_KEYS}, name) AS f
        JOIN (SELECT {_KEYS}, count(*) AS records FROM recent GROUP BY {_KEYS}) AS r USING ({_KEYS})
        GROUP BY f.device_key, f.at, f.channel_key, f.tag, r.records
        """,
        {
            **_span_values(spans),
            "p_channels": [key for key, _, _ in columns],
            "p_tops": [column.levels[0] for _, column, _ in columns],
            "p_paths": [pooled_path(column.levels) for _, column, _ in columns],
            "p_kinds": ["boolean" if column.boolean else "number" for _, column, _ in columns],
            "p_names": [name for _, _, name in columns],
        },
    )


# --- from roll-ups ---


def _of_channels(cursor: Cursor, table: str, spans: Sequence[Span], *, width: int) -> None:
    """Make the rows of whole channels anew from those of their devices."""
    whole = [span._replace(device_key=-span.channel_key) for span in spans]
    _delete(cursor, table, whole)
    rows = _rows(table, spans, "t.device_key > 0")
    _fold(cursor, rows, into=table, device="-channel_key", spans=spans, width=width)
    several = f"""
        UPDATE {table} AS t SET whole = false FROM (
            SELECT device_key, at FROM ({_rows(table, whole)}) AS r GROUP BY 1, 2 HAVING count(*) > 1
        ) AS s WHERE t.device_key = s.device_key AND t.at = s.at AND t.at >= %(low)s AND t.at < %(high)s
    """
    cursor.execute(several, _span_values(whole))
    if cursor.rowcount:
        rows = _rows(table, whole, "NOT t.whole")
        _fold(cursor, rows, into=table, tag=f"'{ALL_TAGS}'", spans=whole, width=width)


def _fold(
    cursor: Cursor,
    rows: str,
    *,
    into: str,
    spans: Sequence[Span],
    width: int,
    device: str = "device_key",
    tag: str = "tag",
    at: str = "at",
) -> None:
    """Fold rows that have the same device, channel, tag and time after these replacements.

    Most often they have the same streams, so that their arrays are folded position by position. Otherwise each
    array is unfolded.
    """
    keys = f"{device} AS device_key, channel_key, {tag} AS tag, {at} AS at"
    cursor.execute(_fold_alike_sql(rows, keys=keys, into=into, width=width), _span_values(spans))
    row = cursor.fetchone()
    if row and row[0]:
        cursor.execute(_fold_others_sql(rows, keys=keys, into=into, width=width), _span_values(spans))


def _alike(width: int) -> str:
    return f"(min(streams) = max(streams) AND cardinality(min(streams)) <= {width})"


def _fold_alike_sql(rows: str, *, keys: str, into: str, width: int) -> str:
    """Returns how many groups are not alike and were left out."""
    places = range(1, width + 1)
    taken = "".join(
        f", coalesce(counts[{n}], CASE WHEN cardinality(streams) >= {n} THEN records END) AS n{n}, sums[{n}] AS s{n},"
        f" coalesce(lows[{n}], sums[{n}]) AS l{n}, coalesce(highs[{n}], sums[{n}]) AS h{n}"
        for n in places
    )
    folds = "".join(
        f", sum(n{n})::bigint AS n{n}, sum(s{n}) AS s{n}, min(l{n}) AS l{n}, max(h{n}) AS h{n}"
        for n in places
    )
    usual = " AND ".join(["true", *(f"coalesce(n{n} = records, true)" for n in places)])
    most = ", ".join(["0", *(f"n{n}" for n in places)])

    def packed(letter: str) -> str:
        return f"(ARRAY[{', '.join(f'{letter}{n}' for n in places)}])[:cardinality(streams)]"

    if not width:
        return f"SELECT count(*) FROM (SELECT {keys} FROM ({rows}) AS t) AS others"
    return f"""
        WITH folded AS MATERIALIZED (
            SELECT {_KEYS}, sum(records) AS records, {_alike(width)} AS alike, min(streams) AS streams{folds}
            FROM (SELECT {keys}, records, streams{taken} FROM ({rows}) AS t OFFSET 0) AS p
            GROUP BY {_KEYS}
        ), put AS (
            INSERT INTO {into} ({_COLUMNS})
            SELECT device_key, at, channel_key, tag, true, records, streams,
                   CASE WHEN {usual} THEN NULL ELSE {packed("n")} END, {packed("s")},
                   CASE WHEN greatest({most}) > 1 THEN {packed("l")} END,
                   CASE WHEN greatest({most}) > 1 THEN {packed("h")} END
            FROM folded WHERE alike
        )
        SELECT count(*) FROM folded WHERE NOT alike
    """


def _fold_others_sql(rows: str, *, keys: str, into: str, width: int) -> str:
    return f"""
        WITH part AS MATERIALIZED (
            SELECT {keys}, records, streams, counts, sums, lows, highs FROM ({rows}) AS t
        ), others AS (
            SELECT {_KEYS}, sum(records) AS records FROM part GROUP BY {_KEYS} HAVING NOT {_alike(width)}
        ), folds AS (
            SELECT {_KEYS}, u.stream, sum(coalesce(u.n, part.records))::bigint AS n, sum(u.s) AS s,
                   min(coalesce(u.l, u.s)) AS l, max(coalesce(u.h, u.s)) AS h
            FROM part JOIN others USING ({_KEYS}) CROSS JOIN LATERAL
                 unnest(part.streams, part.counts, part.sums, part.lows, part.highs) AS u (stream, n, s, l, h)
            GROUP BY {_KEYS}, u.stream
        )
        INSERT INTO {into} ({_COLUMNS})
        SELECT device_key, at, channel_key, tag, true, others.records, array_agg(stream ORDER BY stream),
               array_agg(n ORDER BY stream), array_agg(s ORDER BY stream), array_agg(l ORDER BY stream),
               array_agg(h ORDER BY stream)
        FROM folds JOIN others USING ({_KEYS})
        GROUP BY {_KEYS}, others.records
    """


# --- spans ---


def _of_all_devices(spans: Iterable[Span]) -> list[Span]:
    return spans_merged(span._replace(device_key=None) for span in spans)


def _span_values(spans: Sequence[Span]) -> Parameters:
    return {
        "w_channels": [span.channel_key for span in spans],
        "w_devices": [span.device_key for span in spans],
        "w_tags": [span.tag for span in spans],
        "w_lows": [span.low for span in spans],
        "w_highs": [span.high for span in spans],
        "low": min(span.low for span in spans),
        "high": max(span.high for span in spans),
    }


def _rows(table: str, spans: Sequence[Span], condition: str = "true", *, columns: str = "t.*") -> str:
    """The rows of these spans, looked up span by span, whatever the planner knows of a table that is new today."""
    own = [condition, "t.channel_key = w.channel_key"]
    if spans[0].device_key is not None:
        own.append("t.device_key = w.device_key")
    if spans[0].tag is not None:
        own.append("coalesce(t.tag, '') = w.tag")
    return f"""
        SELECT t.* FROM unnest(%(w_channels)s::bigint[], %(w_devices)s::bigint[], %(w_tags)s::text[],
                               %(w_lows)s::timestamptz[], %(w_highs)s::timestamptz[])
                        AS w (channel_key, device_key, tag, low, high)
        CROSS JOIN LATERAL (
            SELECT {columns} FROM {table} AS t WHERE {" AND ".join(own)}
            AND t.at >= w.low AND t.at < w.high AND t.at >= %(low)s AND t.at < %(high)s OFFSET 0
        ) AS t
    """


def _records(spans: Sequence[Span]) -> str:
    minute = "date_trunc('minute', t.at, 'UTC') AS at"
    columns = f"t.device_key, t.channel_key, coalesce(t.tag, '') AS tag, {minute}, t.value"
    return _rows("streams_record", spans, columns=columns)


def _delete(cursor: Cursor, table: str, spans: Sequence[Span]) -> None:
    device = "" if spans[0].device_key is None else "AND t.device_key = w.device_key"
    cursor.execute(
        f"""
        DELETE FROM {table} AS t
        USING unnest(%(w_channels)s::bigint[], %(w_devices)s::bigint[], %(w_lows)s::timestamptz[],
                     %(w_highs)s::timestamptz[]) AS w (channel_key, device_key, low, high)
        WHERE t.channel_key = w.channel_key {device} AND t.at >= w.low AND t.at < w.high
        AND t.at >= %(low)s AND t.at < %(high)s
        """,
        _span_values(spans),
    )


def _array(element: str, places: Iterable[int]) -> str:
    """An array without its NULLs; {0} is the place counted from 0, {1} from 1."""
    return f"array_remove(ARRAY[{', '.join(element.format(n, n + 1) for n in places)}], NULL)"


def _array_text(names: Iterable[int | None]) -> str:
    return "{" + ",".join("NULL" if name is None else str(name) for name in names) + "}"
