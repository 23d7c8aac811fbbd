"""The only place that writes rules and what people do with alerts; events/evaluation.py begins and ends alerts."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Case, QuerySet, Value, When
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _

from events.conditions import number_of_text
from events.models import Alert, Comment, Rule
from events.notifiers_store import acknowledged_tell
from servwatch_site.errors import Code, ServwatchError
from tokens.config import config_bump
from tokens.models import Account

# Fields that say what the condition is: with one of them changed, what stands by the old condition ends.
CONDITION = (
    "channel",
    "device",
    "tag",
    "source",
    "operator",
    "threshold",
    "for_s",
    "clear_threshold",
    "absent_s",
    "ahead_s",
)
EDITABLE = (*CONDITION, "description", "notify_type", "post_url", "enabled", "severity", "repeat_s")

# What stands although its rule, channel, tag or device no longer says so. A mapping counts only if it was changed
# since: records written through REST may name a device that is mapped elsewhere.
_ENDED_SQL = """
WITH ended AS (
    SELECT s.id, s.alert_id, CASE
        WHEN r.deleted_at IS NOT NULL THEN 'rule_deleted'
        WHEN NOT r.enabled THEN 'rule_disabled'
        WHEN r.condition_version > s.config_version THEN 'rule_changed'
        WHEN c.deleted_at IS NOT NULL THEN 'channel_deleted'
        WHEN d.deleted_at IS NOT NULL THEN 'device_deleted'
        WHEN t.channel_id IS NULL AND s.tag <> '' THEN 'tag_deleted'
        WHEN NOT d.enabled THEN 'device_disabled'
        ELSE 'device_moved' END AS resolution
    FROM events_alertstate s
    JOIN events_rule r ON r.id = s.rule_id
    JOIN channels_channel c ON c.id = r.channel_id
    LEFT JOIN devices_device d ON d.id = s.device_key
    LEFT JOIN channels_tag t ON t.channel_id = r.channel_id AND t.name = s.tag
    WHERE (%(rule)s::bigint IS NULL OR r.id = %(rule)s)
      AND (r.deleted_at IS NOT NULL OR NOT r.enabled OR r.condition_version > s.config_version
           OR c.deleted_at IS NOT NULL OR d.deleted_at IS NOT NULL OR (t.channel_id IS NULL AND s.tag <> '')
           OR (d.config_version > s.config_version
               AND (NOT d.enabled OR d.channel_id IS DISTINCT FROM r.channel_id)))
    ORDER BY s.rule_id, s.device_key, s.tag, s.key_digest
    FOR UPDATE OF s
), gone AS (
    DELETE FROM events_alertstate s USING ended WHERE s.id = ended.id
), resolved AS (
    UPDATE events_alert a SET resolved_at = %(now)s, resolution = ended.resolution
    FROM ended WHERE a.id = ended.alert_id AND a.resolved_at IS NULL
    RETURNING a.id
)
INSERT INTO events_notification (alert_id, kind) SELECT id, 'resolved' FROM resolved ORDER BY id
"""


@transaction.atomic
def rule_create(account: Account, *, changes: Mapping[str, Any]) -> Rule:
    """A new rule of fields of EDITABLE and `notifiers`; enabled unless it says otherwise or is not complete.

    Raises INVALID_VALUE with the fields.
    """
    rule = Rule(account=account)
    _apply(rule, changes)
    if "enabled" not in changes:
        rule.enabled = not _missing(rule)
    _check(rule)
    rule.config_version = rule.condition_version = config_bump()
    rule.save(force_insert=True)
    rule.notifiers.set(changes.get("notifiers", ()))
    return rule


def rule_draft(account: Account, *, changes: Mapping[str, Any]) -> Rule:
    """A rule that is not saved, for a back-test: complete and checked as an enabled one.

    Raises INVALID_VALUE with the fields. It names nobody to tell, so none of that is asked for.
    """
    rule = Rule(account=account)
    told = ("notify_type", "post_url", "repeat_s", "enabled")
    _apply(rule, {name: value for name, value in changes.items() if name not in told})
    rule.enabled = True
    _check(rule)
    return rule


@transaction.atomic
def rule_update(rule: Rule, *, changes: Mapping[str, Any], now: datetime) -> Rule:
    """Change fields of EDITABLE and `notifiers`. With another condition, or disabled, its open alerts end, and say why.

    Raises INVALID_VALUE with the fields.
    """
    before = [getattr(rule, name) for name in CONDITION]
    _apply(rule, changes)
    _check(rule)
    rule.config_version = config_bump()
    if before != [getattr(rule, name) for name in CONDITION]:
        rule.condition_version = rule.config_version
    rule.save(update_fields=[*EDITABLE, "condition_version", "config_version"])
    if "notifiers" in changes:
        rule.notifiers.set(changes["notifiers"])
    alerts_end(now=now, rule=rule)
    return rule


@transaction.atomic
def rule_delete(rule: Rule, *, now: datetime) -> None:
    """Take the rule away; its alerts stay to be read, and the open ones end."""
    Rule.objects.filter(pk=rule.pk, deleted_at=None).update(
        deleted_at=now, enabled=False, config_version=config_bump()
    )
    alerts_end(now=now, rule=rule)


@transaction.atomic
def alerts_end(*, now: datetime, rule: Rule | None = None) -> int:
    """End what is open although its rule, channel, tag or device is no longer what it was; returns how many alerts.

    A writer that did not know of the change yet may open one just now: the worker calls this again and again.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ENDED_SQL, {"rule": rule.pk if rule else None, "now": now})
        return int(cursor.rowcount)


