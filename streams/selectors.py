"""Reads of records for the API: ranges of any size in flat memory, and the newest."""

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import accumulate, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, overload

import psycopg
from django.db import connection
from django.db.models import Max

from channels.models import Latest
from streams.hypertable import columnstore_edge

SQL_FOLDER = Path(__file__).parent / "sql"
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD = timedelta(hours=2)  # devices may be an hour ahead, and clocks differ
FETCH_ROWS = 200  # what the driver hands over at a time; a row has 256 KiB at most

# A page is one query, and all of it lies in memory: a slow reader must not keep a query open. It grows to
# MAX_PAGE_ROWS while records are small; what exceeds PAGE_CHARACTERS is left to the next one.
FIRST_PAGE_ROWS = 500
MAX_PAGE_ROWS = 10_000
PAGE_CHARACTERS = 4_000_000

# How far below the newest record to look for the newest n: most often the first window has them all, and the
# database then plans for one or two days only.
NEWEST_WINDOWS = (timedelta(hours=1), timedelta(days=1), timedelta(days=8))

# How far from where a page begins to look for its end, in the columnstore.
PAGE_WINDOWS = [timedelta(seconds=10**power) for power in range(1, 8)]
A_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class RecordFilter:
    """Which records of a channel: low <= at < high, and where given of one tag, of these devices.

    `names`: of objects only those that have one of these keys on their top level.
    """

    channel_key: int
    low: datetime
    high: datetime
    tag: str | None = None
    device_keys: Sequence[int] | None = None
    names: Sequence[str] | None = None


class Position(NamedTuple):
    """A place in the order of records."""

    at: datetime
    device_key: int
    digest: int


# The same columns as RecordRow, without its costs: an export makes one of each record.
Row = tuple[int, int, int, str | None, str | None, int, str]
T = TypeVar("T")
_VALUE = itemgetter(6)


class RecordRow(NamedTuple):
    """A record as stored. `value` is its JSON text, with all digits; `device_id` also of a deleted device.

    `at_us` is its time in microseconds since 1970.
    """

    at_us: int
    digest: int
    device_key: int
    device_id: str | None
    tag: str | None
    form: int
    value: str

    @property
    def at(self) -> datetime:
        return BEGINNING + timedelta(microseconds=self.at_us)

    @property
    def position(self) -> Position:
        return Position(self.at, self.device_key, self.digest)


def record_stream(
    narrow: RecordFilter, *, descending: bool = False, after: Position | None = None, limit: int | None = None
) -> Iterator[RecordRow]:
    """The records of record_pages(), one by one."""
    for rows in record_pages(narrow, descending=descending, after=after, limit=limit):
        yield from map(RecordRow._make, rows)


@overload
def record_pages(
    narrow: RecordFilter, *, descending: bool = ..., after: Position | None = ..., limit: int | None = ...
) -> Iterator[list[Row]]: ...


@overload
def record_pages(
    narrow: RecordFilter,
    *,
    descending: bool = ...,
    after: Position | None = ...,
    limit: int | None = ...,
    shape: Callable[[list[Row]], list[T]],
) -> Iterator[list[T]]: ...


def record_pages(
    narrow: RecordFilter,
    *,
    descending: bool = False,
    after: Position | None = None,
    limit: int | None = None,
    shape: Callable[[list[Row]], list[Any]] = list,
) -> Iterator[list[Any]]:
    """The records by time, whatever their number: page by page, without a transaction or connection in between.

    `after` goes on behind that record. What is stored meanwhile is seen when it lies ahead.
    `shape` may leave rows out or make something else of them; it works while the database sends the next ones.
    `limit` counts what it made. Raises OperationalError when the database goes away on the way.
    """
    # A page that was asked for is one query; how much of it lies in memory is bounded all the same.
    page_rows = FIRST_PAGE_ROWS if limit is None else min(max(limit, FIRST_PAGE_ROWS), MAX_PAGE_ROWS)
    while limit is None or limit > 0:
        wanted = page_rows if limit is None or shape is not list else min(page_rows, limit)
        page = _page(narrow, descending=descending, after=after, limit=wanted, shape=shape)
        _connection_lend()
        rows = page.rows
        if limit is not None:
            rows = rows[:limit]
            limit -= len(rows)
        if rows:
            yield rows
        if not page.more or page.last is None:
            return
        after = RecordRow._make(page.last).position
        fitting = PAGE_CHARACTERS * page.read // max(page.characters, 1)
        page_rows = max(10, min(page_rows * 4, fitting, MAX_PAGE_ROWS))


