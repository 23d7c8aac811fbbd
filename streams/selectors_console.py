"""What the console reads of records, by device."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.utils import timezone


@dataclass(frozen=True)
class RawRecord:
    """A record as it is stored; `text` is its value as JSON."""

    at: datetime
    tag: str | None
    text: str


def newest_of_device(device_key: int, *, count: int) -> list[RawRecord]:
    """The newest records of a device, newest first; of the last days only, so that no old partition is read."""
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT at, tag, value::text FROM streams_record WHERE device_key = %s AND at >= %s AND at < %s"
            " ORDER BY at DESC LIMIT %s",
            [device_key, now - timedelta(days=8), now + timedelta(hours=2), count],
        )
        return [RawRecord(*row) for row in cursor.fetchall()]
