"""Whether there is anything to settle or to send: one statement, for every second of a worker with nothing to do."""

from datetime import datetime
from typing import NamedTuple

from django.db import connection

from events.damping import CALM_AFTER

# Alerts that fire on and of which people may have to be told again; those that are being told of are left out.
REMINDERS_DUE_SQL = """
EXISTS (
    SELECT FROM events_alert a JOIN events_rule r ON r.id = a.rule_id
    WHERE a.resolved_at IS NULL AND (
        a.snoozed_until <= %(now)s AND (a.notified_at IS NULL OR a.notified_at < a.snoozed_until)
        OR a.acknowledged_at IS NULL AND r.enabled
           AND a.notified_at <= %(now)s - r.repeat_s * interval '1 second'
    ) AND NOT EXISTS (SELECT FROM events_notification n WHERE n.alert_id = a.id AND n.settled_at IS NULL)
)
"""
CALM_DUE_SQL = "EXISTS (SELECT FROM events_flapping WHERE changed_at <= %(calm)s)"
_DUE_SQL = f"""
SELECT EXISTS (
    SELECT FROM events_notification WHERE settled_at IS NULL AND (held_until IS NULL OR held_until <= %(now)s)
) OR {CALM_DUE_SQL} OR {REMINDERS_DUE_SQL}, EXISTS (
    SELECT FROM events_notifier n
    WHERE n.enabled AND n.deleted_at IS NULL AND (n.retry_at IS NULL OR n.retry_at <= %(now)s) AND EXISTS (
        SELECT FROM events_delivery d
        WHERE d.notifier_id = n.id AND d.status = 'pending' AND d.next_at <= %(now)s
          AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)
    )
)
"""


class Due(NamedTuple):
    """Whether notifications wait to be settled or made, and whether deliveries wait to be sent."""

    settle: bool
    send: bool


def due_look(*, now: datetime) -> Due:
    with connection.cursor() as cursor:
        cursor.execute(_DUE_SQL, {"now": now, "calm": now - CALM_AFTER})
        return Due(*cursor.fetchone())
