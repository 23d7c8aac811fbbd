"""Aggregates of records over a range, whole or in buckets of time.

Numbers at the same key path pool over all records of the filter, elements of arrays too (in arrays within arrays
down to three levels); what is no number is left out. The sums, minima and maxima of whole numbers are exact.

**Buckets.** Those of seconds, minutes and hours all have the same length, counted from midnight of Monday
2000-01-03 in the account's zone. Those of days and weeks begin at local midnight, counted from Monday
0001-01-01, so that a day of daylight-saving change has 23 or 25 hours, and weeks begin on Monday.

**rate** is the increase of a counter per second. Between two records of the same series, which is one device and
tag, a higher value adds the difference; a lower one is a reset, and the new value counts from zero. A difference
belongs to the bucket of the later record; the first record inside the range has no predecessor and adds nothing.
By interval the increase is divided by the length of the bucket, over a whole range by the seconds between the first
and the last record of the series that have the key. Series are added up. Key paths inside arrays are left out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from itertools import pairwise
from typing import Any

import psycopg
from django.db import OperationalError, connection
from django.utils.translation import gettext as _

from channels.keys import key_split
from channels.models import Stream
from streams.charts import STEPS_S
from streams.cover import HOUR, MINUTE, Resolution
from streams.folds import MOST_WIDE, Aggregate, Folds, of_records, reading
from streams.numbers import exact_path, pooled_path
from streams.selectors import RecordFilter, narrow_sql, record_bounds, sql_text
from tokens.api_options import option_error

MOST_BUCKETS = 10_000  # times aggregates
MOST_NUMBERS = 500_000  # of one answer, which lies in memory
FEW_KEYS = 40  # up to here it is faster to look for each key path in each record
LONGEST = timedelta(days=3660)
QUERY_LIMIT_S = 60
FILLS = ("none", "null", "previous", "linear", "zero")

_BUCKET = "width_bucket(at, %(edges)s::timestamptz[])"
_PERCENTILE = "percentile_cont({}) WITHIN GROUP (ORDER BY least(greatest(v, -1e300), 1e300)::float8)"
# Made from roll-ups as far as they go; percentiles and rate need each record.
_FOLDS: dict[str, Aggregate] = {
    "avg": lambda count, total, low, high: f"{total} / nullif({count}, 0)",
    "sum": lambda count, total, low, high: total,
    "min": lambda count, total, low, high: low,
    "max": lambda count, total, low, high: high,
    "count": lambda count, total, low, high: f"nullif({count}, 0)",
}
_PERCENTILES = {
    name: _PERCENTILE.format(share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
}
_EXACT = frozenset({"sum", "min", "max", "count"})
RATE = "rate"
NAMES = (*_FOLDS, *_PERCENTILES, RATE)

_LARGEST = 1.7976931348623157e308
_MOST_DIGITS = 40  # of a whole number; a record holds no longer one
_EARLIEST = datetime(2, 1, 1, tzinfo=UTC)  # earlier, a zone's offset leads out of the calendar
_WHOLE = datetime(2000, 1, 1, tzinfo=UTC)  # the beginning of a minute, hour and day
_LAST_DAY = date.max.toordinal() - 2
_INTERVAL = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAYS = {"d": 1, "w": 7}

Levels = tuple[str, ...]
Number = int | float | None


@dataclass(frozen=True)
class Interval:
    """The length of buckets: `count` seconds, minutes, hours, days or weeks."""

    count: int
    unit: str

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"

    @property
    def days(self) -> int:
        return self.count * _DAYS.get(self.unit, 0)

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=self.count * _SECONDS[self.unit])


@dataclass(frozen=True)
class Buckets:
    """The numbers of buckets, and where each begins."""

    interval: Interval
    zone: tzinfo

    def number(self, at: datetime) -> int:
        if self.interval.days:
            return (at.astimezone(self.zone).toordinal() - 1) // self.interval.days
        return (at - self._origin) // self.interval.length

    def begin(self, number: int) -> datetime:
        """In UTC: two times of one zone are compared by their clock readings, whatever the offset."""
        if self.interval.days:
            day = date.fromordinal(min(number * self.interval.days + 1, _LAST_DAY))
            # A midnight that daylight saving skips is read with the offset before: the day's first moment.
            return datetime.combine(day, time(), tzinfo=self.zone).astimezone(UTC)
        return self._origin + number * self.interval.length

    def seconds(self, number: int) -> float:
        return (self.begin(number + 1) - self.begin(number)).total_seconds()

    def count(self, low: datetime, high: datetime) -> int:
        """How many buckets have times from `low` to `high`, both included."""
        return self.number(high) - self.number(low) + 1

    @property
    def coarsest(self) -> Resolution:
        """What the buckets can be made from. Those of days may still cut single hours."""
        if self.interval.days:
            return Resolution.HOUR
        for width, resolution in ((HOUR, Resolution.HOUR), (MINUTE, Resolution.MINUTE)):
            if not self.interval.length % width and not (self._origin - _WHOLE) % width:
                return resolution
        return Resolution.RAW

    @property
    def _origin(self) -> datetime:
        return datetime(2000, 1, 3, tzinfo=self.zone).astimezone(UTC)


@dataclass(frozen=True)
class Asked:
    """What to make of the records. `keys` None: every numeric key path of the channel."""

    names: tuple[str, ...]
    keys: Sequence[Levels] | None = None
    interval: Interval | None = None
    max_points: int | None = None
    fill: str = "none"
    descending: bool = False
    from_start: bool = False  # whether the range has a beginning of its own, where filling begins


@dataclass(frozen=True)
class Entry:
    """The values of one aggregate by key path, in the whole range or in the bucket that begins at `at`."""

    at: datetime | None
    name: str
    values: dict[Levels, Number]


@dataclass(frozen=True)
class Aggregates:
    """`keys` are the key paths that can occur in the entries, in their order. `resolution`: the coarsest data used."""

    keys: list[Levels]
    interval: Interval | None
    entries: Iterable[Entry]
    resolution: Resolution = Resolution.RAW


# Of each aggregate: bucket -> number of the key path -> value. Without buckets there is only bucket 1.
_Table = dict[str, dict[int, dict[int, Number]]]


def aggregates(narrow: RecordFilter, asked: Asked, *, zone: tzinfo, now: datetime) -> Aggregates:
    """The aggregates of these records. Raises INVALID_VALUE where there would be too many."""
    keys = list(dict.fromkeys(asked.keys)) if asked.keys is not None else numeric_keys(narrow.channel_key)
    if asked.interval is None and asked.max_points is None:
        table, resolution = _table(narrow, keys, asked.names, buckets=None, first=1, last=1)
        return Aggregates(keys, None, _whole(table, keys, asked.names), resolution)
    bounds = record_bounds(narrow)
    if bounds is None:
        return Aggregates(keys, asked.interval or _even(STEPS_S[0]), [])
    low, high = _span(narrow, asked, bounds, now=now)
    buckets = _buckets(asked, low, high, zone=zone)
    first, last = buckets.number(low), buckets.number(high)
    table, resolution = _table(narrow, keys, asked.names, buckets=buckets, first=first, last=last)
    if asked.fill != "none":
        _fill(table, buckets, first, last, how=asked.fill)
    entries = _by_bucket(table, keys, asked, buckets, first, last)
    return Aggregates(keys, buckets.interval, entries, resolution)


def numeric_keys(channel_key: int) -> list[Levels]:
    """The key paths of the channel at which numbers have been seen."""
    kinds = (Stream.Type.NUMBER, Stream.Type.MIXED)
    found = Stream.objects.filter(channel_id=channel_key, type__in=kinds).values_list("key", flat=True)
    return [key_split(key) for key in sorted(found)]


def interval_parse(text: str) -> Interval:
    """`30s`, `5m`, `1h`, `1d`, `1w`. Raises INVALID_VALUE."""
    match = _INTERVAL.fullmatch(text.strip().lower())
    if match is None:
        raise option_error("interval", _("write a number and s, m, h, d or w, like 5m"))
    interval = Interval(int(match[1]), match[2])
    if int(match[1]) * _SECONDS[match[2]] > LONGEST.total_seconds():
        raise option_error("interval", _("the longest is ten years"))
    return interval


def interval_for(low: datetime, high: datetime, *, most: int, zone: tzinfo) -> Interval:
    """The smallest even interval whose buckets from `low` to `high`, both included, are `most` at most."""
    steps = [_even(step_s) for step_s in STEPS_S]
    steps += [
        Interval(2**power, "w") for power in range(1, 20)
    ]  # in the end one bucket for the whole calendar
    return next(step for step in steps if Buckets(step, zone).count(low, high) <= most)


def _even(step_s: int) -> Interval:
    unit = next(unit for unit in "wdhms" if step_s % _SECONDS[unit] == 0)
    return Interval(step_s // _SECONDS[unit], unit)


def _span(
    narrow: RecordFilter, asked: Asked, bounds: tuple[datetime, datetime], *, now: datetime
) -> tuple[datetime, datetime]:
    """The first and the last moment of the buckets. The future stays empty however far the range reaches."""
    first, last = bounds
    filled = asked.fill != "none"
    low = narrow.low if asked.from_start and (filled or asked.max_points) else first
    if filled and asked.max_points is None:
        last = max(last, min(now, narrow.high - timedelta(microseconds=1)))
    return max(low, _EARLIEST), last


def _buckets(asked: Asked, low: datetime, high: datetime, *, zone: tzinfo) -> Buckets:
    most = MOST_BUCKETS // len(asked.names)
    if asked.interval is None:
        points = min(asked.max_points or most, most)
        return Buckets(interval_for(low, high, most=points, zone=zone), zone)
    buckets = Buckets(asked.interval, zone)
    if buckets.count(low, high) > most:
        smallest = interval_for(low, high, most=most, zone=zone)
        raise option_error(
            "interval",
            _("it is too small for this range; the smallest is %(interval)s") % {"interval": smallest},
        )
    return buckets


# --- from the database ---


def _table(
    narrow: RecordFilter,
    keys: Sequence[Levels],
    names: Sequence[str],
    *,
    buckets: Buckets | None,
    first: int,
    last: int,
) -> tuple[_Table, Resolution]:
    table: _Table = {name: {} for name in names}
    most = MOST_NUMBERS // len(names)
    edges = None if buckets is None else [buckets.begin(number) for number in range(first, last + 1)]
    resolution = Resolution.RAW
    with _limited():
        folds = [name for name in names if name in _FOLDS]
        if folds and keys:
            resolution = _folds(
                table, narrow, keys, folds, buckets=buckets, edges=edges, first=first, most=most
            )
        percentiles = [name for name in names if name in _PERCENTILES]
        if percentiles:
            columns = ", ".join(_PERCENTILES[name] for name in percentiles)
            paths = [pooled_path(levels) for levels in keys]
            rows = _raw_rows("aggregate_folds", narrow, keys, paths, edges=edges, most=most, folds=columns)
            for place, number, *found in rows:
                _enter(table, percentiles, first + place - 1, number, found)
        if RATE in names:
            paths = [exact_path(levels) for levels in keys]
            rows = _raw_rows("aggregate_rates", narrow, keys, paths, edges=edges, most=most)
            for place, number, increase, quotient in rows:
                if buckets is not None:
                    quotient = increase / Decimal(buckets.seconds(first + place - 1))
                _enter(table, [RATE], first + place - 1, number, [quotient])
    return table, resolution


def _enter(table: _Table, names: Sequence[str], bucket: int, number: int, found: Sequence[Any]) -> None:
    for name, value in zip(names, found, strict=True):
        if value is not None:
            table[name].setdefault(bucket, {})[number] = _number(value, exact=name in _EXACT)


def _folds(
    table: _Table,
    narrow: RecordFilter,
    keys: Sequence[Levels],
    names: Sequence[str],
    *,
    buckets: Buckets | None,
    edges: Sequence[datetime] | None,
    first: int,
    most: int,
) -> Resolution:
    """What needs no single record, from roll-ups as far as they go."""
    cuts = (
        [edge for edge in edges or () if (edge - _WHOLE) % HOUR] if buckets and buckets.interval.days else []
    )
    folds = Folds(
        of_records(narrow),
        keys,
        low=narrow.low,
        high=narrow.high,
        bucket="1" if edges is None else _BUCKET,
        values={} if edges is None else {"edges": list(edges)},
        cuts=cuts,
        coarsest=Resolution.HOUR if buckets is None else buckets.coarsest,
    )
    made = [_FOLDS[name] for name in names]
    if len(keys) <= MOST_WIDE and len(keys) * len(edges or (1,)) <= most:
        for place, *found in folds.rows(made):
            for number in range(len(keys)):
                mine = found[number * len(names) : (number + 1) * len(names)]
                _enter(table, names, first + place - 1, number + 1, mine)
        return folds.cover.resolution
    rows = folds.long_rows(made, most=most + 1)
    if len(rows) > most:
        raise _too_many()
    for place, number, *found in rows:
        _enter(table, names, first + place - 1, number, found)
    return folds.cover.resolution


def _raw_rows(
    name: str,
    narrow: RecordFilter,
    keys: Sequence[Levels],
    paths: Sequence[str],
    *,
    edges: Sequence[datetime] | None,
    most: int,
    **texts: str,
) -> list[tuple[Any, ...]]:
    """The rows of one of our queries over the numbers in each record."""
    text, values = narrow_sql(narrow)
    where = f"r.channel_key = %(channel_key)s AND r.at >= %(low)s AND r.at < %(high)s {text}"
    numbers = sql_text("numbers_few" if len(keys) <= FEW_KEYS else "numbers_many").format(where=where)
    values |= {
        "paths": paths,
        "tops": [levels[0] for levels in keys],
        "most": most + 1,
        "edges": list(edges or ()),
    }
    sql = sql_text(name).format(numbers=numbers, bucket="1" if edges is None else _BUCKET, **texts)
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    if len(rows) > most:
        raise _too_many()
    return rows


@contextmanager
def _limited() -> Iterator[None]:
    """Around queries that may take QUERY_LIMIT_S each: a client that leaves cannot end them sooner."""
    try:
        with reading(limit_s=QUERY_LIMIT_S):
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise option_error(
                "end",
                _(
                    "the range takes longer than %(limit)d seconds to read; ask for less of it, or for fewer keys"
                )
                % {"limit": QUERY_LIMIT_S},
            ) from None
        raise


def _too_many() -> Exception:
    return option_error(
        "key", _("the answer would be too large; ask for fewer key paths, or a longer interval")
    )


def _number(value: Any, *, exact: bool) -> int | float:
    if exact and isinstance(value, int):
        return value
    if exact and isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        if isinstance(exponent, int) and exponent >= 0 and value.adjusted() < _MOST_DIGITS:
            return int(value)
    return min(max(float(value), -_LARGEST), _LARGEST)


# --- into entries ---


def _whole(table: _Table, keys: Sequence[Levels], names: Sequence[str]) -> Iterator[Entry]:
    for name in names:
        yield Entry(None, name, _values(table[name].get(1, {}), keys))


def _by_bucket(
    table: _Table, keys: Sequence[Levels], asked: Asked, buckets: Buckets, first: int, last: int
) -> Iterator[Entry]:
    numbers: Iterable[int] = range(last, first - 1, -1) if asked.descending else range(first, last + 1)
    for number in numbers:
        for name in asked.names:
            found = table[name].get(number)
            if found:
                yield Entry(buckets.begin(number), name, _values(found, keys))


def _values(found: Mapping[int, Number], keys: Sequence[Levels]) -> dict[Levels, Number]:
    return {keys[number - 1]: found[number] for number in sorted(found)}


def _fill(table: _Table, buckets: Buckets, first: int, last: int, *, how: str) -> None:
    """Every key path seen gets a value in every bucket; null where there is nothing to go by."""
    seen = {
        name: sorted({number for found in rows.values() for number in found}) for name, rows in table.items()
    }
    if sum(map(len, seen.values())) * (last - first + 1) > MOST_NUMBERS:
        raise _too_many()
    begins = [buckets.begin(bucket).timestamp() for bucket in range(first, last + 1)]
    for name, rows in table.items():
        for number in seen[name]:
            series = [rows.get(bucket, {}).get(number) for bucket in range(first, last + 1)]
            for place, value in enumerate(_filled(series, begins, how=how)):
                rows.setdefault(first + place, {})[number] = value


def _filled(series: Sequence[Number], begins: Sequence[float], *, how: str) -> Sequence[Number]:
    if how == "zero":
        return [0 if value is None else value for value in series]
    if how == "previous":
        known: Number = None
        carried = []
        for value in series:
            known = value if value is not None else known
            carried.append(known)
        return carried
    return _between(series, begins) if how == "linear" else series


def _between(series: Sequence[Number], begins: Sequence[float]) -> list[Number]:
    """Straight lines from one known value to the next."""
    filled = list(series)
    known = [place for place, value in enumerate(series) if value is not None]
    for left, right in pairwise(known):
        low, high = float(series[left] or 0), float(series[right] or 0)
        for place in range(left + 1, right):
            share = (begins[place] - begins[left]) / (begins[right] - begins[left])
            filled[place] = low * (1 - share) + high * share  # no difference, which could leave the floats
    return filled
