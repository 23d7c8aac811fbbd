"""The only place that writes notifiers, and what people do with deliveries; events/sending.py sends them."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from events.models import Alert, Delivery, DeliveryItem, Notification, Notifier, Rule
from events.notifiers import KINDS, kind_of
from events.notifiers.shape import SettingsError
from servwatch_site.errors import Code, ServwatchError
from tokens.crypto import encrypt, keyed_digest
from tokens.models import Account

OUTBOX_NOTIFY = "servwatch_outbox"
KEEP_TRYING = timedelta(hours=24)
KEPT = timedelta(days=90)
MOST_NOTIFIERS = 500
MOST_GROUP_S = 3600
AT_ONCE = 1_000  # that the clean-up takes away in one transaction
EDITABLE = ("name", "enabled", "group_s")
ADDRESS_DIGEST = "notifier-address"


def notifiers_of_rule(rule: Rule) -> list[Notifier]:
    """Whom a rule tells, in the order of keys: those it names, and what its `notify_type` implies.

    `http` implies its `post_url`; `email` the account's addresses, unless it names others. To be called within the
    transaction that makes the deliveries.
    """
    named = list(rule.notifiers.filter(deleted_at=None).order_by("pk"))
    found = [notifier for notifier in named if notifier.enabled]
    if rule.notify_type == Rule.NotifyType.HTTP:
        if rule.post_url:
            found.append(_implicit(rule.account, "webhook", {"url": rule.post_url}))
    elif not named:
        to = [address for address in (rule.account.email1, rule.account.email2) if address]
        if to:
            found.append(_implicit(rule.account, "email", {"to": list(dict.fromkeys(to))}))
    unique = {notifier.pk: notifier for notifier in found if notifier.enabled}
    return [unique[key] for key in sorted(unique)]


def notifier_create(account: Account, *, kind: str, settings: Mapping[str, Any], **fields: Any) -> Notifier:
    """A new notifier; `fields` are of EDITABLE. Raises INVALID_VALUE with the fields."""
    if kind not in KINDS:
        raise _bad({"kind": _("must be one of: %(choices)s") % {"choices": ", ".join(KINDS)}})
    if Notifier.objects.filter(account=account, implicit=False, deleted_at=None).count() >= MOST_NOTIFIERS:
        raise ServwatchError(
            Code.FORBIDDEN, _("An account can have at most %(n)d notifiers.") % {"n": MOST_NOTIFIERS}
        )
    notifier = Notifier(account=account, kind=kind, group_s=kind_of(kind).group_s)
    _apply(notifier, fields, settings=settings, old=None)
    notifier.save(force_insert=True)
    return notifier


@transaction.atomic
def notifier_update(
    notifier: Notifier,
    *,
    settings: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    **fields: Any,
) -> Notifier:
    """Change fields of EDITABLE and settings; a setting that is not given, or given as it is shown, stays.

    New settings or enabling it begin anew: what waits is tried at once. Raises INVALID_VALUE with the fields.
    """
    try:
        old = notifier.reveal()
    except ValueError:  # encrypted with another key: its settings have to be given anew
        old = {}
    _apply(notifier, fields, settings=settings or {}, old=old)
    if settings or fields.get("enabled"):
        notifier.failures, notifier.retry_at = 0, None
        _waiting(notifier).update(next_at=now or timezone.now())
        outbox_wake()
    notifier.save(update_fields=[*EDITABLE, "ciphertext", "failures", "retry_at"])
    return notifier


@transaction.atomic
def notifier_delete(notifier: Notifier, *, now: datetime) -> None:
    """Take it away: events no longer name it, what waits for it is cancelled; its deliveries stay to be read."""
    Notifier.objects.filter(pk=notifier.pk, deleted_at=None).update(deleted_at=now, enabled=False)
    notifier.rules.clear()
    _waiting(notifier).update(status=Delivery.Status.CANCELLED)


def notifier_test(notifier: Notifier, *, now: datetime) -> Delivery:
    """A test message on the way that all others go. Raises INVALID_VALUE for one that is not enabled."""
    if not notifier.enabled or notifier.deleted_at is not None:
        raise _bad({"enabled": _("The notifier is not enabled.")})
    delivery = Delivery.objects.create(
        account=notifier.account,
        notifier=notifier,
        is_test=True,
        created_at=now,
        next_at=now,
        expires_at=now + KEEP_TRYING,
    )
    outbox_wake()
    return delivery


@transaction.atomic
def delivery_resend(delivery: Delivery, *, now: datetime) -> Delivery:
    """Send it, or try it, again at once, under its own id and for another day. Raises INVALID_VALUE.

    Also where the receiver is being left alone after failures: whoever asks for it knows better.
    """
    notifier = Notifier.objects.select_for_update(no_key=True).get(pk=delivery.notifier_id)
    if not notifier.enabled or notifier.deleted_at is not None:
        raise _bad({"notifier_id": _("The notifier is not enabled.")})
    Delivery.objects.filter(pk=delivery.pk).update(
        status=Delivery.Status.PENDING, next_at=now, expires_at=now + KEEP_TRYING, delivered_at=None
    )
    if notifier.retry_at is not None and notifier.retry_at > now:
        Notifier.objects.filter(pk=notifier.pk).update(retry_at=now)
    outbox_wake()
    delivery.refresh_from_db()
    return delivery


@transaction.atomic
def acknowledged_tell(alert: Alert, *, now: datetime) -> int:
    """Tell those that were told of the alert and hear such things; returns how many."""
    hearing = [name for name, kind in KINDS.items() if kind.hears_acknowledged]
    told = DeliveryItem.objects.filter(alert=alert, delivery__notifier__kind__in=hearing)
    notifiers = Notifier.objects.filter(
        pk__in=told.values("delivery__notifier"), enabled=True, deleted_at=None
    ).order_by("pk")
    for notifier in notifiers:
        notification = Notification.objects.create(
            alert=alert,
            kind=Notification.Kind.ACKED,
            created_at=now,
            settled_at=now,
            outcome=Notification.Outcome.SENT,
        )
        delivery = Delivery.objects.create(
            account_id=alert.account_id,
            notifier=notifier,
            rule_id=alert.rule_id,
            created_at=now,
            next_at=now,
            expires_at=now + KEEP_TRYING,
        )
        DeliveryItem.objects.create(delivery=delivery, notification=notification, alert=alert)
    if notifiers:
        outbox_wake()
    return len(notifiers)


def outbox_wake() -> None:
    """Whoever sends looks at once, after the commit."""
    transaction.on_commit(_wake)


def deliveries_expire_old(*, now: datetime) -> int:
    """Deliveries that ended long ago go, with their attempts; returns how many."""
    gone = 0
    while True:
        keys = list(
            Delivery.objects.exclude(status=Delivery.Status.PENDING)
            .filter(created_at__lt=now - KEPT)
            .order_by("pk")
            .values_list("pk", flat=True)[:AT_ONCE]
        )
        if not keys:
            return gone
        Delivery.objects.filter(pk__in=keys).delete()
        gone += len(keys)


def _wake() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", [OUTBOX_NOTIFY])


def _waiting(notifier: Notifier) -> QuerySet[Delivery]:
    return Delivery.objects.filter(notifier=notifier, status=Delivery.Status.PENDING)


def _implicit(account: Account, kind: str, settings: dict[str, Any]) -> Notifier:
    """The notifier for an address that is no notifier of its own; the same one each time."""
    text = json.dumps(settings, sort_keys=True)
    found, _made = Notifier.objects.get_or_create(
        account=account,
        kind=kind,
        implicit=True,
        deleted_at=None,
        address_digest=keyed_digest(ADDRESS_DIGEST, text),
        defaults={"ciphertext": encrypt(text), "group_s": kind_of(kind).group_s},
    )
    return found


def _apply(
    notifier: Notifier,
    fields: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    old: Mapping[str, Any] | None,
) -> None:
    kind = kind_of(notifier.kind)
    problems: dict[str, str] = {}
    for name in EDITABLE:
        if name in fields:
            setattr(notifier, name, fields[name])
    notifier.name = notifier.name.strip()
    if len(notifier.name) > 64 or not notifier.name.isprintable():
        problems["name"] = _("This text is too long or holds characters that cannot be sent.")
    if notifier.group_s > MOST_GROUP_S:
        problems["group_s"] = _("must be at most %(n)d") % {"n": MOST_GROUP_S}
    if notifier.group_s and not kind.groups:
        problems["group_s"] = _("This kind sends each notification on its own: 0 it must be.")
    try:
        notifier.ciphertext = encrypt(json.dumps(kind.clean(settings, old=old)))
    except SettingsError as error:
        problems |= error.fields
    if problems:
        raise _bad(problems)


def _bad(fields: Mapping[str, str]) -> ServwatchError:
    return ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields)
