"""Notifiers: whom alerts are told to, how each is doing, and what webhooks are signed with."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from console.access import account_of, account_page, say_error
from console.notifier_form import NotifierForm
from events.models import Notifier
from events.notifiers import KINDS, kind_of
from events.notifiers_store import notifier_create, notifier_delete, notifier_test, notifier_update
from events.selectors_deliveries import notifier_get_for_account, notifier_shown
from events.selectors_pages import notifier_implicit_list, notifiers_used
from events.signing import signing_secret_now, signing_secret_rotate
from servwatch_site.errors import ServwatchError


@require_GET
@account_page
def notifiers(request: HttpRequest) -> HttpResponse:
    account = account_of(request)
    context = {
        "rows": [(row, _address(row)) for row in notifiers_used(account)],
        "implicit": [(row, _address(row)) for row in notifier_implicit_list(account)],
        "kinds": _kinds(),
        "now": timezone.now(),
    }
    page = "_live.html" if request.GET.get("fragment") else "notifiers.html"
    return render(request, f"console/notifiers/{page}", context)


def _kinds() -> list[tuple[str, Any]]:
    return [(name, Notifier.Kind(name).label) for name in KINDS]


def _address(notifier: Notifier) -> str:
    """Where it leads to, as far as it may be shown: its first setting."""
    value = notifier_shown(notifier).get(next(iter(kind_of(notifier.kind).fields)), "")
    return ", ".join(value) if isinstance(value, list) else str(value)


@require_http_methods(["GET", "POST"])
@account_page
def notifier_new(request: HttpRequest, kind: str) -> HttpResponse:
    if kind not in KINDS:
        raise Http404
    form = NotifierForm(request.POST or None, kind=kind)
    if request.method == "POST" and form.is_valid():
        try:
            made = notifier_create(
                account_of(request), kind=kind, settings=form.settings(), **form.fields_changed()
            )
        except ServwatchError as error:
            form.take_error(error)
        else:
            messages.success(request, _("The notifier is created. Send a test to see whether it arrives."))
            return redirect("console:notifier", made.pk)
    return render(request, "console/notifiers/form.html", {"form": form, "label": Notifier.Kind(kind).label})


@require_http_methods(["GET", "POST"])
@account_page
def notifier(request: HttpRequest, pk: int) -> HttpResponse:
    account = account_of(request)
    found = notifier_get_for_account(account, pk)
    form = NotifierForm(request.POST or None, kind=found.kind, notifier=found)
    if request.method == "POST" and form.is_valid():
        try:
            notifier_update(
                notifier_get_for_account(account, pk),
                settings=form.settings(),
                now=timezone.now(),
                **form.fields_changed(),
            )
        except ServwatchError as error:
            form.take_error(error)
        else:
            messages.success(request, _("The notifier is saved."))
            return redirect("console:notifier", pk)
    context = {
        "form": form,
        "notifier": found,
        "label": found.get_kind_display(),
        "rules": found.rules.filter(deleted_at=None).order_by("pk"),
        "now": timezone.now(),
    }
    return render(request, "console/notifiers/form.html", context)


@require_http_methods(["GET", "POST"])
@account_page
def notifier_try(request: HttpRequest, pk: int) -> HttpResponse:
    """Send a test; how it went is on the page of its delivery."""
    if request.method == "GET":
        return redirect("console:notifier", pk)
    found = notifier_get_for_account(account_of(request), pk)
    try:
        sent = notifier_test(found, now=timezone.now())
    except ServwatchError as error:
        say_error(request, error)
        return redirect("console:notifier", pk)
    return redirect("console:delivery", sent.pk)


@require_POST
@account_page
def notifier_remove(request: HttpRequest, pk: int) -> HttpResponse:
    found = notifier_get_for_account(account_of(request), pk)
    notifier_delete(found, now=timezone.now())
    messages.success(request, _("The notifier %(name)s is deleted.") % {"name": found})
    return redirect("console:notifiers")


@never_cache
@require_http_methods(["GET", "POST"])
@account_page
def signing_secret(request: HttpRequest) -> HttpResponse:
    """Show what webhooks are signed with, or replace it. Shown on demand only, never cached."""
    account, now = account_of(request), timezone.now()
    context: dict[str, Any] = {"now": now}
    if request.method == "POST":
        if request.POST.get("action") == "rotate":
            context["secret"] = signing_secret_rotate(account, now=now)
            context["is_new"] = True
        else:
            context["secret"] = signing_secret_now(account, now=now)
    return render(request, "console/notifiers/signing_secret.html", context)
