"""Alerts: the list with what can be done at once, and the page of one, where links in mails lead."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_GET, require_http_methods

from console.access import account_of, account_page, person_of, query_text
from console.alert_history import alert_history
from console.alert_lines import AlertLine, alert_lines
from console.charting import ChartGroup, Line, chart_json, range_of
from console.ranges import Range, range_parse
from console.snoozes import SNOOZES, snooze_end
from events.models import Alert, Severity
from events.selectors import OPEN, AlertFilter, AlertRow, alert_get_for_account, alert_rows
from events.selectors_pages import alert_query, alerts_of_account, notifications_of_alert
from events.services import alert_comment, alerts_acknowledge, alerts_snooze, alerts_unacknowledge
from streams.charts import Source

PAGE_ROWS = 50
SORTS = ("severity", "age", "-age", "device")
STATES = (OPEN, *Alert.State.values, "all")
AGES = {
    "1h": (timedelta(hours=1), gettext_lazy("last hour")),
    "24h": (timedelta(days=1), gettext_lazy("last 24 hours")),
    "7d": (timedelta(days=7), gettext_lazy("last 7 days")),
}
AROUND = timedelta(minutes=30)  # at least so much is shown before and after an alert


@dataclass(frozen=True)
class Asked:
    """What the address of the list asks for; nonsense counts as nothing."""

    state: str
    severity: str
    age: str
    device: str
    channel: int | None
    rule: int | None
    sort: str

    @classmethod
    def of(cls, request: HttpRequest) -> "Asked":
        return cls(
            _one_of(query_text(request, "state"), STATES, OPEN),
            _one_of(query_text(request, "severity"), Severity.values, ""),
            _one_of(query_text(request, "age"), tuple(AGES), ""),
            query_text(request, "device"),
            _number(query_text(request, "channel"), digits=9),
            _number(query_text(request, "event"), digits=18),
            _one_of(query_text(request, "sort"), SORTS, "severity"),
        )

    def narrow(self, *, now: datetime) -> AlertFilter:
        return AlertFilter(
            state="" if self.state == "all" else self.state,
            severity=self.severity,
            device_id=self.device,
            channel=self.channel,
            event_id=self.rule,
            since=now - AGES[self.age][0] if self.age else None,
        )

    def query(self, **changes: str) -> str:
        """The address's query with something of it changed."""
        given = {
            "state": self.state if self.state != OPEN else "",
            "severity": self.severity,
            "age": self.age,
            "device": self.device,
            "channel": "" if self.channel is None else str(self.channel),
            "event": "" if self.rule is None else str(self.rule),
            "sort": self.sort if self.sort != "severity" else "",
        } | changes
        return urlencode({name: value for name, value in given.items() if value})


def _one_of(text: str, choices: Any, default: str) -> str:
    return text if text in choices else default


def _number(text: str, *, digits: int) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= digits else None


@require_GET
@account_page
def alerts(request: HttpRequest) -> HttpResponse:
    match request.GET.get("fragment"):
        case "open-alerts":
            return render(request, "console/alerts/_count.html")
        case None | "":
            page = "alerts.html"
        case _:
            page = "_live.html"
    account, now, asked = account_of(request), timezone.now(), Asked.of(request)
    query = alert_query(account, asked.narrow(now=now), sort=asked.sort, now=now)
    shown = Paginator(query, PAGE_ROWS).get_page(request.GET.get("page"))
    context = {
        "lines": alert_lines(alert_rows(shown.object_list), now=now),
        "page": shown,
        "asked": asked,
        "query": asked.query(),
        "states": [(name, asked.query(state=name)) for name in STATES],
        "severities": [(name, label, asked.query(severity=name)) for name, label in Severity.choices],
        "ages": [(name, label, asked.query(age=name)) for name, (_length, label) in AGES.items()],
        "by_severity": asked.query(sort=""),
        "by_device": asked.query(sort="device"),
        "by_age": asked.query(sort="-age" if asked.sort == "age" else "age"),
        "without": {
            name: asked.query(**{name: ""}) for name in ("severity", "age", "device", "channel", "event")
        },
        "snoozes": SNOOZES,
        "now": now,
    }
    return render(request, f"console/alerts/{page}", context)


@require_http_methods(["GET", "POST"])
@account_page
def alerts_decide(request: HttpRequest) -> HttpResponse:
    """Acknowledge or snooze: one line by its own button, `one=VERB:ID`, or all that were ticked, `action=VERB`.

    Leads back to the list as it was. So does a GET, which comes here when somebody had to sign in first.
    """
    back = f"{request.path.removesuffix('decide/')}?{request.GET.urlencode()}"
    if request.method == "GET":
        return redirect(back)
    one = request.POST.get("one", "")
    if one:
        verb, _colon, text = one.partition(":")
        texts = [text]
    else:
        verb, texts = request.POST.get("action", ""), request.POST.getlist("alert")
        if verb == "snooze":
            verb = f"snooze-{request.POST.get('snooze', '')}"
    keys = [key for text in texts[:PAGE_ROWS] if (key := _number(text, digits=18)) is not None]
    found = alerts_of_account(account_of(request), keys)
    if not found:
        messages.error(request, _("Tick at least one alert, then choose what to do."))
        return redirect(back)
    done = _do(request, verb, found)
    if done is None:
        messages.error(request, _("Choose what to do with the alerts."))
    elif done:
        messages.success(request, _said(verb, done))
    if done is not None and done < len(found):
        missed = len(found) - done
        text = ngettext(
            "%(n)d alert was resolved meanwhile.", "%(n)d alerts were resolved meanwhile.", missed
        )
        messages.info(request, text % {"n": missed})
    return redirect(back)


