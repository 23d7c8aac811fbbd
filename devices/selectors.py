"""Reads of devices for pages and API."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import F, Max, Min, OuterRef, Q, QuerySet, Subquery, Sum
from django.utils.translation import gettext as _

from channels.models import Channel
from devices.models import Command, Device, DeviceTraffic, RefusalCount, RefusedSignIn, UnknownDevice
from devices.sessions import device_in_session
from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account
from tokens.selectors import Traffic

INTERVALS_UNTIL_OFFLINE = 3
FIRST_GRACE_S = 300.0  # a device heard once has no usual interval yet
LEAST_GRACE_S = 5.0


@dataclass(frozen=True)
class DeviceNow:
    """A device with what is known of it now. `online`: has a live session, or was heard within three of its
    usual intervals."""

    device: Device
    channel: Channel | None
    last_seen: datetime | None
    online: bool

    @property
    def status(self) -> str:
        """One word: pending, disabled, unmapped, waiting (never heard), online or silent."""
        if self.device.pending:
            return "pending"
        if not self.device.enabled:
            return "disabled"
        if self.channel is None:
            return "unmapped"
        if self.online:
            return "online"
        return "waiting" if self.last_seen is None else "silent"


@dataclass(frozen=True)
class DeviceFilter:
    """Which devices of an account; None and "" do not narrow."""

    channel: int | None = None
    enabled: bool | None = None
    online: bool | None = None
    mapped: bool | None = None
    pending: bool | None = None
    q: str = ""


def device_get_for_account(account: Account, device_id: str) -> Device:
    """The account's device. Raises NO_DEVICE, also for a stranger's."""
    device = (
        Device.objects.filter(account=account, device_id=device_id, deleted_at=None)
        .select_related("channel")
        .first()
    )
    if device is None:
        raise _no_device(device_id)
    return device


def device_keys(account: Account, device_id: str) -> list[int]:
    """The keys under which records of this id lie. Raises NO_DEVICE.

    The present device alone where there is one, since it never shows what a deleted one of its id has sent;
    else the deleted ones, whose records outlive them.
    """
    rows = Device.objects.filter(account=account, device_id=device_id).values_list("pk", "deleted_at")
    keys = [key for key, deleted_at in rows if deleted_at is None] or [key for key, _deleted_at in rows]
    if not keys:
        raise _no_device(device_id)
    return keys


def device_now(device: Device, *, now: datetime) -> DeviceNow:
    signs = _with_signs(Device.objects.filter(pk=device.pk)).values_list(
        "last_seen", "usual_interval_s", "in_session"
    )
    last_seen, usual_interval_s, in_session = signs.first() or (None, None, False)
    return _device_now(device, last_seen, usual_interval_s, in_session=in_session, now=now)


def device_list(
    account: Account,
    *,
    narrow: DeviceFilter | None = None,
    now: datetime,
    after: str = "",
    limit: int | None = None,
) -> list[DeviceNow]:
    """The account's devices by id; `after` and `limit` give a page. `online` is told after the query."""
    narrow = narrow or DeviceFilter()
    query = device_query(account, narrow=narrow, now=now)
    if after:
        query = query.filter(device_id__gt=after)
    return device_rows_now(query[:limit] if limit is not None else query, now=now)


def device_rows_now(rows: Iterable[Any], *, now: datetime) -> list[DeviceNow]:
    """Judge rows of device_query()."""
    return [
        _device_now(row, row.last_seen, row.usual_interval_s, in_session=row.in_session, now=now)
        for row in rows
    ]


def device_count(account: Account, *, narrow: DeviceFilter | None = None, now: datetime) -> int:
    return device_query(account, narrow=narrow or DeviceFilter(), now=now).count()


