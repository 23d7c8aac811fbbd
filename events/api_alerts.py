"""REST v2: alerts, `/v2/alert[/{alert_id}]`."""

from datetime import datetime, timedelta, tzinfo
from typing import Any, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from events import api_docs
from events.models import Alert, Severity
from events.selectors import (
    OPEN,
    AlertFilter,
    AlertRow,
    alert_count,
    alert_get_for_account,
    alert_list,
    no_alert,
)
from events.services import alert_acknowledge, alert_comment, alert_snooze, alert_unacknowledge
from tokens.api_fields import TextField, TruthField, WholeNumberField
from tokens.api_options import option_choice, option_int, option_text, option_time, page_headers
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account, ApiToken
from tokens.times import time_text

DEFAULT_LIST = 100
MOST_SNOOZE_S = 30 * 86400
STATES = (*Alert.State.values, OPEN)


@extend_schema_view(**api_docs.ALERT_LIST)
class AlertListView(ApiView):
    """What fires, and what has fired."""

    def get(self, request: Request) -> Response:
        """The newest first; `?limit=` and `?after=` give pages."""
        account, now = account_of(request), timezone.now()
        limit = option_int(request, "limit", low=1, high=10_000) or DEFAULT_LIST
        narrow = AlertFilter(
            state=option_choice(request, "state", STATES) or "",
            severity=option_choice(request, "severity", Severity.values) or "",
            device_id=option_text(request, "device") or "",
            channel=option_int(request, "channel"),
            event_id=option_int(request, "event", high=10**18),
            since=option_time(request, "since", zone=account.zone),
        )
        before = option_int(request, "after", low=1, high=10**18)
        rows = alert_list(account, narrow=narrow, now=now, before=before, limit=limit + 1)
        next_after = str(rows[limit - 1].alert.pk) if len(rows) > limit else ""
        total = alert_count(account, narrow=narrow, now=now)
        headers = page_headers(request, next_after=next_after, total=total)
        zone = account.zone
        return Response(
            {"alerts": [alert_object(row, zone=zone, now=now) for row in rows[:limit]]}, headers=headers
        )


@extend_schema_view(**api_docs.ALERT)
class AlertView(ApiView):
    """One alert."""

    class InputSerializer(serializers.Serializer[Any]):
        acknowledged = TruthField()
        snooze_s = WholeNumberField(low=0, high=MOST_SNOOZE_S)

    class CommentSerializer(serializers.Serializer[Any]):
        comment = TextField(max_length=2000)

    def get(self, request: Request, alert_id: str) -> Response:
        account = account_of(request)
        return _answer(alert_of(account, alert_id), account)

    def put(self, request: Request, alert_id: str) -> Response:
        """Acknowledge an open alert, or take that back; snooze it for so many seconds, 0 ends the snooze."""
        account, now, by = account_of(request), timezone.now(), asker(request)
        row = alert_of(account, alert_id)
        given = body_checked(request, self.InputSerializer)
        if "acknowledged" in given:
            if given["acknowledged"]:
                alert_acknowledge(row.alert, by=by, now=now)
            else:
                alert_unacknowledge(row.alert)
        if "snooze_s" in given:
            until = now + timedelta(seconds=given["snooze_s"]) if given["snooze_s"] else None
            alert_snooze(row.alert, until=until, by=by, now=now)
        return _answer(row, account)

    def post(self, request: Request, alert_id: str) -> Response:
        """Add a comment."""
        account = account_of(request)
        row = alert_of(account, alert_id)
        text = body_checked(request, self.CommentSerializer).get("comment", "")
        alert_comment(row.alert, text=text, by=asker(request), now=timezone.now())
        return _answer(alert_of(account, alert_id), account, status=201)


def alert_of(account: Account, text: str) -> AlertRow:
    """The alert that a path names. Raises NOT_FOUND."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise no_alert()
    return alert_get_for_account(account, int(text))


def alert_object(row: AlertRow, *, zone: tzinfo, now: datetime) -> dict[str, Any]:
    """What the API answers for an alert."""
    alert = row.alert
    state = alert.state_now(now=now)
    snoozed = state is Alert.State.SNOOZED
    return {
        "alert_id": alert.pk,
        "event_id": alert.rule_id,
        "description": alert.rule.description,
        "mapped_ch": alert.channel.number,
        "channel_name": alert.channel.name,
        "device_id": row.device_id,
        "tag": alert.tag or None,
        "key": alert.key,
        "cause": alert.cause,
        "operator": alert.operator,
        "threshold": alert.threshold,
        "severity": alert.severity,
        "state": state.value,
        "since": time_text(alert.since, zone=zone),
        "fired_at": time_text(alert.fired_at, zone=zone),
        "value": alert.value,
        "last_at": time_text(alert.last_at, zone=zone),
        "last_value": alert.last_value,
        "resolved_at": time_text(alert.resolved_at, zone=zone),
        "resolution": alert.resolution or None,
        "acknowledged_at": time_text(alert.acknowledged_at, zone=zone),
        "acknowledged_by": alert.acknowledged_by or None,
        "snoozed_until": time_text(alert.snoozed_until, zone=zone) if snoozed else None,
        "snoozed_by": alert.snoozed_by if snoozed else None,
        "comments": [
            {"text": comment.text, "by": comment.by, "at": time_text(comment.at, zone=zone)}
            for comment in alert.comments.all()
        ],
    }


def _answer(row: AlertRow, account: Account, *, status: int = 200) -> Response:
    return Response(alert_object(row, zone=account.zone, now=timezone.now()), status=status)


def asker(request: Request) -> str:
    """Who acts, for people to read."""
    return f"API token {cast(ApiToken, request.auth).name}"
