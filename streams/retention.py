"""What the worker does so that nothing is kept that nobody wants any more.

Whole days go where every channel allows it (streams/upkeep.py); the rest is deleted here in small steps. Every
function can be repeated and interrupted.
"""

import logging
from datetime import UTC, datetime, timedelta

from django.db.models import F, Max, Min

from channels.models import Channel, Latest, Stream, Tag
from devices.models import Device
from streams.deletion import channel_rows_delete, rows_delete
from streams.intake import KEPT_FOR
from streams.models import KeptAnswer, RefusedMessage
from streams.storage import RECORDS, TIME_SERIES
from tokens.models import Account

logger = logging.getLogger(__name__)

DEFAULT_RETENTION_DAYS = 90
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
BEYOND = timedelta(days=2)  # devices' clocks may be ahead of ours


def longest_retention() -> timedelta:
    """How long any channel wants its records; a deleted channel's records are purged, not kept."""
    most = Channel.objects.filter(deleted_at=None).aggregate(most=Max("retention_days"))["most"]
    return timedelta(days=most or DEFAULT_RETENTION_DAYS)


def shortest_retention() -> timedelta:
    """How long the channel with the shortest retention wants its records."""
    least = Channel.objects.filter(deleted_at=None).aggregate(least=Min("retention_days"))["least"]
    return timedelta(days=least or DEFAULT_RETENTION_DAYS)


def records_expire(*, now: datetime) -> int:
    """Delete what is older than its own channel keeps, where whole days cannot go; returns how many."""
    longest = longest_retention()
    gone = 0
    for channel in Channel.objects.filter(deleted_at=None):
        keep = timedelta(days=channel.retention_days)
        if keep < longest:
            gone += _delete_before(channel.pk, now - keep)
    return gone


def channels_purge(*, now: datetime) -> dict[int, int]:
    """Remove records, latest values, streams and tags of deleted channels: channel key -> records removed."""
    removed = {}
    for channel in Channel.objects.filter(deleted_at__isnull=False):
        remains = (
            Stream.objects.filter(channel=channel).exists()
            or Latest.objects.filter(channel_key=channel.pk).exists()
        )
        count = _delete_before(channel.pk, now + BEYOND)
        if not count and not remains:
            continue
        removed[channel.pk] = count
        for model in (Stream, Tag):
            model.objects.filter(channel=channel).delete()
        Latest.objects.filter(channel_key=channel.pk).delete()
        logger.info("Channel %d is purged: %d records removed.", channel.number, count)
    return removed


def devices_purge(*, now: datetime) -> dict[int, int]:
    """Remove the records of deleted devices whose records were to go: device key -> how many.

    A batch that was under way when the device was deleted may still write, so that a device is done only when
    nothing is left a minute later.
    """
    removed = {}
    waiting = Device.objects.filter(deleted_at__isnull=False, purge_wanted=True, purged_at=None)
    for device in waiting.order_by("deleted_at"):
        key = {"device_key": device.pk}
        gone = {
            series.table: rows_delete(
                series, "device_key = %(device_key)s", key, low=BEGINNING, high=now + BEYOND
            )
            for series in TIME_SERIES
            if not series.derived
        }
        count = gone[RECORDS.table]
        Latest.objects.filter(device_key=device.pk).delete()
        removed[device.pk] = count
        done = not count and device.deleted_at is not None and now - device.deleted_at > timedelta(minutes=1)
        Device.objects.filter(pk=device.pk).update(
            purged_records=F("purged_records") + count, purged_at=now if done else None
        )
        if done:
            logger.info("The records of the deleted device %s are removed.", device.device_id)
    return removed


def refused_expire(*, now: datetime) -> int:
    """Delete refused messages kept longer than their account wants; returns how many."""
    gone = 0
    for account_key, days in Account.objects.values_list("pk", "kept_refused_days"):
        gone += RefusedMessage.objects.filter(
            account_key=account_key, received_at__lt=now - timedelta(days=days)
        ).delete()[0]
    least = Account.objects.aggregate(least=Min("kept_refused_days"))["least"] or 30
    nobodys = RefusedMessage.objects.filter(account_key=0, received_at__lt=now - timedelta(days=least))
    return gone + nobodys.delete()[0]


def answers_expire(*, now: datetime) -> int:
    """Delete answers kept for repeated requests, a day after they were given; returns how many."""
    return KeptAnswer.objects.filter(created_at__lt=now - KEPT_FOR).delete()[0]


def _delete_before(channel_key: int, limit: datetime) -> int:
    """From every time series; returns how many records went."""
    gone = {
        series.table: channel_rows_delete(series, channel_key, low=BEGINNING, high=limit)
        for series in TIME_SERIES
        if not series.derived
    }
    return gone[RECORDS.table]
