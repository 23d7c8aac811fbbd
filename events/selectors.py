"""Reads of rules and alerts for pages and API."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Prefetch, Q, QuerySet
from django.utils.translation import gettext as _

from devices.models import Device
from events.models import Alert, Comment, Maintenance, Rule
from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account

OPEN = "open"  # beside the states: everything that is not resolved


@dataclass(frozen=True)
class AlertFilter:
    """What an alert list shows. `state`: one of Alert.State, or OPEN; `since`: those that fired then or later."""

    state: str = ""
    severity: str = ""
    device_id: str = ""
    channel: int | None = None
    event_id: int | None = None
    since: datetime | None = None


@dataclass(frozen=True)
class AlertRow:
    """An alert with the id of its device, None where it has none."""

    alert: Alert
    device_id: str | None


def rule_get_for_account(account: Account, rule_key: int) -> Rule:
    """The account's rule. Raises NO_EVENT, also for a stranger's."""
    rule = _rules(account).filter(pk=rule_key).first()
    if rule is None:
        raise no_event()
    return rule


def no_event() -> ServwatchError:
    return ServwatchError(Code.NO_EVENT, _("There is no such event. GET /v2/event lists those there are."))


def rule_list(
    account: Account,
    *,
    channel: int | None = None,
    enabled: bool | None = None,
    after: int = 0,
    limit: int | None = None,
) -> list[Rule]:
    """The account's rules by id, those after `after`."""
    return list(_rules_narrowed(account, channel=channel, enabled=enabled).filter(pk__gt=after)[:limit])


def rule_count(account: Account, *, channel: int | None = None, enabled: bool | None = None) -> int:
    return _rules_narrowed(account, channel=channel, enabled=enabled).count()


def rules_ahead() -> list[Rule]:
    """The rules of all accounts that look ahead and are in force."""
    rules = Rule.objects.filter(
        enabled=True, deleted_at=None, ahead_s__isnull=False, channel__deleted_at=None
    )
    return list(rules.exclude(channel=None).exclude(operator="").order_by("pk"))


def rule_is_enabled(rule: Rule) -> bool:
    """Whether it is held against messages: the rules of a deleted channel are disabled with it."""
    return rule.enabled and (rule.channel is None or rule.channel.deleted_at is None)


def alert_get_for_account(account: Account, alert_key: int) -> AlertRow:
    """One alert. Raises NOT_FOUND, also for a stranger's."""
    rows = alert_rows(_alerts(account).filter(pk=alert_key))
    if not rows:
        raise no_alert()
    return rows[0]


def no_alert() -> ServwatchError:
    return ServwatchError(Code.NOT_FOUND, _("There is no such alert. GET /v2/alert lists those there are."))


def alert_list(
    account: Account,
    *,
    narrow: AlertFilter,
    now: datetime,
    before: int | None = None,
    limit: int | None = None,
) -> list[AlertRow]:
    """The account's alerts, the newest first, those before `before`."""
    rows = alerts_narrowed(account, narrow, now=now)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return alert_rows(rows[:limit])


def alert_count(account: Account, *, narrow: AlertFilter, now: datetime) -> int:
    return alerts_narrowed(account, narrow, now=now).count()


def alerts_open_of_all() -> int:
    """How many alerts of all accounts are not resolved."""
    return Alert.objects.filter(resolved_at=None).count()


def maintenance_list(account: Account) -> list[Maintenance]:
    """The account's maintenance windows, those that begin last first."""
    return list(_maintenance(account).order_by("-starts_at", "-pk"))


def maintenance_get_for_account(account: Account, maintenance_key: int) -> Maintenance:
    """One window. Raises NOT_FOUND, also for a stranger's."""
    window = _maintenance(account).filter(pk=maintenance_key).first()
    if window is None:
        raise no_maintenance()
    return window


def no_maintenance() -> ServwatchError:
    return ServwatchError(
        Code.NOT_FOUND, _("There is no such maintenance window. GET /v2/maintenance lists those there are.")
    )


def _maintenance(account: Account) -> QuerySet[Maintenance]:
    return Maintenance.objects.filter(account=account).select_related("channel", "device")


def _rules(account: Account) -> QuerySet[Rule]:
    rules = Rule.objects.filter(account=account, deleted_at=None)
    return rules.select_related("channel", "device").prefetch_related("notifiers").order_by("pk")


def _rules_narrowed(account: Account, *, channel: int | None, enabled: bool | None) -> QuerySet[Rule]:
    rules = _rules(account)
    if channel is not None:
        rules = rules.filter(channel__number=channel, channel__deleted_at=None)
    if enabled is not None:
        in_force = Q(enabled=True, channel__deleted_at=None)
        rules = rules.filter(in_force if enabled else ~in_force)
    return rules


def _alerts(account: Account) -> QuerySet[Alert]:
    comments = Prefetch("comments", Comment.objects.order_by("pk"))
    alerts = Alert.objects.filter(account=account)
    return alerts.select_related("rule", "channel").prefetch_related(comments).order_by("-pk")


def alerts_narrowed(account: Account, narrow: AlertFilter, *, now: datetime) -> QuerySet[Alert]:
    """The newest first, with rule, channel and comments."""
    rows = _alerts(account)
    if narrow.state:
        rows = rows.filter(_in_state(narrow.state, now=now))
    if narrow.severity:
        rows = rows.filter(severity=narrow.severity)
    if narrow.device_id:
        keys = Device.objects.filter(account=account, device_id=narrow.device_id, deleted_at=None).values(
            "pk"
        )
        rows = rows.filter(device_key__in=keys)
    if narrow.channel is not None:
        rows = rows.filter(channel__number=narrow.channel, channel__deleted_at=None)
    if narrow.event_id is not None:
        rows = rows.filter(rule=narrow.event_id)
    if narrow.since is not None:
        rows = rows.filter(fired_at__gte=narrow.since)
    return rows


def _in_state(state: str, *, now: datetime) -> Q:
    """The same judgement as Alert.state_now(), as SQL."""
    is_open = Q(resolved_at=None)
    snoozed = Q(snoozed_until__gt=now)
    awake = Q(snoozed_until=None) | Q(snoozed_until__lte=now)
    return {
        OPEN: is_open,
        Alert.State.RESOLVED: Q(resolved_at__isnull=False),
        Alert.State.SNOOZED: is_open & snoozed,
        Alert.State.ACKNOWLEDGED: is_open & awake & Q(acknowledged_at__isnull=False),
        Alert.State.FIRING: is_open & awake & Q(acknowledged_at=None),
    }[state]


def alert_rows(rows: Iterable[Alert]) -> list[AlertRow]:
    """These alerts with the ids of their devices, in one query for all."""
    alerts = list(rows)
    keys = {alert.device_key for alert in alerts}
    ids = dict(Device.objects.filter(pk__in=keys).values_list("pk", "device_id"))
    return [AlertRow(alert, ids.get(alert.device_key)) for alert in alerts]