def alert_acknowledge(alert: Alert, *, by: str, now: datetime) -> None:
    """Somebody looks after it. Acknowledging again changes nothing. Raises INVALID_VALUE for a resolved one."""
    is_news = alert.acknowledged_at is None
    _change_open(
        alert, acknowledged_at=alert.acknowledged_at or now, acknowledged_by=alert.acknowledged_by or by
    )
    if is_news:
        acknowledged_tell(alert, now=now)


def alert_unacknowledge(alert: Alert) -> None:
    """Nobody looks after it any more. Raises INVALID_VALUE for a resolved one."""
    _change_open(alert, acknowledged_at=None, acknowledged_by="")


def alert_snooze(alert: Alert, *, until: datetime | None, by: str, now: datetime) -> None:
    """Be quiet about it until then; None ends a snooze. Raises INVALID_VALUE for a resolved one."""
    snoozed = {"snoozed_at": now if until else None, "snoozed_by": by if until else ""}
    _change_open(alert, snoozed_until=until, **snoozed)


def alerts_acknowledge(account: Account, keys: Collection[int], *, by: str, now: datetime) -> int:
    """Acknowledge all of these that are open and the account's; returns how many there are."""
    return _open_alerts(account, keys).update(
        acknowledged_at=Coalesce("acknowledged_at", Value(now)),
        acknowledged_by=Case(When(acknowledged_at=None, then=Value(by)), default="acknowledged_by"),
    )


def alerts_snooze(
    account: Account, keys: Collection[int], *, until: datetime | None, by: str, now: datetime
) -> int:
    """Be quiet until then about all of these that are open and the account's; None ends snoozes. Returns how many."""
    return _open_alerts(account, keys).update(
        snoozed_until=until, snoozed_at=now if until else None, snoozed_by=by if until else ""
    )


def alerts_unacknowledge(account: Account, keys: Collection[int]) -> int:
    """Nobody looks after these any more, of those that are open and the account's; returns how many there are."""
    return _open_alerts(account, keys).update(acknowledged_at=None, acknowledged_by="")


def _open_alerts(account: Account, keys: Collection[int]) -> QuerySet[Alert]:
    return Alert.objects.filter(account=account, pk__in=keys, resolved_at=None)


def alert_comment(alert: Alert, *, text: str, by: str, now: datetime) -> Comment:
    """Say something of an alert, open or not. Raises INVALID_VALUE."""
    comment = Comment(alert=alert, text=text.strip(), by=by, at=now)
    if not comment.text:
        raise ServwatchError(
            Code.INVALID_VALUE, _("Some fields do not fit."), fields={"comment": _("required")}
        )
    comment.save(force_insert=True)
    return comment


def _change_open(alert: Alert, **fields: Any) -> None:
    """Only while it is open in the database: a batch may resolve it meanwhile."""
    if not Alert.objects.filter(pk=alert.pk, resolved_at=None).update(**fields):
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("This alert is resolved. Nothing is left to acknowledge or to snooze."),
            fields={"state": _("resolved")},
        )
    for name, value in fields.items():
        setattr(alert, name, value)


def _apply(rule: Rule, changes: Mapping[str, Any]) -> None:
    for name in EDITABLE:
        if name in changes:
            setattr(rule, name, changes[name])
    if rule.channel is not None and rule.channel.deleted_at is not None and "enabled" not in changes:
        rule.enabled = False  # as it counts already; whoever enables it has to name another channel


def _missing(rule: Rule) -> dict[str, str]:
    """What an enabled rule has to say and this one does not."""
    channel = rule.channel if rule.channel is not None and rule.channel.deleted_at is None else None
    needed: dict[str, Any] = {"mapped_ch": channel}
    if rule.absent_s is None or rule.operator:  # silence needs no comparison
        needed |= {"source": rule.source, "operator": rule.operator}
        if rule.operator not in ("=", "!="):  # which compare with an empty text, too
            needed["threshold"] = rule.threshold
    if rule.notify_type == Rule.NotifyType.HTTP:
        needed["post_url"] = rule.post_url
    return {name: _("required") for name, value in needed.items() if value in (None, "")}


def _check(rule: Rule) -> None:
    """Raises INVALID_VALUE with the fields under their names in the API."""
    fields = _missing(rule) if rule.enabled else {}
    try:
        rule.full_clean(
            exclude=["account", "channel", "device"], validate_unique=False, validate_constraints=False
        )
    except ValidationError as error:
        fields |= {name: " ".join(texts) for name, texts in error.message_dict.items()}
    if rule.post_url and not _is_web_address(rule.post_url):
        fields["post_url"] = _("must be an address that begins with http:// or https://")
    if rule.ahead_s is not None and "ahead_s" not in fields and not _has_direction(rule):
        fields["ahead_s"] = _("needs a numeric threshold and one of the operators < > <= >=")
    if rule.clear_threshold is not None and "clear_threshold" not in fields and not _clears(rule):
        fields["clear_threshold"] = _("must be a number on the quiet side of the threshold")
    if fields:
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields)


def _has_direction(rule: Rule) -> bool:
    """Whether a trend can lead to its condition; a rule that says nothing yet may still become one."""
    numeric = number_of_text(rule.threshold) is not None
    return rule.operator not in ("=", "!=") and (numeric or not rule.threshold)


def _clears(rule: Rule) -> bool:
    """Whether recovery at the other level makes sense: an alert must not be over before it begins."""
    threshold, clear = number_of_text(rule.threshold), number_of_text(rule.clear_threshold or "")
    if threshold is None or clear is None:
        return False
    if rule.operator in (">", ">="):
        return clear <= threshold
    return rule.operator in ("<", "<=") and clear >= threshold


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
