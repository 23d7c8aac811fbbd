"""Reads of alerts and rules that only pages ask for: lists in an order of choice, counts, marks for charts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import (
    Case,
    Count,
    Exists,
    F,
    IntegerField,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)

from channels.models import Channel
from devices.models import Device
from events.conditions import number_of_text
from events.models import (
    Alert,
    Attempt,
    Delivery,
    DeliveryItem,
    Notification,
    Notifier,
    Rule,
    Severity,
)
from events.selectors import AlertFilter, alerts_narrowed
from events.sources import SourceIndex, source_levels
from tokens.models import Account

WORST_FIRST = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)
MOST_PERIODS = 500  # in one chart; more would be a wall


@dataclass(frozen=True)
class OpenNow:
    """How many alerts are open, and how bad the worst of them is; "" when there is none."""

    count: int = 0
    worst: str = ""

    def with_more(self, severity: str, count: int) -> "OpenNow":
        worse = [name.value for name in WORST_FIRST if name.value in (self.worst, severity)]
        return OpenNow(self.count + count, worse[0])


@dataclass(frozen=True)
class Threshold:
    """A level that a rule holds a key path against; `clear` is where it recovers."""

    key: str
    value: float
    clear: float | None
    operator: str
    severity: str


@dataclass(frozen=True)
class Period:
    """An alert of a key path, from when it fired until it ended; `until` None: it is open."""

    alert_key: int
    key: str
    at: datetime
    until: datetime | None
    severity: str


@dataclass(frozen=True)
class Marks:
    """What rules and alerts draw into charts."""

    thresholds: Sequence[Threshold] = ()
    periods: Sequence[Period] = ()


def alert_query(account: Account, narrow: AlertFilter, *, sort: str, now: datetime) -> QuerySet[Alert]:
    """The alerts of a list, the open ones first; within these by `sort`: severity, age, -age or device."""
    rank = Case(
        *(When(severity=severity, then=Value(place)) for place, severity in enumerate(WORST_FIRST)),
        output_field=IntegerField(),
    )
    ended = Case(When(resolved_at=None, then=Value(0)), default=Value(1), output_field=IntegerField())
    rows = alerts_narrowed(account, narrow, now=now).annotate(ended=ended)
    if sort == "device":
        named = Device.objects.filter(pk=OuterRef("device_key")).values("device_id")
        rows = rows.annotate(device_name=Subquery(named))
        return rows.order_by("ended", F("device_name").asc(nulls_last=True), rank, "-pk")
    if sort == "age":
        return rows.order_by("ended", "-fired_at", "-pk")
    if sort == "-age":
        return rows.order_by("ended", "fired_at", "pk")
    return rows.order_by("ended", rank, "-pk")


def alerts_of_account(account: Account, keys: Iterable[int]) -> list[Alert]:
    """Those of these alerts that are the account's."""
    return list(Alert.objects.filter(account=account, pk__in=list(keys)).order_by("pk"))


def alerts_open_now(account: Account) -> OpenNow:
    return _counted(Alert.objects.filter(account=account, resolved_at=None), "account").get(
        account.pk, OpenNow()
    )


def alerts_open_by_device(device_keys: Sequence[int]) -> dict[int, OpenNow]:
    """Device key -> its open alerts, of those that have any."""
    return _counted(Alert.objects.filter(device_key__in=device_keys, resolved_at=None), "device_key")


def alerts_open_by_rule(account: Account) -> dict[int, OpenNow]:
    """Rule key -> its open alerts, of those that have any."""
    return _counted(Alert.objects.filter(account=account, resolved_at=None), "rule")


def _counted(alerts: QuerySet[Alert], column: str) -> dict[int, OpenNow]:
    found: dict[int, OpenNow] = {}
    for key, severity, count in alerts.values_list(column, "severity").annotate(count=Count("pk")).order_by():
        found[key] = found.get(key, OpenNow()).with_more(severity, count)
    return found


