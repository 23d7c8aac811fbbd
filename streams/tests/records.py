"""Records for tests of reading, written past the pipeline."""

import json
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from channels.models import Channel, Tag
from devices.models import Device
from streams.payload import digest_of
from streams.storage import Kind, partitions_create, storage_kind


def record_add(
    device: Device, channel: Channel, at: datetime, value: Any, tag: str | None = None, form: int = 0
) -> None:
    """Store a record, and note it as the latest. `value` is a Python value, or JSON text as bytes."""
    text = value.decode() if isinstance(value, bytes) else json.dumps(value)
    row: list[Any] = [device.pk, channel.pk, at, digest_of(tag, text.encode()), form]
    with connection.cursor() as cursor:
        if storage_kind(cursor) is Kind.PARTITIONS:
            partitions_create(cursor, [at.astimezone(UTC).date()])
        cursor.execute(
            "INSERT INTO streams_record (device_key, channel_key, at, digest, form, tag, value)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [*row, tag, text],
        )
        cursor.execute(
            "INSERT INTO channels_latest AS l (device_key, channel_key, at, digest, form, tag, shape, value)"
            " VALUES (%s, %s, %s, %s, %s, %s, 0, %s) ON CONFLICT (device_key, channel_key, tag, shape)"
            " DO UPDATE SET at = excluded.at, value = excluded.value WHERE excluded.at >= l.at",
            [*row, tag or "", text],
        )
    if tag is not None:
        Tag.objects.get_or_create(channel=channel, name=tag)
