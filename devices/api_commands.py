"""REST v2: commands to devices, `/v2/publish/{device_id}[/{command_id}]`."""

from datetime import datetime, tzinfo
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response

from devices import api_docs
from devices.api import device_of
from devices.commands import command_send, payload_bytes
from devices.models import Command
from devices.selectors import command_get, command_list
from servwatch_site.errors import Code, ServwatchError
from tokens.api_options import option_int, page_headers
from tokens.api_view import ApiView, account_of
from tokens.times import time_text

MOST_KEPT_S = 30 * 86400
DEFAULT_LIST = 100


@extend_schema_view(**api_docs.PUBLISH)
class PublishView(ApiView):
    """Commands of one device."""

    def get(self, request: Request, device_id: str) -> Response:
        """The newest commands with their states; `?limit=` and `?after=` give pages."""
        account = account_of(request)
        device = device_of(account, device_id)
        limit = option_int(request, "limit", low=1, high=10_000) or DEFAULT_LIST
        after = option_int(request, "after", low=1, high=2**62)
        rows = command_list(device, before_pk=after, limit=limit + 1)
        next_after = str(rows[limit - 1].pk) if len(rows) > limit else ""
        headers = page_headers(request, next_after=next_after, total=None)
        now, zone = timezone.now(), account.zone
        return Response(
            {
                "device_id": device.device_id,
                "commands": [command_object(row, zone=zone, now=now) for row in rows[:limit]],
            },
            headers=headers,
        )

    def post(self, request: Request, device_id: str) -> Response:
        """Publish to the device's command topic: `{"qos": 0|1, "payload": "text"}`, objects as JSON.

        200: the broker has taken it. With `keep_s` it is kept that many seconds for a device that is away: 202 while
        it waits. `state` tells what is known: queued, sent, delivered (the device has acknowledged, which it can over
        MQTT 5) or expired.
        """
        account, now = account_of(request), timezone.now()
        device = device_of(account, device_id)
        qos, keep_s, payload = _checked(request.data)
        command = command_send(device, payload=payload, qos=qos, keep_s=keep_s, now=now)
        answer = command_object(command, zone=account.zone, now=now)
        return Response(answer, status=202 if answer["state"] == Command.State.QUEUED else 200)


@extend_schema_view(**api_docs.COMMAND)
class CommandView(ApiView):
    """One command."""

    def get(self, request: Request, device_id: str, command_id: str) -> Response:
        account = account_of(request)
        device = device_of(account, device_id)
        command = command_get(device, command_id)
        return Response(command_object(command, zone=account.zone, now=timezone.now()))


def command_object(command: Command, *, zone: tzinfo, now: datetime) -> dict[str, Any]:
    """What the API answers for a command."""
    return {
        "command_id": command.pk,
        "device_id": command.device.device_id,
        "state": command.state_now(now=now),
        "qos": command.qos,
        "payload": bytes(command.payload).decode("utf-8", "replace"),
        "created_at": time_text(command.created_at, zone=zone),
        "expires_at": time_text(command.expires_at, zone=zone),
        "sent_at": time_text(command.sent_at, zone=zone),
        "delivered_at": time_text(command.delivered_at, zone=zone),
    }


def _checked(data: Any) -> tuple[int, int, bytes]:
    """QoS, seconds to keep it, and payload. Raises INVALID_VALUE, PAYLOAD_TOO_LARGE."""
    if not isinstance(data, dict):
        raise ServwatchError(Code.INVALID_VALUE, _("The body must be one JSON object with qos and payload."))
    fields = {}
    qos, keep_s = data.get("qos", 0), data.get("keep_s", 0)
    if not isinstance(qos, int) or isinstance(qos, bool) or qos not in (0, 1):
        fields["qos"] = _("must be 0 or 1")
    if not isinstance(keep_s, int) or isinstance(keep_s, bool) or not 0 <= keep_s <= MOST_KEPT_S:
        fields["keep_s"] = _("must be a whole number from 0 to %(most)d") % {"most": MOST_KEPT_S}
    if data.get("payload") is None:
        fields["payload"] = _("required")
    if fields:
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields)
    return qos, keep_s, payload_bytes(data["payload"])
