"""Maintenance windows: times in which nobody is told of alerts."""

from datetime import datetime, tzinfo
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from channels.selectors import channel_get_for_account
from console.access import account_of, account_page, person_of, say_error
from console.maintenance_form import WEEKDAYS, MaintenanceForm, ends_custom, maintenance_initial
from console.snoozes import LENGTHS
from devices.selectors import device_get_for_account
from events.maintenance import maintenance_create, maintenance_delete, maintenance_update
from events.models import Maintenance
from events.selectors import maintenance_get_for_account, maintenance_list
from events.windows import next_span
from servwatch_site.errors import ServwatchError


@require_http_methods(["GET", "POST"])
@account_page
def maintenance(request: HttpRequest) -> HttpResponse:
    account, now = account_of(request), timezone.now()
    form = MaintenanceForm(request.POST or None, account=account)
    if request.method == "POST" and form.is_valid():
        try:
            maintenance_create(account, changes=form.cleaned_data, by=person_of(request), now=now)
        except ServwatchError as error:
            form.take_error(error)
        else:
            messages.success(request, _("The maintenance is created."))
            return redirect("console:maintenance")
    rows = [_row(row, zone=account.zone, now=now) for row in maintenance_list(account)]
    return render(request, "console/maintenance/maintenance.html", {"rows": rows, "form": form, "now": now})


@require_http_methods(["GET", "POST"])
@account_page
def maintenance_edit(request: HttpRequest, pk: int) -> HttpResponse:
    account, now = account_of(request), timezone.now()
    window = maintenance_get_for_account(account, pk)
    initial = maintenance_initial(window, zone=account.zone)
    form = MaintenanceForm(request.POST or None, account=account, initial=initial)
    if request.method == "POST" and form.is_valid():
        fresh = maintenance_get_for_account(account, pk)  # the title stays what is stored
        try:
            maintenance_update(fresh, changes=form.changes(), now=now)
        except ServwatchError as error:
            form.take_error(error)
        else:
            messages.success(request, _("The maintenance is saved."))
            return redirect("console:maintenance")
    context = {"window": window, "form": form, "now": now}
    return render(request, "console/maintenance/edit.html", context)


def _row(
    row: Maintenance, *, zone: tzinfo, now: datetime
) -> tuple[Maintenance, str, datetime | None, list[Any]]:
    """With what it is at the moment: now until a time, next from a time on, or over; and its days in words."""
    days = [label for day, label in WEEKDAYS if day in row.weekdays]
    span = next_span(row, now, zone)
    if span is None:
        return row, "over", None, days
    return (row, "now", span.ends, days) if span.begins <= now else (row, "next", span.begins, days)


@require_http_methods(["GET", "POST"])
@account_page
def maintenance_quick(request: HttpRequest) -> HttpResponse:
    """For one device or channel from now on, from a button on its page."""
    if request.method == "GET":
        return redirect("console:maintenance")
    account, now = account_of(request), timezone.now()
    length = request.POST.get("length", "")
    if length in LENGTHS:
        ends_at: datetime | None = now + LENGTHS[length]
    else:
        ends_at = ends_custom(request.POST.get("until", ""), account=account)
    if ends_at is None or ends_at <= now:
        messages.error(request, _("Write when it ends, in the future, like 2026-11-23 18:00."))
        return redirect(_back(request))
    changes: dict[str, Any] = {"starts_at": now, "ends_at": ends_at}
    device_id, number = request.POST.get("device", "").replace("\0", ""), request.POST.get("channel", "")
    if device_id:
        changes["device"] = device_get_for_account(account, device_id)
    elif number.isascii() and number.isdecimal() and len(number) <= 9:
        changes["channel"] = channel_get_for_account(account, int(number))
    else:
        raise Http404
    try:
        maintenance_create(account, changes=changes, by=person_of(request), now=now)
    except ServwatchError as error:
        say_error(request, error)
    else:
        until = f"{timezone.localtime(ends_at):%Y-%m-%d %H:%M}"
        messages.success(request, _("Maintenance until %(until)s: nobody is told.") % {"until": until})
    return redirect(_back(request))


def _back(request: HttpRequest) -> str:
    """The page with the button, else the list."""
    address = request.headers.get("Referer", "")
    if url_has_allowed_host_and_scheme(address, {request.get_host()}, require_https=request.is_secure()):
        return address
    return reverse("console:maintenance")


@require_POST
@account_page
def maintenance_close(request: HttpRequest, pk: int) -> HttpResponse:
    """End it now."""
    found, now = maintenance_get_for_account(account_of(request), pk), timezone.now()
    try:
        maintenance_update(found, changes={"ends_at": now}, now=now)
    except ServwatchError as error:
        say_error(request, error)
    else:
        messages.success(request, _("The maintenance is over."))
    return redirect("console:maintenance")


@require_POST
@account_page
def maintenance_remove(request: HttpRequest, pk: int) -> HttpResponse:
    maintenance_delete(maintenance_get_for_account(account_of(request), pk), now=timezone.now())
    messages.success(request, _("The maintenance is deleted."))
    return redirect("console:maintenance")
