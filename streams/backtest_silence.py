"""The half of a back-test that looks for silence: distances between records, and the time since the last.

Long silences are looked for among the rows of minutes or hours, and then among the records around those. A minute
without a number has no row: such a message is then found among the records.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection

from channels.keys import key_split
from events.replay import Spell
from streams.cover import HOUR, MINUTE
from streams.numbers import OBJECT, pooled_path
from streams.rollup_rows import HOURS, MINUTES

BY_HOUR_FROM = 3 * HOUR
BY_MINUTE_FROM = 3 * MINUTE

# Distances between neighbours, and the time from the last one to `high`. {own} is of the table's own conditions.
_GAPS_SQL = """
SELECT before, at FROM (
    SELECT at, lag(at) OVER (ORDER BY at) AS before FROM (
        SELECT t.at FROM {table} AS t WHERE t.device_key = %(device)s AND t.at >= %(low)s AND t.at < %(high)s
          AND t.channel_key = %(channel)s {own}
        UNION ALL SELECT %(high)s::timestamptz
    ) AS times
) AS pairs WHERE at - before >= %(least)s ORDER BY at LIMIT %(most)s
"""
_TAG = "AND coalesce(t.tag, '') = %(tag)s"
_PATH = f"AND jsonb_path_exists({OBJECT.format(value='t.value')}, %(path)s::jsonpath, silent => true)"


class SilenceOf(NamedTuple):
    """A device's messages, or one key path of them ("": any). `tag` None: with whatever tag."""

    channel_key: int
    device_key: int
    tag: str | None
    path: str
    stream_keys: Sequence[int]  # what the path is called in roll-ups


def silences(
    one: SilenceOf, *, low: datetime, high: datetime, absent: timedelta, rolled: bool, most: int
) -> list[Spell]:
    """When it would have been silent for so long; the oldest `most`. `rolled`: there are roll-ups to look at."""
    table, width = "streams_record", timedelta(0)
    if rolled and absent >= BY_HOUR_FROM:
        table, width = HOURS, HOUR
    elif rolled and absent >= BY_MINUTE_FROM:
        table, width = MINUTES, MINUTE
    pairs = _gaps(one, table, low=low, high=high, least=absent - width, most=most)
    if width:
        pairs = [
            pair
            for before, at in pairs
            for pair in _gaps(
                one, "streams_record", low=before, high=min(at + width, high), least=absent, most=most
            )
        ]
    found: dict[datetime, Spell] = {}
    for before, at in pairs:
        ended = at if at < high else None
        found[before] = Spell(before, before + absent, ended, None, exact=True)
    return list(found.values())


def usual_interval_s(device_key: int) -> float | None:
    """The device's usual distance between two messages, None while it is unknown."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(usual_interval_s) FROM devices_devicetraffic WHERE device_key = %s", [device_key]
        )
        row = cursor.fetchone()
    return None if row is None or row[0] is None else float(row[0])


def _gaps(
    one: SilenceOf, table: str, *, low: datetime, high: datetime, least: timedelta, most: int
) -> list[tuple[datetime, datetime]]:
    values: dict[str, Any] = {
        "device": one.device_key,
        "channel": one.channel_key,
        "low": low,
        "high": high,
        "least": least,
        "most": most,
        "tag": one.tag,
    }
    own = [] if one.tag is None else [_TAG]
    if one.path and table == "streams_record":
        own.append(_PATH)
        values["path"] = pooled_path(key_split(one.path))
    elif one.path:
        own.append("AND t.streams && %(streams)s::int[]")
        values["streams"] = list(one.stream_keys)
    with connection.cursor() as cursor:
        cursor.execute(_GAPS_SQL.format(table=table, own=" ".join(own)), values)
        return list(cursor.fetchall())
