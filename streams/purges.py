"""Records removed because somebody asked for it, and the latest values that follow from what is left."""

from datetime import datetime
from typing import Any

import orjson
from django.db import connection, transaction

from channels.models import Latest
from streams.deletion import channel_rows_delete, rows_delete
from streams.selectors import RecordFilter
from streams.storage import RECORDS
from streams.structures import shape_of

LOOK_BACK_ROWS = 500  # how far to look for an older record of the same shape


def records_delete(narrow: RecordFilter) -> int:
    """Remove these records, in small steps that writers never wait long for; returns how many there were."""
    if narrow.tag is None and narrow.device_keys is None:
        gone = channel_rows_delete(RECORDS, narrow.channel_key, low=narrow.low, high=narrow.high)
    else:
        gone = rows_delete(RECORDS, *_where(narrow), low=narrow.low, high=narrow.high)
    _latest_follow(narrow)
    return gone


def _where(narrow: RecordFilter) -> tuple[str, dict[str, Any]]:
    conditions = ["channel_key = %(channel_key)s"]
    values: dict[str, Any] = {"channel_key": narrow.channel_key}
    if narrow.tag is not None:
        conditions.append("tag = %(tag)s")
        values["tag"] = narrow.tag
    if narrow.device_keys is not None:
        conditions.append("device_key = ANY(%(devices)s)")
        values["devices"] = list(narrow.device_keys)
    return " AND ".join(conditions), values


def _latest_follow(narrow: RecordFilter) -> None:
    """Latest values whose record is gone become the newest that is left, or go too."""
    rows = Latest.objects.filter(channel_key=narrow.channel_key, at__gte=narrow.low, at__lt=narrow.high)
    if narrow.tag is not None:
        rows = rows.filter(tag=narrow.tag)
    if narrow.device_keys is not None:
        rows = rows.filter(device_key__in=narrow.device_keys)
    for row in rows:
        with transaction.atomic():
            _follow(row)


def _follow(row: Latest) -> None:
    """With the row locked: a writer that has something newer waits, and then wins."""
    key: list[Any] = [row.device_key, row.channel_key, row.tag, row.shape]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT at FROM channels_latest"
            " WHERE device_key = %s AND channel_key = %s AND tag = %s AND shape = %s FOR UPDATE",
            key,
        )
        held = cursor.fetchone()
        if held is None or held[0] != row.at:
            return
        newest = _newest_left(cursor, row, before_or_at=row.at)
        if newest is None:
            cursor.execute(
                "DELETE FROM channels_latest"
                " WHERE device_key = %s AND channel_key = %s AND tag = %s AND shape = %s",
                key,
            )
        else:
            cursor.execute(
                "UPDATE channels_latest SET at = %s, digest = %s, form = %s, value = %s::jsonb"
                " WHERE device_key = %s AND channel_key = %s AND tag = %s AND shape = %s",
                [*newest, *key],
            )


def _newest_left(cursor: Any, row: Latest, *, before_or_at: datetime) -> tuple[Any, ...] | None:
    """Time, digest, form and value of the newest record that the latest row could stand for."""
    cursor.execute(
        "SELECT at, digest, form, value::text FROM streams_record"
        " WHERE device_key = %s AND channel_key = %s AND at <= %s AND coalesce(tag, '') = %s"
        " ORDER BY at DESC LIMIT %s",
        [row.device_key, row.channel_key, before_or_at, row.tag, LOOK_BACK_ROWS],
    )
    for at, digest, form, text in cursor.fetchall():
        if row.shape in (0, shape_of(orjson.loads(text))):
            return at, digest, form, text
    return None
