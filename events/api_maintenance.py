"""REST v2: maintenance windows, `/v2/maintenance[/{maintenance_id}]`."""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from channels.selectors import channel_get_for_account
from channels.tags import tag_check
from devices.api import device_of
from events import api_docs
from events.api import TextOrNullField
from events.api_alerts import asker
from events.maintenance import maintenance_create, maintenance_delete, maintenance_update
from events.models import Maintenance
from events.selectors import maintenance_get_for_account, maintenance_list, no_maintenance
from events.windows import span_at
from servwatch_site.errors import Code, ServwatchError
from tokens.api_fields import TextField, WholeNumberField
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account
from tokens.times import time_parse, time_text

TIMES = ("starts_at", "ends_at", "until")


@extend_schema_view(**api_docs.MAINTENANCE_LIST)
class MaintenanceListView(ApiView):
    """The account's windows in which nobody is told of alerts."""

    class InputSerializer(serializers.Serializer[Any]):
        name = TextField(max_length=128)
        channel = WholeNumberField(low=0, allow_null=True)
        device_id = TextOrNullField(max_length=64)
        tag = TextOrNullField(max_length=64)
        starts_at = TextField(max_length=64)
        ends_at = TextField(max_length=64)
        repeat = serializers.ChoiceField(choices=Maintenance.Repeat.choices, required=False)
        weekdays = serializers.ListField(
            child=WholeNumberField(low=0, high=6), required=False, allow_empty=True, max_length=7
        )
        until = TextOrNullField(max_length=64)

    def get(self, request: Request) -> Response:
        account, now = account_of(request), timezone.now()
        windows = maintenance_list(account)
        return Response(
            {"maintenance": [maintenance_object(one, zone=account.zone, now=now) for one in windows]}
        )

    def post(self, request: Request) -> Response:
        account, now = account_of(request), timezone.now()
        given = body_checked(request, self.InputSerializer)
        missing = {name: _("required") for name in ("starts_at", "ends_at") if not given.get(name)}
        if missing:
            raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=missing)
        window = maintenance_create(account, changes=_changes(account, given), by=asker(request), now=now)
        return Response(maintenance_object(window, zone=account.zone, now=now), status=201)


@extend_schema_view(**api_docs.MAINTENANCE)
class MaintenanceView(ApiView):
    """One window."""

    def get(self, request: Request, maintenance_id: str) -> Response:
        account = account_of(request)
        window = maintenance_of(account, maintenance_id)
        return Response(maintenance_object(window, zone=account.zone, now=timezone.now()))

    def put(self, request: Request, maintenance_id: str) -> Response:
        """Change a window. What it held back and no longer covers is told."""
        account, now = account_of(request), timezone.now()
        window = maintenance_of(account, maintenance_id)
        given = body_checked(request, MaintenanceListView.InputSerializer)
        maintenance_update(window, changes=_changes(account, given), now=now)
        return Response(maintenance_object(window, zone=account.zone, now=now))

    def delete(self, request: Request, maintenance_id: str) -> Response:
        """Answers the window as it was. What it held back and still fires is told."""
        account, now = account_of(request), timezone.now()
        window = maintenance_of(account, maintenance_id)
        gone = maintenance_object(window, zone=account.zone, now=now)
        maintenance_delete(window, now=now)
        return Response(gone)


def maintenance_of(account: Account, text: str) -> Maintenance:
    """The window that a path names. Raises NOT_FOUND."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise no_maintenance()
    return maintenance_get_for_account(account, int(text))


def maintenance_object(window: Maintenance, *, zone: tzinfo, now: datetime) -> dict[str, Any]:
    """What the API answers for a window."""
    span = span_at(window, now, zone)
    channel = window.channel
    return {
        "maintenance_id": window.pk,
        "name": window.name,
        "channel": None if channel is None else channel.number,
        "device_id": None if window.device is None else window.device.device_id,
        "tag": window.tag or None,
        "starts_at": time_text(window.starts_at, zone=zone),
        "ends_at": time_text(window.ends_at, zone=zone),
        "repeat": str(window.repeat),
        "weekdays": window.weekdays,
        "until": time_text(window.until, zone=zone),
        "active": span is not None,
        "active_until": time_text(None if span is None else span.ends, zone=zone),
        "created_at": time_text(window.created_at, zone=zone),
        "created_by": window.created_by,
    }


def _changes(account: Account, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the body under the names of the model. Raises NO_CHANNEL, NO_DEVICE, INVALID_VALUE."""
    changes = {name: given[name] for name in ("name", "repeat", "weekdays") if name in given}
    if "channel" in given:
        number = given["channel"]
        changes["channel"] = None if number is None else channel_get_for_account(account, number)
    if "device_id" in given:
        changes["device"] = device_of(account, given["device_id"]) if given["device_id"] else None
    if "tag" in given:
        changes["tag"] = tag_check(given["tag"]) if given["tag"] else ""
    return changes | _times(account, given)


def _times(account: Account, given: Mapping[str, Any]) -> dict[str, datetime | None]:
    times: dict[str, datetime | None] = {}
    wrong = {}
    for name in TIMES:
        if name not in given:
            continue
        try:
            times[name] = time_parse(given[name], zone=account.zone) if given[name] else None
        except ValueError as error:
            wrong[name] = str(error)
    if wrong:
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=wrong)
    return times
