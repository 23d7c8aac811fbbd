"""REST v2: devices, `/v2/device[/{device_id}]`."""

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
from devices import api_docs
from devices.ids import device_id_check
from devices.models import Device
from devices.selectors import (
    DeviceFilter,
    DeviceNow,
    device_count,
    device_get_for_account,
    device_list,
    device_now,
    devices_deleted,
)
from devices.services import device_create, device_delete, device_update
from servwatch_site.errors import Code, ServwatchError
from tokens.api_fields import TextField, TruthField, WholeNumberField
from tokens.api_options import (
    option_bool,
    option_choice,
    option_int,
    option_text,
    page_asked,
    page_cut,
    page_headers,
)
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account
from tokens.times import time_text

PLAIN_FIELDS = ("description", "device_type", "location", "manufacturer")


@extend_schema_view(**api_docs.DEVICE_LIST)
class DeviceListView(ApiView):
    """All devices of the account, or those that the filters leave."""

    def get(self, request: Request) -> Response:
        account, page, now = account_of(request), page_asked(request), timezone.now()
        if option_bool(request, "deleted"):
            return Response([deleted_object(row, zone=account.zone) for row in devices_deleted(account)])
        narrow = DeviceFilter(
            channel=option_int(request, "channel"),
            enabled=option_bool(request, "enabled"),
            online=option_bool(request, "online"),
            mapped=option_bool(request, "mapped"),
            pending=option_bool(request, "pending"),
            q=option_text(request, "q") or "",
        )
        found = device_list(
            account,
            narrow=narrow,
            now=now,
            after=page.after if page else "",
            limit=page.limit + 1 if page else None,
        )
        rows, next_after = page_cut(found, page, cursor=lambda row: row.device.device_id)
        headers = {}
        if page:
            total = device_count(account, narrow=narrow, now=now)
            headers = page_headers(request, next_after=next_after, total=total)
        zone = account.zone
        return Response([device_object(row, zone=zone) for row in rows], headers=headers)

    def post(self, request: Request) -> Response:
        """A client whose id is empty lands here; the answer says so."""
        device_id_check("")
        raise AssertionError("an empty id is always refused")


@extend_schema_view(**api_docs.DEVICE)
class DeviceView(ApiView):
    """One device; its id is the serial it chose."""

    body_optional = frozenset({"POST"})

    class InputSerializer(serializers.Serializer[Any]):
        description = TextField(max_length=256)
        enabled = TruthField()
        enable = TruthField()
        mapped_ch = WholeNumberField(low=0, allow_null=True)
        device_type = TextField(max_length=64)
        location = TextField(max_length=128)
        manufacturer = TextField(max_length=64)

    def get(self, request: Request, device_id: str) -> Response:
        account = account_of(request)
        return _answer(device_of(account, device_id), account=account, now=timezone.now())

    def post(self, request: Request, device_id: str) -> Response:
        account, now = account_of(request), timezone.now()
        device_id_check(device_id)
        given = body_checked(request, self.InputSerializer)
        if given.get("enable", given.get("enabled")) != given.get("enabled", given.get("enable")):
            raise ServwatchError(
                Code.INVALID_VALUE,
                _("enabled and enable contradict each other. Send one of them."),
                fields={"enable": _("contradicts enabled")},
            )
        device = device_create(account, device_id, now=now, changes=_changes(account, given, enabled=False))
        return _answer(device, account=account, now=now, status=201)

    def put(self, request: Request, device_id: str) -> Response:
        """Activation and mapping happen here."""
        account, now = account_of(request), timezone.now()
        device = device_of(account, device_id)
        given = body_checked(request, self.InputSerializer)
        device_update(device, changes=_changes(account, given, enabled=device.enabled), now=now)
        return _answer(device, account=account, now=now)

    def delete(self, request: Request, device_id: str) -> Response:
        """Answers the device as it was. Its records stay in their channel.

        `?records=delete`: they go too, in the background; `GET /v2/device?deleted=true` reports how far it is.
        """
        account, now = account_of(request), timezone.now()
        device = device_of(account, device_id)
        with_records = option_choice(request, "records", ("keep", "delete")) == "delete"
        gone = _answer(device, account=account, now=now)
        device_delete(device, now=now, with_records=with_records)
        return gone


def device_of(account: Account, device_id: str) -> Device:
    """The device that a path names. Raises NO_DEVICE."""
    # No id holds NUL, and the database cannot even be asked for it.
    return device_get_for_account(account, device_id.replace("\0", "\ufffd"))


def device_object(row: DeviceNow, *, zone: tzinfo) -> dict[str, Any]:
    """What the API answers for a device."""
    device = row.device
    known: dict[str, Any] = {
        "device_id": device.device_id,
        "description": device.description,
        "enabled": device.enabled,
        "enable": "true" if device.enabled else "false",
        "mapped_ch": None if row.channel is None else row.channel.number,
        "device_type": device.device_type,
        "location": device.location,
        "manufacturer": device.manufacturer,
        "activate_at": time_text(device.activate_at, zone=zone),
        "online": row.online,
        "pending": device.pending,
    }
    if row.last_seen is not None:
        known["last_seen"] = time_text(row.last_seen, zone=zone)
    if device.state is not None:
        known["state"] = device.state
    return known


def deleted_object(device: Device, *, zone: tzinfo) -> dict[str, Any]:
    """What the API answers for a deleted device. `records`: kept, deleting or deleted."""
    records = "kept"
    if device.purge_wanted:
        records = "deleted" if device.purged_at else "deleting"
    return {
        "device_id": device.device_id,
        "description": device.description,
        "deleted_at": time_text(device.deleted_at, zone=zone),
        "records": records,
        "records_deleted": device.purged_records,
        "records_deleted_at": time_text(device.purged_at, zone=zone),
    }


def _answer(device: Device, *, account: Account, now: datetime, status: int = 200) -> Response:
    return Response([device_object(device_now(device, now=now), zone=account.zone)], status=status)


def _changes(account: Account, given: Mapping[str, Any], *, enabled: bool) -> dict[str, Any]:
    """The fields of the body under the names of the model. Raises NO_CHANNEL.

    A client that sends back all it has read, with one of `enabled` and `enable` changed, contradicts itself:
    what differs from the present state is what it means.
    """
    changes = {name: given[name] for name in PLAIN_FIELDS if name in given}
    wishes = {given[name] for name in ("enabled", "enable") if name in given}
    if wishes:
        changes["enabled"] = wishes.pop() if len(wishes) == 1 else not enabled
    if "mapped_ch" in given:
        number = given["mapped_ch"]
        changes["channel"] = None if number is None else channel_get_for_account(account, number)
    return changes
