"""A device's page, its form, and how to add one."""

from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from channels.selectors import latest_of_device, stream_meta
from console.access import account_of, account_page, say_error
from console.alert_lines import alert_lines
from console.charting import chart_groups, chart_json, first_query, range_of
from console.forms import CommandForm, DeviceForm, NewDeviceForm
from console.payloads import payload_text
from console.tiles import tile_groups
from devices.models import Device, Session
from devices.selectors import (
    command_list,
    device_get_for_account,
    device_keys_present,
    device_now,
    device_traffic,
    live_channel,
    refusals_by_reason,
)
from devices.services import device_create, device_delete, device_update
from events.selectors import OPEN, AlertFilter, alert_rows
from events.selectors_pages import alert_query
from servwatch_site.errors import ServwatchError
from streams.charts import Source
from streams.selectors_console import newest_of_device
from tokens.selectors import device_token_reveal

COMMANDS_SHOWN = 20
ALERTS_SHOWN = 10
SESSIONS_SHOWN = 5
ARRIVED_WITHIN = timedelta(minutes=30)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


@require_GET
@account_page
def device(request: HttpRequest, device_id: str) -> HttpResponse:
    found = device_get_for_account(account_of(request), device_id)
    match request.GET.get("fragment"):
        case None | "":
            return device_page(request, found, command_form=CommandForm())
        case "command-list":
            return render(request, "console/devices/_commands.html", _commands(found))
        case _:
            return render(request, "console/devices/_now.html", _now(found))


def device_page(request: HttpRequest, found: Device, *, command_form: CommandForm) -> HttpResponse:
    """The whole page, with the form for commands as it is: empty, or with what does not fit."""
    context = _now(found)
    labels = context["labels"]
    span = range_of(request)
    groups = chart_groups([value.key for value in context["values"] if _is_number(value.value)], labels)
    context |= _commands(found) | {
        "range": span,
        "groups": groups,
        "first_query": first_query(groups, span),
        "command_form": command_form,
    }
    return render(request, "console/devices/device.html", context)


def _now(found: Device) -> dict[str, Any]:
    """What the live part of the page shows."""
    values = latest_of_device(found.pk)
    channel = live_channel(found)
    labels = stream_meta(channel) if channel else {}
    now = timezone.now()
    of_device = AlertFilter(state=OPEN, device_id=found.device_id)
    alerts = alert_query(found.account, of_device, sort="severity", now=now)
    return {
        "alerts": alert_lines(alert_rows(alerts[:ALERTS_SHOWN]), now=now),
        "device": found,
        "status": device_now(found, now=now),
        "values": values,
        "labels": labels,
        "tiles": tile_groups(values, labels),
        "traffic": device_traffic(found),
        "refusals": refusals_by_reason(found.account_id, device_key=found.pk),
        "records": newest_of_device(found.pk, count=10),
        "sessions": _sessions(found),
        "state": sorted((found.state or {}).items()),
        "now": now,
    }


def _commands(found: Device) -> dict[str, Any]:
    now = timezone.now()
    rows = command_list(found, limit=COMMANDS_SHOWN)
    return {
        "device": found,
        "commands": [(row, row.state_now(now=now), payload_text(bytes(row.payload))) for row in rows],
        "now": now,
    }


def _sessions(found: Device) -> list[Session]:
    """The device's live sessions, by the judgement of devices.sessions.session_list(), which lists all devices'."""
    unnamed = Q(device_id="") & (Q(client_id=found.device_id) | Q(named_device=found.device_id))
    of_account = Session.objects.filter(account=found.account_id, connected=True)
    rows = list(
        of_account.filter(Q(device_id=found.device_id) | unnamed).order_by("client_id")[:SESSIONS_SHOWN]
    )
    others = device_keys_present(found.account, {row.client_id for row in rows} - {found.device_id})
    return [row for row in rows if row.device_id or row.client_id not in others]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


@gzip_page
@require_GET
@account_page
def device_chart(request: HttpRequest, device_id: str) -> JsonResponse:
    found = device_get_for_account(account_of(request), device_id)
    return chart_json(request, Source.device(found.pk), channel=live_channel(found))


@require_http_methods(["GET", "POST"])
@account_page
def device_edit(request: HttpRequest, device_id: str) -> HttpResponse:
    account = account_of(request)
    found = device_get_for_account(account, device_id)
    form = DeviceForm(request.POST or None, instance=found, account=account)
    if request.method == "POST" and form.is_valid():
        changes = dict(form.cleaned_data)
        fresh = device_get_for_account(account, device_id)  # the form has written into `found` already
        try:
            device_update(fresh, changes=changes, now=timezone.now())
        except ServwatchError as error:
            say_error(request, error)
        else:
            messages.success(request, _("%(id)s is saved.") % {"id": device_id})
            return redirect("console:device", device_id)
    return render(request, "console/devices/form.html", {"form": form, "device": found})


@require_http_methods(["GET", "POST"])
@account_page
def device_new(request: HttpRequest) -> HttpResponse:
    account = account_of(request)
    form = NewDeviceForm(
        request.POST or None, account=account, initial={"device_id": request.GET.get("id", "")}
    )
    if request.method == "POST" and form.is_valid():
        changes = dict(form.cleaned_data)
        device_id = changes.pop("device_id")
        try:
            device_create(account, device_id, now=timezone.now(), changes=changes)
        except ServwatchError as error:
            form.add_error("device_id", error.fields.get("device_id") or error.message)
        else:
            messages.success(request, _("%(id)s is created.") % {"id": device_id})
            return redirect("console:device", device_id)
    return render(request, "console/devices/form.html", {"form": form, "device": None})


@require_POST
@account_page
def device_remove(request: HttpRequest, device_id: str) -> HttpResponse:
    found = device_get_for_account(account_of(request), device_id)
    with_records = bool(request.POST.get("with_records"))
    device_delete(found, now=timezone.now(), with_records=with_records)
    text = _("%(id)s is deleted; its records stay in their channel.")
    if with_records:
        text = _("%(id)s is deleted; its records are removed in the background.")
    messages.success(request, text % {"id": device_id})
    return redirect("console:fleet")


@never_cache
@require_GET
@account_page
def add_server(request: HttpRequest) -> HttpResponse:
    """Commands to copy, with the real address and token, and a list that shows the first message arrive."""
    account = account_of(request)
    if request.GET.get("fragment"):
        return render(request, "console/devices/_arrivals.html", _arrivals(request))
    host, port = _broker_seen_by(request)
    context = {
        "host": host,
        "port": port,
        "loopback": host in LOOPBACK,
        "base_url": f"{request.scheme}://{request.get_host()}",
        "token": device_token_reveal(account),
        **_arrivals(request),
    }
    return render(request, "console/devices/add.html", context)


def _broker_seen_by(request: HttpRequest) -> tuple[str, int]:
    """Where a device reaches the broker: as it is named, or the host of this page when it listens everywhere."""
    named = urlsplit(settings.MQTT_URL)
    host = named.hostname or settings.MQTT_HOST
    everywhere = not settings.BROKER_IS_NAMED and settings.MQTT_HOST in EVERYWHERE
    if everywhere:
        host = request.get_host().rpartition(":")[0] or request.get_host()
    return host, named.port or 1883


def _arrivals(request: HttpRequest) -> dict[str, Any]:
    now = timezone.now()
    made = {"account": account_of(request), "deleted_at": None, "created_at__gte": now - ARRIVED_WITHIN}
    recent = Device.objects.filter(**made).order_by("-created_at")[:5]
    return {"arrivals": [device_now(found, now=now) for found in recent], "now": now}
