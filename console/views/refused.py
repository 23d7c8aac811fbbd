"""What was refused, and why: read, replay, delete."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from console.access import account_of, account_page, query_text
from console.payloads import payload_text
from devices.models import Device
from devices.selectors import device_get_for_account, refusals_by_reason, refused_sign_ins, unknown_devices
from streams.refused import refused_delete, refused_ids, refused_list, refused_replay
from tokens.selectors import several_accounts

PAGE_ROWS = 50


@require_GET
@account_page
def refused(request: HttpRequest) -> HttpResponse:
    account = account_of(request)
    reason, device_id = query_text(request, "reason"), query_text(request, "device")
    device: Device | None = device_get_for_account(account, device_id) if device_id else None
    before = request.GET.get("before", "")
    rows = refused_list(
        account,
        reason=reason,
        device_key=device.pk if device else None,
        before_id=int(before) if before.isdecimal() and len(before) < 19 else None,
        limit=PAGE_ROWS + 1,
    )
    context = {
        "rows": [(row, payload_text(bytes(row.payload))) for row in rows[:PAGE_ROWS]],
        "more": rows[PAGE_ROWS - 1].pk if len(rows) > PAGE_ROWS else None,
        "reason": reason,
        "device": device,
        "reasons": refusals_by_reason(account.pk),
        "unknown": unknown_devices(account),
        "sign_ins": refused_sign_ins() if may_see_sign_ins(request) else None,
        "now": timezone.now(),
    }
    return render(request, "console/refused/refused.html", context)


@require_POST
@account_page
def refused_decide(request: HttpRequest) -> HttpResponse:
    """Replay or delete the ticked ones, or replay all."""
    account = account_of(request)
    ids = [int(text) for text in request.POST.getlist("message") if text.isdecimal() and len(text) < 19]
    action = request.POST.get("action", "")
    if action == "replay-all":
        _replay(request, _shown(request))
    elif not ids:
        messages.error(request, _("Tick at least one message, then choose what to do."))
    elif action == "delete":
        count = refused_delete(account, ids=ids)
        messages.success(request, _("%(count)d messages are deleted; they stay counted.") % {"count": count})
    else:
        _replay(request, ids)
    return redirect("console:refused")


def may_see_sign_ins(request: HttpRequest) -> bool:
    """The broker cannot say whose connection it refused: among several accounts only staff may see the addresses."""
    return bool(getattr(request.user, "is_staff", False)) or not several_accounts()


def _shown(request: HttpRequest) -> list[int]:
    """All that the page's filters let through, on this page of the list and on the others."""
    device_id = request.POST.get("device", "")
    device = device_get_for_account(account_of(request), device_id) if device_id else None
    reason = request.POST.get("reason", "").replace("\0", "")
    return refused_ids(account_of(request), reason=reason, device_key=device.pk if device else None)


def _replay(request: HttpRequest, ids: list[int]) -> None:
    done = refused_replay(account_of(request), ids=ids, now=timezone.now())
    text = _("%(stored)d are stored now, %(duplicate)d were there already, %(still)d are refused as before.")
    messages.info(
        request,
        text % {"stored": done.stored, "duplicate": done.duplicate, "still": done.still_refused},
    )