def record_bounds(narrow: RecordFilter) -> tuple[datetime, datetime] | None:
    """The times of the first and the last record, None when there is none."""
    text, values = narrow_sql(narrow)
    with connection.cursor() as cursor:
        cursor.execute(sql_text("record_bounds").format(narrow=text), values)
        first, last = cursor.fetchone()
    return None if first is None else (first, last)


_CHANNELS_NEWEST_SQL = """
SELECT c.key, coalesce(
    (SELECT r.at FROM streams_record r
     WHERE r.channel_key = c.key AND r.at >= %(recent)s ORDER BY r.at DESC LIMIT 1),
    (SELECT max(l.at) FROM channels_latest l WHERE l.channel_key = c.key)
)
FROM unnest(%(keys)s::bigint[]) AS c (key)
"""
RECENT = timedelta(days=1)


def channels_newest(channel_keys: Iterable[int], *, now: datetime) -> dict[int, datetime]:
    """Channel key -> time of its newest record: one step in an index where it is of the last day."""
    values: dict[str, Any] = {"keys": list(channel_keys), "recent": now - RECENT}
    with connection.cursor() as cursor:
        cursor.execute(_CHANNELS_NEWEST_SQL, values)
        return {key: at for key, at in cursor.fetchall() if at is not None}


def records_newest(
    narrow: RecordFilter, *, limit: int, channel_newest: datetime | None = None
) -> list[RecordRow]:
    """The newest records of the filter, the newest first. `channel_newest`: channels_newest(), if known."""
    whole = narrow.tag is None and narrow.device_keys is None
    newest = channel_newest if channel_newest and whole else _newest_known(narrow)
    rows: list[RecordRow] = []
    for window in NEWEST_WINDOWS if newest else ():
        low = max(narrow.low, newest - window) if newest else narrow.low
        rows = list(islice(record_stream(replace(narrow, low=low), descending=True, limit=limit), limit))
        if len(rows) >= limit or low == narrow.low:
            return rows
    return list(record_stream(narrow, descending=True, limit=limit))


def _newest_known(narrow: RecordFilter) -> datetime | None:
    """The time of the newest record, from the table of latest values: a hint where to look."""
    latest = Latest.objects.filter(channel_key=narrow.channel_key, at__gte=narrow.low, at__lt=narrow.high)
    if narrow.tag is not None:
        latest = latest.filter(tag=narrow.tag)
    if narrow.device_keys is not None:
        latest = latest.filter(device_key__in=narrow.device_keys)
    newest: datetime | None = latest.aggregate(newest=Max("at"))["newest"]
    return newest


class _Page(NamedTuple):
    rows: list[Any]  # what was made of them
    last: Row | None
    read: int
    characters: int
    more: bool  # the page was filled, so that others may follow


def _page(
    narrow: RecordFilter,
    *,
    descending: bool,
    after: Position | None,
    limit: int,
    shape: Callable[[list[Row]], list[Any]] = list,
) -> _Page:
    """One query, read in small portions: the driver would hold all of a page of large records otherwise."""
    nearer = _page_span(narrow, descending=descending, after=after, limit=limit)
    page = _page_read(nearer or narrow, descending=descending, after=after, limit=limit, shape=shape)
    if nearer is None or page.read == limit:
        return page
    if page.read == 0:  # all of these were removed meanwhile
        return _page_read(narrow, descending=descending, after=after, limit=limit, shape=shape)
    return page._replace(more=True)


def _page_span(
    narrow: RecordFilter, *, descending: bool, after: Position | None, limit: int
) -> RecordFilter | None:
    """The times that hold the page, where days in the columnstore are read: there a sort takes in all of a span, and
    unpacks it, however few rows are wanted of it. Windows that grow until one holds the page take in little more.

    None where that is not needed, or no window is smaller than what is left.
    """
    compressed = columnstore_edge.until()
    text, values = _rest_sql(narrow, descending=descending, after=after)
    low, high = values["low"], values["high"]
    if compressed is None or low >= compressed:
        return None
    query = sql_text("record_page_edge").format(narrow=text, direction="DESC" if descending else "ASC")
    values["skip"] = limit - 1
    for edge in _page_edges(low, high, compressed, descending=descending):
        if not low < edge < high:
            return None
        with connection.cursor() as cursor:
            cursor.execute(query, {**values, ("low" if descending else "high"): edge})
            row = cursor.fetchone()
        if row is not None:
            return replace(narrow, low=row[0]) if descending else replace(narrow, high=row[0] + A_MICROSECOND)
    return None