def device_query(account: Account, *, narrow: DeviceFilter, now: datetime) -> QuerySet[Device]:
    """Devices by id, each with `last_seen` and `usual_interval_s` over all writers, and `in_session`."""
    present = Device.objects.filter(account=account, deleted_at=None).select_related("channel")
    query = _with_signs(present).order_by("device_id")
    mapped = Q(channel__isnull=False, channel__deleted_at=None)
    if narrow.channel is not None:
        query = query.filter(mapped, channel__number=narrow.channel)
    if narrow.mapped is not None:
        query = query.filter(mapped) if narrow.mapped else query.exclude(mapped)
    if narrow.enabled is not None:
        query = query.filter(enabled=narrow.enabled)
    if narrow.pending is not None:
        query = query.filter(pending=narrow.pending)
    if narrow.q:
        query = query.filter(
            Q(device_id__icontains=narrow.q)
            | Q(description__icontains=narrow.q)
            | Q(location__icontains=narrow.q)
        )
    if narrow.online is not None:
        query = _online(query, narrow.online, now=now)
    return query


def device_keys_present(account: Account, device_ids: Iterable[str]) -> dict[str, int]:
    """Device id -> key, of those that exist now."""
    rows = Device.objects.filter(account=account, deleted_at=None, device_id__in=[*device_ids])
    return dict(rows.values_list("device_id", "pk"))


def command_list(device: Device, *, before_pk: int | None = None, limit: int) -> list[Command]:
    """The device's commands, the newest first; `before_pk` continues a list."""
    rows = Command.objects.filter(device=device).select_related("device")
    if before_pk is not None:
        rows = rows.filter(pk__lt=before_pk)
    return list(rows.order_by("-pk")[:limit])


def command_get(device: Device, text: str) -> Command:
    """The device's command that a path names. Raises NOT_FOUND."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1
    command = Command.objects.select_related("device").filter(device=device, pk=number).first()
    if command is None:
        raise ServwatchError(Code.NOT_FOUND, _("This device has no such command. List them first."))
    return command


def devices_deleted(account: Account) -> list[Device]:
    """The newest thousand of the devices that were deleted, the latest first."""
    return list(
        Device.objects.filter(account=account, deleted_at__isnull=False).order_by("-deleted_at")[:1000]
    )


def inbox(account: Account) -> list[Device]:
    """New devices that need somebody: waiting for approval, or enabled but not yet mapped."""
    unmapped = Q(channel=None) | Q(channel__deleted_at__isnull=False)
    return list(
        Device.objects.filter(account=account, deleted_at=None)
        .filter(Q(pending=True) | Q(unmapped, enabled=True))
        .order_by("-created_at")[:200]
    )


def unknown_devices(account: Account) -> list[UnknownDevice]:
    """Ids that knocked in vain, the latest first."""
    return list(UnknownDevice.objects.filter(account=account).order_by("-last_at")[:200])


def device_traffic(device: Device) -> Traffic:
    """The device's counters over all writers."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(received), 0), coalesce(sum(stored), 0), coalesce(sum(duplicate), 0),"
            " coalesce(sum(refused), 0), coalesce(sum(limited), 0)"
            " FROM devices_devicetraffic WHERE device_key = %s",
            [device.pk],
        )
        row = cursor.fetchone()
    return Traffic(*map(int, row))


def refusals_by_reason(account_key: int, *, device_key: int | None = None) -> dict[str, int]:
    """Reason -> how many messages, for an account or one device."""
    rows = RefusalCount.objects.filter(account_key=account_key)
    if device_key is not None:
        rows = rows.filter(device_key=device_key)
    counts: dict[str, int] = {}
    for reason, count in rows.values_list("reason", "count"):
        counts[reason] = counts.get(reason, 0) + count
    return counts


def refusals_of_all() -> dict[str, int]:
    """Reason -> how many messages, of all accounts and those of none."""
    rows = RefusalCount.objects.order_by().values("reason").annotate(messages=Sum("count"))
    return {row["reason"]: int(row["messages"]) for row in rows}


def devices_of_all(*, now: datetime) -> tuple[int, int]:
    """How many devices all accounts have, and how many of them are online, judged as is_online() does."""
    with connection.cursor() as cursor:
        cursor.execute(_ONLINE_OF_ALL_SQL, [now, INTERVALS_UNTIL_OFFLINE, LEAST_GRACE_S, FIRST_GRACE_S])
        there, heard = cursor.fetchone()
    return int(there), int(heard)


