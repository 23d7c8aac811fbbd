"""Alerts of the cause `trend`: what is begun and ended when the worker has judged where values are heading."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connection, transaction

from events.conditions import Comparison
from events.evaluation import LOCK_BUCKETS, LOCK_CLASS
from events.machine import Fired, Phase, Recovered, State, step
from events.models import Alert, AlertState, Cause, Notification, Rule
from events.sources import path_digest
from events.trend import Trend, trend_condition, trend_reading
from tokens.config import config_version


class Judged(NamedTuple):
    """Where the values of a device, under a tag ("": none) and key path, are heading."""

    device_key: int
    tag: str
    path: str
    trend: Trend


@transaction.atomic
def trend_settle(rule: Rule, judged: Iterable[Judged]) -> int:
    """Begin and end what these say, with notifications; returns how many alerts began or ended.

    The channel's lock is taken alone, as by a batch that may begin something (events/evaluation.py), and only then
    is it read where things stand: a second worker finds what the first has written, and has nothing to do.
    """
    with connection.cursor() as cursor:
        bucket = (rule.channel_id or 0) % LOCK_BUCKETS
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_CLASS, bucket])
    version = config_version()
    same = Rule.objects.filter(pk=rule.pk, config_version=rule.config_version, enabled=True, deleted_at=None)
    if not same.exists():  # changed since it was read; the next time will do
        return 0
    standing = AlertState.objects.filter(rule=rule, cause=Cause.TREND).select_for_update()
    by_place = {
        (row.device_key, row.tag, row.key): row for row in standing.order_by("device_key", "tag", "key")
    }
    changes = 0
    for one in sorted(judged, key=lambda one: one[:3]):
        changes += _settle(rule, one, by_place.get(one[:3]), version=version)
    return changes


def _settle(rule: Rule, judged: Judged, row: AlertState | None, *, version: int) -> int:
    trend, state = judged.trend, None
    if row is not None and row.config_version >= rule.condition_version:
        state = State(Phase(row.phase), row.since)
    asked = trend_condition(timedelta(seconds=rule.ahead_s or 0), timedelta(seconds=rule.for_s))
    comparison = Comparison.of(rule.operator, rule.threshold)
    after, transition = step(asked, state, trend_reading(trend, comparison))
    if row is not None and state is None:
        _end(row, at=trend.at, value=None, resolution=Alert.Resolution.RULE_CHANGED)
        row = None
    if isinstance(transition, Recovered) and row is not None:
        _end(row, at=trend.at, value=trend.value, resolution=Alert.Resolution.RECOVERED)
        return 1
    if after is None:
        if row is not None:
            row.delete()
        return 0
    alert = row.alert if row is not None else None
    if isinstance(transition, Fired):
        alert = _begin(rule, judged, since=transition.since)
    elif alert is not None and after.phase is Phase.FIRING:
        Alert.objects.filter(pk=alert.pk).update(last_at=trend.at, last_value=trend.value)
    AlertState.objects.update_or_create(
        rule=rule,
        device_key=judged.device_key,
        tag=judged.tag,
        key_digest=path_digest(judged.path),
        cause=Cause.TREND,
        defaults={
            "key": judged.path,
            "phase": str(after.phase),
            "since": after.since,
            "last_at": trend.at,
            "alert": alert,
            "config_version": version,
        },
    )
    return int(isinstance(transition, Fired))


def _begin(rule: Rule, judged: Judged, *, since: datetime) -> Alert:
    trend = judged.trend
    alert = Alert.objects.create(
        account_id=rule.account_id,
        rule=rule,
        channel_id=rule.channel_id or 0,
        device_key=judged.device_key,
        tag=judged.tag,
        key=judged.path,
        cause=Cause.TREND,
        severity=rule.severity,
        operator=rule.operator,
        threshold=rule.threshold,
        since=since,
        fired_at=trend.at,
        value=trend.value,
        last_at=trend.at,
        last_value=trend.value,
    )
    Notification.objects.create(alert=alert, kind=Notification.Kind.FIRING)
    return alert


def _end(row: AlertState, *, at: datetime, value: float | None, resolution: str) -> None:
    alert_key = row.alert_id
    row.delete()
    if alert_key is None:
        return
    ended = {"resolved_at": at, "resolution": resolution}
    if value is not None:
        ended |= {"last_at": at, "last_value": value}
    if Alert.objects.filter(pk=alert_key, resolved_at=None).update(**ended):
        Notification.objects.create(alert_id=alert_key, kind=Notification.Kind.RESOLVED)