def _page_edges(
    low: datetime, high: datetime, compressed: datetime, *, descending: bool
) -> Iterator[datetime]:
    """Up to where to look for the end of a page that begins at `low`, or descending at `high`."""
    if not descending:
        yield from (low + window for window in PAGE_WINDOWS)
        return
    begin = min(high, compressed)
    if begin < high:
        yield begin  # what lies in rows is near
    yield from (begin - window for window in PAGE_WINDOWS)


def _page_read(
    narrow: RecordFilter,
    *,
    descending: bool,
    after: Position | None,
    limit: int,
    shape: Callable[[list[Row]], list[Any]],
) -> _Page:
    sql, values = _page_query(narrow, descending=descending, after=after, limit=limit)
    made: list[Any] = []
    last: Row | None = None
    count = characters = 0
    with connection.cursor() as cursor, connection.wrap_database_errors:
        driver = cast("psycopg.Cursor[Any]", cursor.cursor)
        portions = driver.stream(sql, values, size=FETCH_ROWS)
        while characters < PAGE_CHARACTERS and (portion := list(islice(portions, FETCH_ROWS))):
            sizes = list(accumulate(map(len, map(_VALUE, portion)), initial=characters))[1:]
            fitting = bisect_left(sizes, PAGE_CHARACTERS) + 1
            portion, characters = portion[:fitting], sizes[:fitting][-1]
            made += shape(portion)
            last = portion[-1]
            count += len(portion)
        _end(portions)
    return _Page(made, last, count, characters, more=count == limit or characters >= PAGE_CHARACTERS)


def _end(portions: Iterator[Any]) -> None:
    """Cancel what was not read; within a transaction, which that would end, read it and let it go."""
    if connection.in_atomic_block:
        for _row in portions:
            pass
    cast("Generator[Any]", portions).close()


def _page_query(
    narrow: RecordFilter, *, descending: bool, after: Position | None, limit: int
) -> tuple[str, dict[str, Any]]:
    text, values = _rest_sql(narrow, descending=descending, after=after)
    values["limit"] = limit
    text = sql_text("record_stream").format(narrow=text, direction="DESC" if descending else "ASC")
    return text, values


def _rest_sql(
    narrow: RecordFilter, *, descending: bool, after: Position | None
) -> tuple[str, dict[str, Any]]:
    """narrow_sql() for what comes after that record."""
    text, values = narrow_sql(narrow)
    if after is None:
        return text, values
    sign = "<" if descending else ">"
    text += f" AND (r.at, r.device_key, r.digest) {sign} (%(after_at)s, %(after_device)s, %(after_digest)s)"
    values |= {"after_at": after.at, "after_device": after.device_key, "after_digest": after.digest}
    # Said once more for the planner, which leaves out days by plain comparisons only.
    if descending:
        values["high"] = min(narrow.high, after.at + A_MICROSECOND)
    else:
        values["low"] = max(narrow.low, after.at)
    return text, values


def narrow_sql(narrow: RecordFilter) -> tuple[str, dict[str, Any]]:
    """What a query on streams_record AS r says beyond channel and times, and the values for all of them."""
    values: dict[str, Any] = {"channel_key": narrow.channel_key, "low": narrow.low, "high": narrow.high}
    conditions = []
    if narrow.tag is not None:
        conditions.append("AND r.tag = %(tag)s")
        values["tag"] = narrow.tag
    if narrow.device_keys is not None:
        one = len(narrow.device_keys) == 1  # by equality the key's own order serves
        conditions.append("AND r.device_key = %(devices)s" if one else "AND r.device_key = ANY(%(devices)s)")
        values["devices"] = narrow.device_keys[0] if one else list(narrow.device_keys)
    if narrow.names is not None:
        conditions.append("AND (r.value ?| %(names)s::text[] OR jsonb_typeof(r.value) <> 'object')")
        values["names"] = list(narrow.names)
    return " ".join(conditions), values


@cache
def sql_text(name: str) -> str:
    return (SQL_FOLDER / f"{name}.sql").read_text()


def _connection_lend() -> None:
    """Give a pooled connection back after each page: a slow reader must not keep it from others."""
    if connection.settings_dict["OPTIONS"].get("pool") and not connection.in_atomic_block:
        connection.close()
