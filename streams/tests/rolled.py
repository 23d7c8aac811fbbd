"""What roll-ups have to say, worked out from the stored records in Python, for comparison."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

from django.db import connection

from channels.keys import flatten
from channels.models import Stream
from streams.rollup_rows import ALL_TAGS

Key = tuple[int, int, str, datetime]  # device, channel, tag, begin


class Fold(NamedTuple):
    n: int
    sum: Decimal
    low: Decimal
    high: Decimal


def stored_rows(table: str) -> dict[Key, tuple[int, bool, dict[int, Fold]]]:
    """Every row of the table: records, whether it counts for the whole, and a fold for each stream."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT device_key, channel_key, tag, at, records, whole, streams, counts, sums, lows, highs"
            f" FROM {table}"
        )
        rows = cursor.fetchall()
    found: dict[Key, tuple[int, bool, dict[int, Fold]]] = {}
    for device, channel, tag, at, records, whole, streams, counts, sums, lows, highs in rows:
        counts = counts or [records] * len(streams)
        columns = zip(streams, counts, sums, lows or sums, highs or sums, strict=True)
        found[device, channel, tag, at] = (records, whole, {stream: Fold(*fold) for stream, *fold in columns})
    return found


def expected_rows(width: timedelta, *, until: datetime) -> dict[Key, tuple[int, bool, dict[int, Fold]]]:
    """The rows that minutes or hours must have, for the records before `until`."""
    streams = {(stream.channel_id, stream.key): stream.pk for stream in Stream.objects.all()}
    minutes: dict[Key, list[list[tuple[int, Decimal]]]] = {}
    for device, channel, tag, at, value in _records(until):
        begin = at.replace(second=0, microsecond=0)
        minutes.setdefault((device, channel, tag, begin), []).append(list(_numbers(streams, channel, value)))
    of_devices: dict[Key, list[list[tuple[int, Decimal]]]] = {}
    for (device, channel, tag, begin), records in minutes.items():
        if any(records):  # minutes without a number have no row, and their records count nowhere
            begin -= (begin - datetime.min.replace(tzinfo=begin.tzinfo)) % width
            of_devices.setdefault((device, channel, tag, begin), []).extend(records)
    of_tags: dict[Key, list[list[tuple[int, Decimal]]]] = {}
    of_channels: dict[Key, list[list[tuple[int, Decimal]]]] = {}
    for (_device, channel, tag, begin), records in of_devices.items():
        of_tags.setdefault((-channel, channel, tag, begin), []).extend(records)
        of_channels.setdefault((-channel, channel, ALL_TAGS, begin), []).extend(records)
    tags = Counter((channel, begin) for _device, channel, _tag, begin in of_tags)
    several = {key: records for key, records in of_channels.items() if tags[key[1], key[3]] > 1}
    return {
        key: (len(records), key not in of_tags or tags[key[1], key[3]] == 1, _folds(records))
        for key, records in (of_devices | of_tags | several).items()
    }


def _folds(records: list[list[tuple[int, Decimal]]]) -> dict[int, Fold]:
    numbers: dict[int, list[Decimal]] = {}
    for stream, number in chain.from_iterable(records):
        numbers.setdefault(stream, []).append(number)
    return {
        stream: Fold(len(some), sum(some, Decimal(0)), min(some), max(some))
        for stream, some in numbers.items()
    }


def _records(until: datetime) -> Iterator[tuple[int, int, str, datetime, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT device_key, channel_key, coalesce(tag, ''), at, value::text FROM streams_record WHERE at < %s",
            [until],
        )
        for device, channel, tag, at, text in cursor.fetchall():
            yield device, channel, tag, at, json.loads(text, parse_float=Decimal)


def _numbers(streams: dict[tuple[int, str], int], channel: int, value: Any) -> Iterator[tuple[int, Decimal]]:
    for path, scalar in flatten(value):
        if isinstance(scalar, bool):
            yield -streams[channel, path], Decimal(scalar)
        elif isinstance(scalar, (int, Decimal)):
            yield streams[channel, path], Decimal(scalar)
