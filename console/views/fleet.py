"""Home: all devices with what they say now, and the new ones that need somebody."""

from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_POST

from channels.selectors import channel_list, latest_of_devices
from console.access import account_of, account_page, query_text
from console.forms import InboxForm
from console.gauges import GAUGES, gauge_of
from devices.models import Device
from devices.selectors import (
    DeviceFilter,
    device_query,
    device_rows_now,
    devices_deleted,
    inbox,
    unknown_devices,
)
from devices.services import device_refuse, device_update
from events.selectors_pages import alerts_open_by_device
from streams.charts import sparklines

PAGE_ROWS = 50
DELETED_SHOWN = 20
DELETED_WITHIN = timedelta(days=30)
SORTS = {
    "id": (F("device_id").asc(),),
    "-id": (F("device_id").desc(),),
    "seen": (F("last_seen").desc(nulls_last=True), F("device_id").asc()),
    "-seen": (F("last_seen").asc(nulls_first=True), F("device_id").asc()),
}
STATUSES = {
    "online": DeviceFilter(enabled=True, mapped=True, online=True),
    "silent": DeviceFilter(enabled=True, mapped=True, online=False),
    "unmapped": DeviceFilter(enabled=True, mapped=False),
    "disabled": DeviceFilter(enabled=False, pending=False),
    "pending": DeviceFilter(pending=True),
}


@require_GET
@account_page
def fleet(request: HttpRequest) -> HttpResponse:
    account = account_of(request)
    now = timezone.now()
    search, status, sort = (query_text(request, name) for name in ("q", "status", "sort"))
    sort = sort if sort in SORTS else "id"
    page = Paginator(_query(request, search, status, sort), PAGE_ROWS).get_page(request.GET.get("page"))
    rows = device_rows_now(list(page.object_list), now=now)
    keys = [row.device.pk for row in rows]
    latest, alerts = latest_of_devices(keys), alerts_open_by_device(keys)
    named = [(str(gauge.name), gauge) for gauge in GAUGES]
    fleet_rows = [
        (
            row,
            [(name, gauge_of(gauge, latest[row.device.pk])) for name, gauge in named],
            alerts.get(row.device.pk),
        )
        for row in rows
    ]
    context = {
        "rows": fleet_rows,
        "page": page,
        "gauges": GAUGES,
        "search": search,
        "status": status,
        "sort": sort,
        "statuses": STATUSES,
        "query": urlencode({"q": search, "status": status}),
        "now": now,
    }
    context |= {
        "inbox": inbox(account),
        "unknown": unknown_devices(account),
        "channels": channel_list(account),
    }
    if request.GET.get("fragment"):
        return render(request, "console/fleet/_live.html", context)
    gone = [found for found in devices_deleted(account) if _lately(found.deleted_at, now=now)]
    return render(request, "console/fleet/fleet.html", context | {"deleted": gone[:DELETED_SHOWN]})


def _lately(at: datetime | None, *, now: datetime) -> bool:
    return at is not None and at >= now - DELETED_WITHIN


def _query(request: HttpRequest, search: str, status: str, sort: str) -> QuerySet[Device]:
    narrow = STATUSES.get(status, DeviceFilter())
    narrow = DeviceFilter(**{**narrow.__dict__, "q": search})
    return device_query(account_of(request), narrow=narrow, now=timezone.now()).order_by(*SORTS[sort])


@require_GET
@account_page
def fleet_sparklines(request: HttpRequest) -> JsonResponse:
    """The last hour of the gauges of these devices, for drawing after the page is there."""
    now = timezone.now()
    ids = [device_id for device_id in request.GET.getlist("id")[:PAGE_ROWS] if device_id.isprintable()]
    devices = Device.objects.filter(account=account_of(request), deleted_at=None, device_id__in=ids)
    keys = {device.pk: device.device_id for device in devices}
    paths = [path for gauge in GAUGES for path in gauge.paths]
    lines = sparklines(list(keys), paths, start=now - timedelta(hours=1), end=now) if keys else {}
    drawn = {keys[key]: [_line(gauge.paths, lines[key]) for gauge in GAUGES] for key in keys}
    return JsonResponse(drawn)


def _line(paths: tuple[str, ...], lines: dict[str, list[float | None]]) -> list[float | None]:
    """The first of a gauge's paths that has any value."""
    return next((lines[path] for path in paths if any(value is not None for value in lines[path])), [])


@require_POST
@account_page
def inbox_decide(request: HttpRequest) -> HttpResponse:
    """Enable and map, or refuse, the new devices that were ticked."""
    account = account_of(request)
    waiting = {device.device_id: device for device in inbox(account)}
    form = InboxForm(request.POST, account=account, device_ids=list(waiting))
    if not form.is_valid():
        messages.error(request, _("Tick at least one new device, then choose what to do."))
        return redirect("console:fleet")
    chosen = [waiting[device_id] for device_id in form.cleaned_data["device"]]
    now = timezone.now()
    if request.POST.get("action") == "refuse":
        for device in chosen:
            device_refuse(device)
        text = ngettext("%(n)d device is refused.", "%(n)d devices are refused.", len(chosen))
    else:
        changes = {"enabled": True, "channel": form.cleaned_data["channel"]}
        for device in chosen:
            device_update(device, changes=changes, now=now)
        text = ngettext("%(n)d device is enabled.", "%(n)d devices are enabled.", len(chosen))
    messages.success(request, text % {"n": len(chosen)})
    return redirect("console:fleet")
