"""Deliveries as messages of plain values, for the notifiers to render."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo

from django.conf import settings
from django.db.models import OuterRef, Subquery

from devices.models import Device
from events.models import Alert, Delivery, DeliveryItem, Notification, Severity
from events.notifiers.shape import FIRING, RESOLVED, Item, Message

TEST = "test"


def messages_of(deliveries: Iterable[Delivery], *, now: datetime) -> dict[int, Message]:
    """Delivery key -> its message, in few queries. The deliveries have their accounts."""
    rows = list(deliveries)
    device = Device.objects.filter(pk=OuterRef("alert__device_key"))
    items = list(
        DeliveryItem.objects.filter(delivery__in=[row.pk for row in rows])
        .select_related("notification", "alert__rule", "alert__channel")
        .annotate(device_id=Subquery(device.values("device_id")))
        .order_by("pk")
    )
    device_ids = {item.alert.device_key: item.device_id for item in items if item.device_id is not None}
    by_delivery: dict[int, list[DeliveryItem]] = {}
    for item in items:
        by_delivery.setdefault(item.delivery_id, []).append(item)
    return {row.pk: _message(row, by_delivery.get(row.pk, []), device_ids, now=now) for row in rows}


def alert_url(alert_key: int) -> str:
    """Where a person looks at an alert, acknowledges and snoozes it, after signing in."""
    return f"{settings.BASE_URL}/alerts/{alert_key}/"


def _message(
    delivery: Delivery, items: Sequence[DeliveryItem], device_ids: dict[int, str], *, now: datetime
) -> Message:
    zone = delivery.account.zone
    found = [_item(one, device_ids.get(one.alert.device_key), zone=zone) for one in items]
    return Message(
        key=delivery.public_id,
        is_test=delivery.is_test,
        items=found or [_sample(now=now.astimezone(zone))],
        url=f"{settings.BASE_URL}/alerts/",
        origin=settings.INSTALLATION,
        zone=zone,
    )


def _item(item: DeliveryItem, device_id: str | None, *, zone: tzinfo) -> Item:
    alert, kind = item.alert, item.notification.kind
    state = _state(alert, kind)
    return Item(
        kind=kind,
        state=state,
        alert_id=alert.pk,
        event_id=alert.rule_id,
        severity=alert.severity,
        cause=alert.cause,
        description=alert.rule.description,
        channel=alert.channel.number,
        channel_name=alert.channel.name,
        device_id=device_id,
        tag=alert.tag or None,
        source=alert.key,
        operator=alert.operator,
        threshold=alert.threshold,
        current=alert.value if kind == Notification.Kind.FIRING else alert.last_value,
        since=alert.since.astimezone(zone),
        at=_at(alert, kind, state).astimezone(zone),
        url=alert_url(alert.pk),
    )


def _state(alert: Alert, kind: str) -> str:
    """What the notification says; one of a firing says so, also when it is sent after the recovery."""
    if kind == Notification.Kind.RESOLVED:
        return RESOLVED
    if kind == Notification.Kind.CALM and alert.resolved_at is not None:
        return RESOLVED
    return FIRING


def _at(alert: Alert, kind: str, state: str) -> datetime:
    if state == RESOLVED and alert.resolved_at is not None:
        return alert.resolved_at
    return alert.fired_at if kind == Notification.Kind.FIRING else alert.last_at


def _sample(*, now: datetime) -> Item:
    """What a test says, to programs."""
    return Item(
        kind=TEST,
        state=FIRING,
        alert_id=0,
        event_id=0,
        severity=Severity.INFO,
        cause="value",
        description="Test message of Servwatch",
        channel=0,
        channel_name="",
        device_id=None,
        tag=None,
        source="cpu:idle",
        operator="<",
        threshold="10",
        current=9.5,
        since=now - timedelta(minutes=5),
        at=now,
        url=f"{settings.BASE_URL}/alerts/",
    )