def notifications_of_alert(alert: Alert) -> list[Notification]:
    """All that was to be told of it, in order, with deliveries, their notifiers and attempts."""
    attempts = Prefetch("delivery__attempts", Attempt.objects.order_by("pk"))
    items = (
        DeliveryItem.objects.select_related("delivery__notifier").prefetch_related(attempts).order_by("pk")
    )
    rows = Notification.objects.filter(alert=alert).prefetch_related(Prefetch("items", items))
    return list(rows.order_by("pk"))


def delivery_query(
    account: Account, *, status: str = "", notifier: Notifier | None = None, alert_key: int | None = None
) -> QuerySet[Delivery]:
    """The delivery log, the newest first, with what a line of it shows."""
    items = DeliveryItem.objects.select_related("notification", "alert__rule", "alert__channel").order_by(
        "pk"
    )
    rows = Delivery.objects.filter(account=account).select_related("notifier", "rule")
    rows = rows.prefetch_related(
        Prefetch("items", items), Prefetch("attempts", Attempt.objects.order_by("pk"))
    )
    if status:
        rows = rows.filter(status=status)
    if notifier is not None:
        rows = rows.filter(notifier=notifier)
    if alert_key is not None:
        rows = rows.filter(items__alert=alert_key).distinct()
    return rows.order_by("-pk")


def chart_marks(
    account: Account,
    *,
    channel: Channel | None,
    device_key: int | None,
    keys: Sequence[str],
    start: datetime,
    end: datetime,
) -> Marks:
    """What is to be drawn into charts of these key paths, of a device or, without one, of a whole channel."""
    return Marks(
        thresholds_of(_rules_of(account, channel, device_key), keys) if channel else (),
        _periods(account, channel, device_key, keys, start=start, end=end),
    )


def thresholds_of(rules: Iterable[Rule], keys: Sequence[str]) -> list[Threshold]:
    """The numeric levels that these rules hold these key paths against."""
    index = SourceIndex([(source_levels(rule.source), rule) for rule in rules if rule.source])
    return [
        Threshold(key, value, number_or_none(rule.clear_threshold), rule.operator, rule.severity)
        for key in keys
        for rule in index.at(key)
        if rule.operator and (value := number_or_none(rule.threshold)) is not None
    ]


def number_or_none(text: str | None) -> float | None:
    """The number that a threshold is, for drawing."""
    number = number_of_text(text) if text else None
    return None if number is None else float(number)


def _rules_of(account: Account, channel: Channel, device_key: int | None) -> QuerySet[Rule]:
    rules = Rule.objects.filter(account=account, channel=channel, enabled=True, deleted_at=None)
    return rules if device_key is None else rules.filter(Q(device=None) | Q(device=device_key))


def _periods(
    account: Account,
    channel: Channel | None,
    device_key: int | None,
    keys: Sequence[str],
    *,
    start: datetime,
    end: datetime,
) -> list[Period]:
    alerts = Alert.objects.filter(account=account, key__in=keys, fired_at__lt=end)
    alerts = alerts.filter(Q(resolved_at=None) | Q(resolved_at__gte=start))
    alerts = (
        alerts.filter(device_key=device_key) if device_key is not None else alerts.filter(channel=channel)
    )
    columns = ("pk", "key", "fired_at", "resolved_at", "severity")
    return [Period(*row) for row in alerts.order_by("-pk").values_list(*columns)[:MOST_PERIODS]]


def notifiers_used(account: Account) -> list[Notifier]:
    """Those that people made, by name, with the number of rules that name each as `rule_count`."""
    rules = Count("rules", filter=Q(rules__deleted_at=None), distinct=True)
    rows = Notifier.objects.filter(account=account, implicit=False, deleted_at=None)
    return list(rows.annotate(rule_count=rules).order_by("name", "pk"))


def notifier_implicit_list(account: Account) -> list[Notifier]:
    """Those made for addresses of the account and of single events, where they have anything to tell."""
    return list(Notifier.objects.filter(account=account, implicit=True, deleted_at=None).order_by("pk"))


def notifiers_with_deliveries(account: Account) -> list[Notifier]:
    """Whom the delivery log is about, those that are deleted or implicit among them."""
    sent = Delivery.objects.filter(notifier=OuterRef("pk"))
    return list(Notifier.objects.filter(Exists(sent), account=account).order_by("name", "pk"))
