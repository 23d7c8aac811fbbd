"""The newest stored records of given devices, for whoever has to know whether a measurement comes late."""

from collections.abc import Sequence
from typing import Any

import psycopg

from events.evaluation import Newest, Stored, Wanted

MOST = 50

_SQL = """
SELECT w.place, r.at, r.digest, r.value
FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::int[])
     AS w (place, device_key, channel_key, tag, low, high, most)
CROSS JOIN LATERAL (
    SELECT at, digest, value FROM streams_record
    WHERE device_key = w.device_key AND at >= w.low AND at <= w.high
      AND channel_key = w.channel_key AND coalesce(tag, '') = w.tag
    ORDER BY at DESC LIMIT w.most
) AS r
ORDER BY w.place, r.at DESC
"""


def records_newest(cursor: psycopg.Cursor[tuple[Any, ...]], wanted: Sequence[Wanted]) -> list[Newest]:
    """For each what was wanted, in order; at most MOST records each, beside the batch's own."""
    most = [MOST + one.own for one in wanted]
    columns: list[list[Any]] = [
        list(range(len(wanted))),
        [one.series.device_key for one in wanted],
        [one.series.channel_key for one in wanted],
        [one.series.tag for one in wanted],
        [one.low for one in wanted],
        [one.high for one in wanted],
        most,
    ]
    found: list[list[Stored]] = [[] for _ in wanted]
    cursor.execute(_SQL, columns)
    for place, at, digest, value in cursor.fetchall():
        found[place].append(Stored(at, digest, value))
    return [
        Newest(records, complete=len(records) < limit) for records, limit in zip(found, most, strict=True)
    ]
