"""Alerts as pages show them: state, what the value is now against the threshold, what was said last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from channels.keys import key_split
from channels.models import Stream
from channels.selectors import latest_of_devices, streams_named
from events.models import Alert, Cause, Comment
from events.selectors import AlertRow


@dataclass(frozen=True)
class AlertLine:
    """`value` is the newest there is, measured at `value_at`; of a resolved alert the one it ended with."""

    alert: Alert
    device_id: str | None
    state: Alert.State
    title: str
    label: str
    unit: str
    value: Any
    value_at: datetime
    notes: int
    note: Comment | None

    @property
    def is_silence(self) -> bool:
        return self.alert.cause == Cause.SILENCE


def alert_lines(rows: Sequence[AlertRow], *, now: datetime) -> list[AlertLine]:
    """Three queries whatever their number."""
    alerts = [row.alert for row in rows]
    streams = streams_named({alert.channel_id for alert in alerts}, {alert.key for alert in alerts})
    latest = latest_of_devices([alert.device_key for alert in alerts if alert.resolved_at is None])
    lines = []
    for row in rows:
        alert, stream = row.alert, streams.get((row.alert.channel_id, row.alert.key))
        newest = latest.get(alert.device_key, {}).get(alert.key)
        is_newer = newest is not None and newest.at >= alert.last_at and (newest.tag or "") == alert.tag
        value, at = (newest.value, newest.at) if is_newer and newest else (alert.last_value, alert.last_at)
        comments = list(alert.comments.all())
        lines.append(
            AlertLine(
                alert,
                row.device_id,
                alert.state_now(now=now),
                alert_title(alert, stream),
                stream_label(alert.key, stream),
                stream.unit if stream else "",
                value,
                at,
                len(comments),
                comments[-1] if comments else None,
            )
        )
    return lines


def alert_title(alert: Alert, stream: Stream | None = None) -> str:
    """What it is about: the event's description, else the stream, else that nothing comes."""
    if alert.rule.description:
        return alert.rule.description
    if alert.key:
        return stream_label(alert.key, stream)
    return _("No data")


def stream_label(key: str, stream: Stream | None) -> str:
    """The label people gave it, else its path in words."""
    return (stream.label if stream else "") or " ".join(key_split(key)) if key else ""
