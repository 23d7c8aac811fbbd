"""The account, its device token and its API tokens."""

from datetime import timedelta

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from console.access import account_of, account_page, say_error
from console.forms import AccountForm, ApiTokenForm, DeviceTokenForm, RotationForm
from servwatch_site.errors import ServwatchError
from tokens.models import Account, ApiToken
from tokens.selectors import account_traffic, api_token_get_for_account, api_token_list, device_token_now
from tokens.services import (
    account_update,
    api_token_issue,
    api_token_revoke,
    api_token_rotate,
    device_token_issue,
)


@never_cache
@require_http_methods(["GET", "POST"])
@account_page
def account(request: HttpRequest) -> HttpResponse:
    mine = account_of(request)
    form = AccountForm(request.POST or None, instance=mine)
    if request.method == "POST" and form.is_valid():
        try:
            account_update(Account.objects.get(pk=mine.pk), **form.cleaned_data)
        except ServwatchError as error:
            say_error(request, error)
        else:
            messages.success(request, _("The account is saved."))
            return redirect("console:account")
    return _page(request, form=form)


@never_cache
@require_POST
@account_page
def device_token(request: HttpRequest) -> HttpResponse:
    """Show the device token, or replace it. Never in an address, never cached."""
    mine = account_of(request)
    if request.POST.get("action") == "replace":
        form = DeviceTokenForm(request.POST, auto_id="device-token-%s")
        if not form.is_valid():
            return _page(request, form=AccountForm(instance=mine), device_token_form=form)
        device_token_issue(mine, overlap_s=form.cleaned_data["overlap_s"])
        messages.success(
            request,
            _(
                "The device token is replaced. Devices that use the old one are cut off until they have the new one."
            ),
        )
    return _page(request, form=AccountForm(instance=mine), secret=device_token_now(mine).secret)


@never_cache
@require_POST
@account_page
def api_token_new(request: HttpRequest) -> HttpResponse:
    mine = account_of(request)
    form = ApiTokenForm(request.POST)
    if not form.is_valid():
        return _page(request, form=AccountForm(instance=mine), token_form=form)
    days = form.cleaned_data["expires_in_days"]
    expires_at = timezone.now() + timedelta(days=days) if days else None
    _token, secret = api_token_issue(
        mine, name=form.cleaned_data["name"], scopes=form.cleaned_data["scopes"], expires_at=expires_at
    )
    return _page(request, form=AccountForm(instance=mine), api_secret=secret)


@never_cache
@require_POST
@account_page
def api_token_renew(request: HttpRequest, pk: int) -> HttpResponse:
    """Rotate: a new token like this one, shown once; this one ends at once or a little later."""
    mine, now = account_of(request), timezone.now()
    token = api_token_get_for_account(mine, pk, now=now)
    form = RotationForm(request.POST)
    if not form.is_valid():
        messages.error(request, _("Choose when the old token ends."))
        return redirect("console:account")
    fresh, secret = api_token_rotate(token, now=now, overlap_s=form.cleaned_data["overlap_s"])
    messages.success(request, _("The API token %(name)s is rotated.") % {"name": fresh.name})
    return _page(request, form=AccountForm(instance=mine), api_secret=secret)


@require_POST
@account_page
def api_token_end(request: HttpRequest, pk: int) -> HttpResponse:
    token = ApiToken.objects.filter(account=account_of(request), pk=pk).first()
    if token is None:
        raise Http404
    api_token_revoke(token, now=timezone.now())
    messages.success(request, _("The API token %(name)s is revoked.") % {"name": token.name})
    return redirect("console:account")


def _page(
    request: HttpRequest,
    *,
    form: AccountForm,
    token_form: ApiTokenForm | None = None,
    device_token_form: DeviceTokenForm | None = None,
    secret: str = "",
    api_secret: str = "",
) -> HttpResponse:
    mine, now = Account.objects.get(pk=account_of(request).pk), timezone.now()
    context = {
        "form": form,
        "token_form": token_form or ApiTokenForm(),
        "tokens": [
            (token, RotationForm(auto_id=f"rotate-{token.pk}-%s")) for token in api_token_list(mine, now=now)
        ],
        "device_token_form": device_token_form or DeviceTokenForm(auto_id="device-token-%s"),
        "previous_until": device_token_now(mine).previous_until,
        "secret": secret,
        "api_secret": api_secret,
        "traffic": account_traffic(mine.pk),
        "mine": mine,
        "now": now,
    }
    return render(request, "console/account/account.html", context)
