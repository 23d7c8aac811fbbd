"""What happened with an alert, as one list in the order of time. Pure: rows in, entries out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from events.models import Alert, Comment, Delivery, Notification


@dataclass(frozen=True)
class Entry:
    """`what`: fired, acknowledged, snoozed, comment, notification or resolved. `deliveries` of a notification."""

    at: datetime
    what: str
    by: str = ""
    text: str = ""
    notification: Notification | None = None
    deliveries: Sequence[Delivery] = field(default_factory=list)


def alert_history(
    alert: Alert, *, comments: Iterable[Comment], notifications: Iterable[Notification]
) -> list[Entry]:
    """The oldest first. Of what was taken back nothing is kept."""
    entries = [Entry(alert.fired_at, "fired")]
    if alert.acknowledged_at is not None:
        entries.append(Entry(alert.acknowledged_at, "acknowledged", alert.acknowledged_by))
    if alert.snoozed_at is not None:
        entries.append(Entry(alert.snoozed_at, "snoozed", alert.snoozed_by))
    entries += [Entry(comment.at, "comment", comment.by, comment.text) for comment in comments]
    entries += [
        Entry(
            row.settled_at or row.created_at,
            "notification",
            notification=row,
            deliveries=[item.delivery for item in row.items.all()],
        )
        for row in notifications
    ]
    if alert.resolved_at is not None:
        entries.append(Entry(alert.resolved_at, "resolved"))
    return sorted(entries, key=lambda entry: entry.at)
