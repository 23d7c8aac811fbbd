"""Events: the rules, the form of one with its back-test, and the ready-made ones."""

from itertools import groupby
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from channels.models import Channel
from channels.selectors import channel_get_for_account, channel_list, stream_meta, tag_updates
from console.access import account_of, account_page, query_text, say_error
from console.backtests import preview_of
from console.rule_form import RuleForm, rule_initial
from console.rule_words import rule_words
from devices.models import Device
from events.models import Rule
from events.selectors import rule_get_for_account, rule_is_enabled, rule_list
from events.selectors_pages import alerts_open_by_rule
from events.services import rule_create, rule_delete, rule_draft, rule_update
from events.stock import offers, stock_disable, stock_enable
from servwatch_site.errors import ServwatchError
from tokens.models import Account

SUGGESTIONS = 500
BACKTEST, BACKTEST_IN_FULL = "backtest", "backtest-in-full"


@require_GET
@account_page
def events(request: HttpRequest) -> HttpResponse:
    account = account_of(request)
    rules, counts = rule_list(account), alerts_open_by_rule(account)
    stock = groupby(offers(account), key=lambda offer: offer.channel)
    context = {
        "rules": [(rule, rule_words(rule), rule_is_enabled(rule), counts.get(rule.pk)) for rule in rules],
        "stock": [(channel, list(of_channel)) for channel, of_channel in stock],
        "now": timezone.now(),
    }
    return render(request, "console/events/events.html", context)


@require_http_methods(["GET", "POST"])
@account_page
def event_new(request: HttpRequest) -> HttpResponse:
    """A new rule; the address may name channel, stream and device to begin with."""
    account = account_of(request)
    channels = channel_list(account)
    wanted = query_text(request, "channel")
    begin = next((one for one in channels if str(one.number) == wanted), channels[0] if channels else None)
    initial = {
        "channel": begin.pk if begin else None,
        "source": query_text(request, "source"),
        "device": query_text(request, "device"),
        "operator": Rule.Operator.MORE,
    }
    form = RuleForm(request.POST or None, account=account, initial=initial)
    return _form_page(request, form, rule=None)


@require_http_methods(["GET", "POST"])
@account_page
def event(request: HttpRequest, pk: int) -> HttpResponse:
    account = account_of(request)
    rule = rule_get_for_account(account, pk)
    form = RuleForm(request.POST or None, account=account, initial=rule_initial(rule))
    return _form_page(request, form, rule=rule)


def _form_page(request: HttpRequest, form: RuleForm, *, rule: Rule | None) -> HttpResponse:
    """Save it, or try it on past data: the page with the result, or that part of it alone for the script."""
    context: dict[str, Any] = {"form": form, "rule": rule, "now": timezone.now()}
    action = request.POST.get("action")
    wants_backtest = action in (BACKTEST, BACKTEST_IN_FULL)
    if request.method == "POST" and form.is_valid():
        try:
            if wants_backtest:
                draft = rule_draft(form.account, changes=form.changes())
                in_full = context["in_full"] = action == BACKTEST_IN_FULL
                context["preview"] = preview_of(form.account, draft, now=timezone.now(), in_full=in_full)
            else:
                return redirect("console:event", _saved(request, form, rule).pk)
        except ServwatchError as error:
            form.take_error(error)
    if wants_backtest and request.headers.get("X-Requested-With") == "fetch":
        return render(request, "console/events/_backtest.html", context)
    if rule is not None:
        context["open_now"] = alerts_open_by_rule(form.account).get(rule.pk)
    context |= _suggestions(form.account, _channel_chosen(form))
    return render(request, "console/events/form.html", context)


def _saved(request: HttpRequest, form: RuleForm, rule: Rule | None) -> Rule:
    if rule is None:
        made = rule_create(form.account, changes=form.changes())
        messages.success(request, _("The event is created."))
        return made
    fresh = rule_get_for_account(form.account, rule.pk)
    rule_update(fresh, changes=form.changes(), now=timezone.now())
    messages.success(request, _("The event is saved."))
    return fresh


def _channel_chosen(form: RuleForm) -> Channel | None:
    text = str(form["channel"].value() or "")
    return next((one for one in channel_list(form.account) if str(one.pk) == text), None)


@require_GET
@account_page
def event_keys(request: HttpRequest) -> HttpResponse:
    """What can be typed for a channel: its streams, devices and tags."""
    account, wanted = account_of(request), query_text(request, "channel")
    channel = next((one for one in channel_list(account) if str(one.pk) == wanted), None)
    return render(request, "console/events/_suggestions.html", _suggestions(account, channel))


def _suggestions(account: Account, channel: Channel | None) -> dict[str, Any]:
    if channel is None:
        return {"keys_known": [], "devices_known": [], "tags_known": []}
    devices = Device.objects.filter(account=account, channel=channel, deleted_at=None)
    return {
        "keys_known": list(stream_meta(channel).values())[:SUGGESTIONS],
        "devices_known": devices.order_by("device_id").values_list("device_id", flat=True)[:SUGGESTIONS],
        "tags_known": sorted(tag_updates(channel))[:SUGGESTIONS],
    }


@require_POST
@account_page
def event_switch(request: HttpRequest, pk: int) -> HttpResponse:
    """On or off."""
    rule = rule_get_for_account(account_of(request), pk)
    try:
        rule_update(rule, changes={"enabled": request.POST.get("enabled") == "1"}, now=timezone.now())
    except ServwatchError as error:
        say_error(request, error)
    else:
        name = rule.description or rule_words(rule)
        text = _("“%(name)s” is on.") if rule.enabled else _("“%(name)s” is off; its open alerts have ended.")
        messages.success(request, text % {"name": name})
    return redirect("console:events")


@require_POST
@account_page
def event_remove(request: HttpRequest, pk: int) -> HttpResponse:
    rule = rule_get_for_account(account_of(request), pk)
    rule_delete(rule, now=timezone.now())
    messages.success(request, _("The event is deleted; its alerts stay to be read."))
    return redirect("console:events")


@require_POST
@account_page
def stock_switch(request: HttpRequest) -> HttpResponse:
    """A ready-made event of one channel on or off."""
    account = account_of(request)
    number, key = request.POST.get("channel", ""), request.POST.get("key", "")
    if not number.isdecimal() or len(number) > 9:
        raise Http404
    channel = channel_get_for_account(account, int(number))
    if request.POST.get("enabled") == "1":
        stock_enable(account, channel, key)
        messages.success(request, _("The event is on."))
    else:
        stock_disable(account, channel, key, now=timezone.now())
        messages.success(request, _("The event is off."))
    return redirect(f"{request.path.removesuffix('stock/')}#stock-{channel.number}")