def _do(request: HttpRequest, verb: str, found: Sequence[Alert]) -> int | None:
    """What a verb of the forms says, to those of these alerts that are open; how many, None for no such verb."""
    account, now, keys = account_of(request), timezone.now(), [alert.pk for alert in found]
    match verb.partition("-"):
        case ("acknowledge", _, _):
            return alerts_acknowledge(account, keys, by=person_of(request), now=now)
        case ("unacknowledge", _, _):
            return alerts_unacknowledge(account, keys)
        case ("wake", _, _):
            return alerts_snooze(account, keys, until=None, by="", now=now)
        case ("snooze", _, choice):
            until = snooze_end(choice, now=now, zone=account.zone)
            if until is not None:
                return alerts_snooze(account, keys, until=until, by=person_of(request), now=now)
    return None


def _said(verb: str, count: int) -> str:
    if verb == "acknowledge":
        text = ngettext("%(n)d alert is acknowledged.", "%(n)d alerts are acknowledged.", count)
    elif verb == "unacknowledge":
        text = ngettext(
            "%(n)d acknowledgement is taken back.", "%(n)d acknowledgements are taken back.", count
        )
    elif verb == "wake":
        text = ngettext("%(n)d snooze is ended.", "%(n)d snoozes are ended.", count)
    else:
        text = ngettext("%(n)d alert is snoozed.", "%(n)d alerts are snoozed.", count)
    return text % {"n": count}


@require_GET
@account_page
def alert(request: HttpRequest, pk: int) -> HttpResponse:
    """Everything about one alert."""
    now = timezone.now()
    row = alert_get_for_account(account_of(request), pk)
    (line,) = alert_lines([row], now=now)
    context = {
        "line": line,
        "alert": row.alert,
        "history": alert_history(
            row.alert,
            comments=row.alert.comments.all(),
            notifications=notifications_of_alert(row.alert),
        ),
        "lasted": ((row.alert.resolved_at or now) - row.alert.fired_at).total_seconds(),
        "snoozes": SNOOZES,
        "now": now,
    }
    if request.GET.get("fragment"):
        return render(request, "console/alerts/_alert.html", context)
    context |= {"range": _span(request, row, now=now), "groups": _groups(line)}
    return render(request, "console/alerts/alert.html", context)


def _span(request: HttpRequest, row: AlertRow, *, now: datetime) -> Range:
    """What the chart shows: the alert with some time around it, unless the address says otherwise."""
    if any(request.GET.get(name) for name in ("range", "from", "to")):
        return range_of(request)
    alert = row.alert
    end = alert.resolved_at or now
    around = max(AROUND, (end - alert.since) / 3)
    start = alert.since - around
    if alert.resolved_at is None:  # as a length up to now, so that the open page goes on
        minutes = ceil((now - start) / timedelta(minutes=1))
        length = f"{minutes}m" if minutes < 100_000 else f"{minutes // 1440 + 1}d"
        return range_parse(length=length, start="", end="", zone=account_of(request).zone, now=now)
    return Range(start, min(end + around, now), "")


def _groups(line: AlertLine) -> list[ChartGroup]:
    """The stream it is about, where that can be drawn."""
    is_drawn = line.alert.key and (line.is_silence or isinstance(line.value, (int, float)))
    return [ChartGroup(line.label, line.unit, [Line(line.alert.key, line.label)])] if is_drawn else []


@gzip_page
@require_GET
@account_page
def alert_chart(request: HttpRequest, pk: int) -> JsonResponse:
    found = alert_get_for_account(account_of(request), pk).alert
    return chart_json(request, Source.device(found.device_key), channel=found.channel)


@require_http_methods(["GET", "POST"])
@account_page
def alert_act(request: HttpRequest, pk: int) -> HttpResponse:
    """Acknowledge, take back, snooze, wake or comment. A GET, after a sign-in, leads to the alert."""
    if request.method == "GET":
        return redirect("console:alert", pk)
    found = alert_get_for_account(account_of(request), pk).alert
    verb, text = request.POST.get("action", ""), request.POST.get("comment", "").replace("\0", "").strip()
    if text:
        alert_comment(found, text=text[:2000], by=person_of(request), now=timezone.now())
    done = _do(request, verb, [found])
    if done:
        messages.success(request, _said(verb, done))
    elif done == 0:
        messages.error(request, _("This alert is resolved. Nothing is left to acknowledge or to snooze."))
    elif text:
        messages.success(request, _("The comment is added."))
    else:
        messages.error(request, _("Write a comment, or choose what to do."))
    return redirect("console:alert", pk)
