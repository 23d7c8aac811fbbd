"""Notifications become deliveries: one for each notifier of the rule, in the order in which they were written."""

from datetime import datetime

from django.db import transaction

from events.models import Alert, Delivery, DeliveryItem, Notification
from events.notifiers_store import KEEP_TRYING, notifiers_of_rule

AT_ONCE = 500


@transaction.atomic
def settle_due(*, now: datetime) -> int:
    """Settle what is due, at most some hundreds; returns how many. Two processes may do it at once."""
    rows = list(
        Notification.objects.select_for_update(of=("self",), skip_locked=True)
        .filter(settled_at=None)
        .select_related("alert__rule__account")
        .order_by("pk")[:AT_ONCE]
    )
    for notification in rows:
        _settle(notification, now=now)
    return len(rows)


def _settle(notification: Notification, *, now: datetime) -> None:
    rule = notification.alert.rule
    notifiers = notifiers_of_rule(rule)
    for notifier in notifiers:
        delivery = Delivery.objects.create(
            account_id=rule.account_id,
            notifier=notifier,
            rule=rule,
            created_at=now,
            next_at=now,
            expires_at=now + KEEP_TRYING,
        )
        DeliveryItem.objects.create(
            delivery=delivery, notification=notification, alert_id=notification.alert_id
        )
    notification.settled_at = now
    notification.outcome = Notification.Outcome.SENT if notifiers else Notification.Outcome.NOBODY
    notification.save(update_fields=["settled_at", "outcome"])
    if notifiers:
        Alert.objects.filter(pk=notification.alert_id).update(notified_at=now)
