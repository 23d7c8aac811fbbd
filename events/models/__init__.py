"""Rules, their alerts, what is pending or firing at the moment, and who is told of them and how that went."""

from events.models.alerts import Alert, AlertState, Cause, Comment
from events.models.notifications import (
    Attempt,
    Delivery,
    DeliveryItem,
    Flapping,
    Maintenance,
    Notification,
    Notifier,
    SigningSecret,
)
from events.models.rules import Rule, Severity
from events.models.silence import HeardStream

__all__ = [
    "Alert",
    "AlertState",
    "Attempt",
    "Cause",
    "Comment",
    "Delivery",
    "DeliveryItem",
    "Flapping",
    "HeardStream",
    "Maintenance",
    "Notification",
    "Notifier",
    "Rule",
    "Severity",
    "SigningSecret",
]