def refused_sign_ins(*, limit: int = 50) -> list[RefusedSignIn]:
    """Connections the broker refused, newest first. The broker cannot say whose they were meant to be."""
    return list(RefusedSignIn.objects.order_by("-at")[:limit])


def live_channel(device: Device) -> Channel | None:
    """The channel a device is mapped to; a deleted one counts as none."""
    channel = device.channel
    return channel if channel is not None and channel.deleted_at is None else None


def is_online(
    last_seen: datetime | None, usual_interval_s: float | None, *, in_session: bool, now: datetime
) -> bool:
    if in_session:
        return True
    if last_seen is None:
        return False
    grace_s = FIRST_GRACE_S
    if usual_interval_s is not None:
        grace_s = max(INTERVALS_UNTIL_OFFLINE * usual_interval_s, LEAST_GRACE_S)
    return now - last_seen <= timedelta(seconds=grace_s)


_ONLINE_OF_ALL_SQL = """
WITH in_session AS (
    SELECT DISTINCT d.id FROM devices_session s JOIN devices_device d ON d.account_id = s.account_id
    AND d.deleted_at IS NULL AND d.device_id = CASE
        WHEN s.device_id <> '' THEN s.device_id
        WHEN EXISTS (
            SELECT FROM devices_device o
            WHERE o.account_id = s.account_id AND o.device_id = s.client_id AND o.deleted_at IS NULL
        ) THEN s.client_id
        ELSE s.named_device
    END
    WHERE s.connected
), heard AS (
    SELECT device_key AS id FROM devices_devicetraffic GROUP BY device_key
    HAVING max(last_seen) >= %s - make_interval(secs => coalesce(greatest(min(usual_interval_s) * %s, %s), %s))
)
SELECT count(*), count(*) FILTER (
    WHERE id IN (SELECT id FROM in_session) OR id IN (SELECT id FROM heard)
) FROM devices_device WHERE deleted_at IS NULL
"""


def _no_device(device_id: str) -> ServwatchError:
    return ServwatchError(
        Code.NO_DEVICE, _("There is no device %(id)s. Create it, or let it send once.") % {"id": device_id}
    )


def _with_signs(devices: QuerySet[Device]) -> QuerySet[Any]:
    """With what tells whether they are online."""
    heard = DeviceTraffic.objects.filter(device_key=OuterRef("pk")).order_by().values("device_key")
    return devices.annotate(
        last_seen=Subquery(heard.annotate(newest=Max("last_seen")).values("newest")),
        usual_interval_s=Subquery(heard.annotate(usual=Min("usual_interval_s")).values("usual")),
        in_session=device_in_session(),
    )


def _device_now(
    device: Device,
    last_seen: datetime | None,
    usual_interval_s: float | None,
    *,
    in_session: bool,
    now: datetime,
) -> DeviceNow:
    return DeviceNow(
        device=device,
        channel=live_channel(device),
        last_seen=last_seen,
        online=is_online(last_seen, usual_interval_s, in_session=in_session, now=now),
    )


def _online(query: QuerySet[Any], online: bool, *, now: datetime) -> QuerySet[Any]:
    """The same judgement as is_online(), as SQL."""
    from django.db.models import DurationField, ExpressionWrapper, FloatField, Value
    from django.db.models.functions import Cast, Coalesce, Greatest

    grace_s = Coalesce(
        Greatest(Cast(F("usual_interval_s"), FloatField()) * INTERVALS_UNTIL_OFFLINE, Value(LEAST_GRACE_S)),
        Value(FIRST_GRACE_S),
    )
    second = Value(timedelta(seconds=1), output_field=DurationField())
    query = query.annotate(
        online_until=F("last_seen") + ExpressionWrapper(grace_s * second, output_field=DurationField())
    )
    if online:
        return query.filter(Q(online_until__gte=now) | Q(in_session=True))
    silent = Q(online_until__lt=now) | Q(online_until=None)  # NULL, never heard, is neither
    return query.filter(silent, in_session=False)
