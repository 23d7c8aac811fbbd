"""From notifications to deliveries: who is told what, now, later or not at all (events/damping.py decides).

Everything that waits is looked at in its order, by one worker at a time, in one transaction of few statements. So the
order of what is said of an alert is kept, whoever looks.

Notifiers of people gather: what one rule says to one of them within `group_s` seconds is one delivery, to which more is
added until it is due. What ends before that is taken out again.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connection, transaction
from django.db.models import DurationField, Exists, ExpressionWrapper, F, OuterRef, Q, Value

from events.damping import (
    CALM_AFTER,
    FLAPPING_FIRINGS,
    FLAPPING_WITHIN,
    Case,
    Hold,
    Kind,
    Why,
    awake_is_due,
    decide,
    repeat_is_due,
)
from events.due import CALM_DUE_SQL, REMINDERS_DUE_SQL
from events.models import Alert, Delivery, DeliveryItem, Flapping, Maintenance, Notification, Notifier, Rule
from events.notifiers_store import notifiers_of_rule
from events.sources import path_digest
from events.windows import ONCE, span_at

LOCK_CLASS, LOCK = 5_161, 1
AT_ONCE = 2_000
CALM_AT_ONCE = 500
EXPIRES_AFTER = timedelta(hours=24)

# The lock, and what need not be asked for since there is none of it.
_BEGIN_SQL = f"""
SELECT pg_try_advisory_xact_lock(%(class)s, %(lock)s), {REMINDERS_DUE_SQL}, {CALM_DUE_SQL},
       EXISTS (SELECT FROM events_maintenance WHERE starts_at <= %(now)s AND (repeat <> 'once' OR ends_at > %(now)s)),
       EXISTS (SELECT FROM events_flapping), EXISTS (
           SELECT FROM events_notifier n JOIN events_delivery d ON d.notifier_id = n.id AND d.status = 'pending'
           WHERE n.group_s > 0 AND d.attempt_count = 0 AND d.next_at > %(now)s
       )
"""

Place = tuple[int, int, str, int]  # rule, device, tag, digest of the key path
Pair = tuple[int, int]


def settle_due(*, now: datetime) -> int:
    """Settle what waits, AT_ONCE at most; returns how many were settled. Nothing while another worker does."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                _BEGIN_SQL, {"class": LOCK_CLASS, "lock": LOCK, "now": now, "calm": now - CALM_AFTER}
            )
            is_ours, remind, calm, *there = cursor.fetchone()
        if not is_ours:
            return 0
        if remind:
            _reminders_make(now)
        if calm:
            _calm_make(now)
        waiting = _waiting(now)
        if not waiting:
            return 0
        work = _Settling(waiting, There(*there), now=now)
        work.decide()
        return work.write()


class There(NamedTuple):
    """Whether there is any of it at all: windows that may be open, what flaps, deliveries that gather."""

    windows: bool
    flapping: bool
    groups: bool


class Telling(NamedTuple):
    """That a notifier is told of a notification."""

    notifier: Notifier
    notification: Notification


@dataclass(slots=True)
class _Group:
    """A delivery that gathers. `delivery` None: to be made."""

    notifier: Notifier
    rule: Rule
    delivery: Delivery | None = None
    items: list[Notification] = field(default_factory=list)


class _Settling:
    """The work on what waits."""

    def __init__(self, waiting: Sequence[Notification], there: There, *, now: datetime) -> None:
        self._now = now
        self._waiting = waiting
        self._there = there
        self._windows = Windows({n.alert.account_id for n in waiting} if there.windows else (), now=now)
        self._notifiers = Receivers()
        self._flapping = _flapping_of({n.alert.rule_id for n in waiting} if there.flapping else ())
        self._often = _often(n.alert_id for n in waiting if n.kind == Kind.FIRING)
        self._told = _told_of({n.alert_id for n in waiting if n.kind == Kind.RESOLVED})
        self._flap_told = _flap_told(n.alert for n in waiting if n.kind == Kind.CALM)
        self._firing_waits = _firing_waits({n.alert_id for n in waiting if n.kind == Kind.RESOLVED})
        self._held: list[Notification] = []
        self._settled: list[Notification] = []
        self._flapping_new: dict[Place, Flapping] = {}
        self._touched: set[int] = set()
        self._single: list[Telling] = []
        self._groups: dict[Pair, _Group] = {}
        self._taken_out: dict[int, list[int]] = defaultdict(list)

    def decide(self) -> None:
        self._groups = self._groups_open()
        for notification in self._waiting:
            verdict = decide(self._case(notification), now=self._now)
            if isinstance(verdict, Hold):
                notification.held_until = verdict.until
                self._held.append(notification)
                if notification.kind == Kind.FIRING:
                    self._firing_waits[notification.alert_id] = notification
                continue
            self._flap(notification, begins=verdict.tell is Kind.FLAPPING)
            told = notification
            if verdict.tell is Kind.FLAPPING:
                told = Notification(alert=notification.alert, kind=Kind.FLAPPING.value, created_at=self._now)
            why = verdict.why
            if verdict.tell is not None:
                reached = self._tell(told)
                if told is not notification:
                    self._settle(told, Why.SENT if reached else Why.NOBODY)
                elif reached is not None:
                    why = Why.SENT if reached else Why.NOBODY
                else:
                    why = Why.OVERTAKEN
            if notification.kind == Kind.RESOLVED and why is Why.OVERTAKEN:
                firing = self._firing_waits.get(notification.alert_id)
                if firing is None and not self._notifiers.of(notification.alert.rule):
                    why = Why.NOBODY
                if firing is not None:
                    self._held = [held for held in self._held if held.pk != firing.pk]
                    self._settle(firing, Why.OVERTAKEN)
            self._settle(notification, why)

    def _case(self, notification: Notification) -> Case:
        alert = notification.alert
        return Case(
            Kind(notification.kind),
            resolved=alert.resolved_at is not None,
            was_held=notification.held_until is not None,
            firing_waits=alert.pk in self._firing_waits,
            told=bool(self._told.get(alert.pk)),
            snoozed_until=alert.snoozed_until,
            maintenance_until=self._windows.until(alert),
            flapping=_place(alert) in self._flapping,
            often=alert.pk in self._often,
        )

    def _settle(self, notification: Notification, why: Why) -> None:
        notification.settled_at, notification.outcome = self._now, why.value
        if notification.kind == Kind.FIRING:
            self._firing_waits.pop(notification.alert_id, None)
        self._settled.append(notification)

    def _flap(self, notification: Notification, *, begins: bool) -> None:
        """Note a change of what flaps, or that it does now."""
        place = _place(notification.alert)
        known = self._flapping.get(place)
        if known is not None:
            if known.pk and notification.kind in (Kind.FIRING, Kind.RESOLVED):
                self._touched.add(known.pk)
        elif begins:
            rule_key, device_key, tag, digest = place
            self._flapping[place] = self._flapping_new[place] = Flapping(
                rule_id=rule_key,
                device_key=device_key,
                tag=tag,
                key_digest=digest,
                since=self._now,
                changed_at=self._now,
            )

    # --- who ---

    def _tell(self, notification: Notification) -> int | None:
        """Hand it to whom it concerns; returns to how many, None: to nobody, for none has to know any more."""
        alert = notification.alert
        reached, overtaken = 0, 0
        for notifier in self._receivers(notification):
            if notification.kind == Kind.RESOLVED and self._take_out(alert, notifier):
                overtaken += 1
                continue
            reached += 1
            if notifier.group_s:
                pair = (alert.rule_id, notifier.pk)
                group = self._groups.get(pair)
                if group is None:
                    group = self._groups[pair] = _Group(notifier, alert.rule)
                group.items.append(notification)
            else:
                self._single.append(Telling(notifier, notification))
            self._told[alert.pk].setdefault(notifier.pk, set()).add(0)
        return None if overtaken and not reached else reached

    def _receivers(self, notification: Notification) -> list[Notifier]:
        """Of an end only those who were told of the beginning."""
        alert = notification.alert
        if notification.kind == Kind.RESOLVED:
            return self._notifiers.those(self._told[alert.pk])
        if notification.kind == Kind.CALM and alert.resolved_at is not None:
            return self._notifiers.those(self._flap_told.get(alert.pk, ()))
        return self._notifiers.of(alert.rule)

    def _take_out(self, alert: Alert, notifier: Notifier) -> bool:
        """Whether what this receiver was to be told of the alert still waits in a group; it is taken out then."""
        group = self._groups.get((alert.rule_id, notifier.pk))
        if group is None:
            return False
        open_key = 0 if group.delivery is None else group.delivery.pk
        if not self._told[alert.pk].get(notifier.pk, set()) <= {0, open_key}:
            return False
        group.items = [item for item in group.items if item.alert_id != alert.pk]
        if group.delivery is not None:
            self._taken_out[group.delivery.pk].append(alert.pk)
        del self._told[alert.pk][notifier.pk]
        return True

    def _groups_open(self) -> dict[Pair, _Group]:
        """Deliveries of these rules that still gather, locked; one that is being sent gathers no more."""
        if not self._there.groups:
            return {}
        rules = {n.alert.rule_id: n.alert.rule for n in self._waiting}
        rows = (
            Delivery.objects.filter(
                rule__in=rules,
                status=Delivery.Status.PENDING,
                attempt_count=0,
                next_at__gt=self._now,
                notifier__group_s__gt=0,
            )
            .select_related("notifier")
            .select_for_update(skip_locked=True, of=("self",))
            .order_by("pk")
        )
        return {
            (row.rule_id, row.notifier_id): _Group(row.notifier, rules[row.rule_id], row)
            for row in rows
            if row.rule_id is not None
        }

    # --- writing ---

    def write(self) -> int:
        now = self._now
        told = {id(telling.notification): telling.notification for telling in self._single}
        told |= {id(item): item for group in self._groups.values() for item in group.items}
        for notification in self._settled:
            if notification.outcome == Why.SENT and id(notification) not in told:
                notification.outcome = Why.OVERTAKEN.value  # it was taken out of its group
        new = [n for n in self._settled if n.pk is None]
        Notification.objects.bulk_create(new)
        _notifications_write(self._settled, self._held)
        Flapping.objects.bulk_create(self._flapping_new.values())
        Flapping.objects.filter(pk__in=self._touched).update(changed_at=now)
        if self._taken_out:
            self._take_out_write()
        self._deliveries_write()
        Alert.objects.filter(pk__in={n.alert_id for n in told.values()}).update(notified_at=now)
        return len(self._settled)

    def _take_out_write(self) -> None:
        """Take items out of groups; a delivery without any goes, and nobody was told."""
        notifications: list[int] = []
        for delivery_key, alert_keys in self._taken_out.items():
            items = DeliveryItem.objects.filter(delivery=delivery_key, alert__in=alert_keys)
            notifications += items.values_list("notification_id", flat=True)
            items.delete()
        items_of = DeliveryItem.objects.filter
        Notification.objects.filter(pk__in=notifications).exclude(
            Exists(items_of(notification=OuterRef("pk")))
        ).update(outcome=Notification.Outcome.OVERTAKEN)
        filled = {group.delivery.pk for group in self._groups.values() if group.delivery and group.items}
        Delivery.objects.filter(pk__in=self._taken_out.keys() - filled).exclude(
            Exists(items_of(delivery=OuterRef("pk")))
        ).delete()

    def _deliveries_write(self) -> None:
        made: list[tuple[Delivery, list[Notification]]] = []
        for notifier, notification in self._single:
            made.append((self._delivery(notifier, notification.alert.rule), [notification]))
        added: list[tuple[Delivery, list[Notification]]] = []
        for group in self._groups.values():
            if group.delivery is not None:
                added.append((group.delivery, group.items))
            elif group.items:
                made.append((self._delivery(group.notifier, group.rule), group.items))
        Delivery.objects.bulk_create([delivery for delivery, _ in made], batch_size=2_000)
        DeliveryItem.objects.bulk_create(
            [
                DeliveryItem(delivery=delivery, notification=notification, alert_id=notification.alert_id)
                for delivery, notifications in (*made, *added)
                for notification in notifications
            ],
            batch_size=2_000,
        )

    def _delivery(self, notifier: Notifier, rule: Rule) -> Delivery:
        return Delivery(
            account_id=rule.account_id,
            notifier=notifier,
            rule=rule,
            created_at=self._now,
            next_at=self._now + timedelta(seconds=notifier.group_s),
            expires_at=self._now + EXPIRES_AFTER,
        )


class Windows:
    """The maintenance windows of some accounts that are open now."""

    def __init__(self, account_keys: Iterable[int], *, now: datetime) -> None:
        rows = Maintenance.objects.filter(
            Q(account__in=account_keys), Q(starts_at__lte=now), ~Q(repeat=ONCE) | Q(ends_at__gt=now)
        ).select_related("account")
        self._open: dict[int, list[tuple[Maintenance, datetime]]] = defaultdict(list)
        for row in rows:
            span = span_at(row, now, row.account.zone)
            if span is not None:
                self._open[row.account_id].append((row, span.ends))

    def until(self, alert: Alert) -> datetime | None:
        """When the last of those ends that cover the alert."""
        return max(
            (ends for window, ends in self._open.get(alert.account_id, ()) if concerns(window, alert)),
            default=None,
        )


def concerns(window: Maintenance, alert: Alert) -> bool:
    """Whether the window is about the alert's channel, device and tag, as far as it names them."""
    return (
        window.channel_id in (None, alert.channel_id)
        and window.device_id in (None, alert.device_key)
        and window.tag in ("", alert.tag)
    )


class Receivers:
    """Notifiers, each asked for once."""

    def __init__(self) -> None:
        self._of_rules: dict[int, list[Notifier]] = {}
        self._known: dict[int, Notifier | None] = {}

    def of(self, rule: Rule) -> list[Notifier]:
        """Those that are to be told of a rule's alerts."""
        found = self._of_rules.get(rule.pk)
        if found is None:
            found = [n for n in notifiers_of_rule(rule) if n.enabled and n.deleted_at is None]
            self._of_rules[rule.pk] = found
            self._known.update((notifier.pk, notifier) for notifier in found)
        return found

    def those(self, keys: Iterable[int]) -> list[Notifier]:
        """These, as far as they are there and enabled."""
        missing = [key for key in keys if key not in self._known]
        if missing:
            there = Notifier.objects.filter(pk__in=missing, enabled=True, deleted_at=None).in_bulk()
            self._known.update((key, there.get(key)) for key in missing)
        return [notifier for key in sorted(keys) if (notifier := self._known[key]) is not None]


def _waiting(now: datetime) -> list[Notification]:
    """What is to be looked at now, in its order."""
    due = Notification.objects.filter(settled_at=None).filter(Q(held_until=None) | Q(held_until__lte=now))
    return list(due.select_related("alert__rule").order_by("pk")[:AT_ONCE])


def _firing_waits(alert_keys: Collection[int]) -> dict[int, Notification]:
    """The firings of these alerts that are held, also beyond now."""
    rows = Notification.objects.filter(
        alert__in=alert_keys, kind=Kind.FIRING.value, settled_at=None, held_until__isnull=False
    ).select_related("alert")
    return {row.alert_id: row for row in rows}


def _told_of(alert_keys: Collection[int]) -> dict[int, dict[int, set[int]]]:
    """Alert -> notifier -> the deliveries by which it was told."""
    told: dict[int, dict[int, set[int]]] = defaultdict(dict)
    if not alert_keys:
        return told
    rows = DeliveryItem.objects.filter(alert__in=alert_keys).values_list(
        "alert_id", "delivery__notifier_id", "delivery_id"
    )
    for alert_key, notifier_key, delivery_key in rows:
        told[alert_key].setdefault(notifier_key, set()).add(delivery_key)
    return told


def _flap_told(alerts: Iterable[Alert]) -> dict[int, set[int]]:
    """Alert -> the notifiers that were told last that its instance flaps."""
    found: dict[int, set[int]] = {}
    for alert in alerts:
        said = (
            Notification.objects.filter(
                kind=Kind.FLAPPING.value,
                alert__rule=alert.rule_id,
                alert__device_key=alert.device_key,
                alert__tag=alert.tag,
                alert__key=alert.key,
            )
            .order_by("-pk")
            .values("pk")[:1]
        )
        items = DeliveryItem.objects.filter(notification__in=list(said.values_list("pk", flat=True)))
        found[alert.pk] = set(items.values_list("delivery__notifier_id", flat=True))
    return found


_OFTEN_SQL = """
SELECT a.id FROM events_alert a WHERE a.id = ANY(%s) AND (
    SELECT o.fired_at FROM events_alert o
    WHERE o.rule_id = a.rule_id AND o.device_key = a.device_key AND o.tag = a.tag AND o.key = a.key AND o.id <= a.id
    ORDER BY o.id DESC OFFSET %s LIMIT 1
) > a.fired_at - make_interval(secs => %s)
"""


def _often(alert_keys: Iterable[int]) -> set[int]:
    """Those of the alerts whose instance has fired often of late."""
    keys = list(alert_keys)
    if not keys:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(_OFTEN_SQL, [keys, FLAPPING_FIRINGS - 1, FLAPPING_WITHIN.total_seconds()])
        return {key for (key,) in cursor.fetchall()}


def _flapping_of(rule_keys: Iterable[int]) -> dict[Place, Flapping]:
    rows = Flapping.objects.filter(rule__in=rule_keys)
    return {(row.rule_id, row.device_key, row.tag, row.key_digest): row for row in rows}


def _place(alert: Alert) -> Place:
    return (alert.rule_id, alert.device_key, alert.tag, path_digest(alert.key))


_WRITE_SQL = """
UPDATE events_notification n
SET settled_at = u.settled_at, outcome = u.outcome, held_until = coalesce(u.held_until, n.held_until)
FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::timestamptz[]) AS u (id, settled_at, outcome, held_until)
WHERE n.id = u.id
"""


def _notifications_write(settled: Iterable[Notification], held: Iterable[Notification]) -> None:
    rows: list[tuple[int, datetime | None, str, datetime | None]]
    rows = [(n.pk, n.settled_at, n.outcome, None) for n in settled]
    rows += [(n.pk, None, "", n.held_until) for n in held]
    with connection.cursor() as cursor:
        cursor.execute(_WRITE_SQL, [list(column) for column in zip(*rows, strict=True)])


def _reminders_make(now: datetime) -> None:
    """Notifications of what fires on: after a snooze, and once more until somebody acknowledges it."""
    again_s = ExpressionWrapper(F("rule__repeat_s") * Value(timedelta(seconds=1)), DurationField())
    repeats = Q(acknowledged_at=None, rule__enabled=True, notified_at__lte=Value(now) - again_s)
    awakes = Q(snoozed_until__lte=now) & (Q(notified_at=None) | Q(notified_at__lt=F("snoozed_until")))
    alerts = list(
        Alert.objects.filter(awakes | repeats, resolved_at=None)
        .exclude(Exists(Notification.objects.filter(alert=OuterRef("pk"), settled_at=None)))
        .select_related("rule")
        .order_by("pk")
    )
    due = [(alert, kind) for alert in alerts if (kind := _reminder(alert, now)) is not None]
    if not due:
        return
    windows, receivers = Windows({alert.account_id for alert, _ in due}, now=now), Receivers()
    flapping = _flapping_of({alert.rule_id for alert, _ in due})
    Notification.objects.bulk_create(
        Notification(alert=alert, kind=kind.value, created_at=now)
        for alert, kind in due
        if windows.until(alert) is None and _place(alert) not in flapping and receivers.of(alert.rule)
    )


def _reminder(alert: Alert, now: datetime) -> Kind | None:
    if awake_is_due(notified_at=alert.notified_at, snoozed_until=alert.snoozed_until, now=now):
        return Kind.AWAKE
    is_due = repeat_is_due(
        notified_at=alert.notified_at,
        repeat_s=alert.rule.repeat_s,
        acknowledged=alert.acknowledged_at is not None,
        snoozed_until=alert.snoozed_until,
        now=now,
    )
    return Kind.REPEAT if is_due else None


def _calm_make(now: datetime) -> None:
    """Notifications of what has stopped flapping, with what it is now."""
    rows = list(Flapping.objects.filter(changed_at__lte=now - CALM_AFTER).order_by("pk")[:CALM_AT_ONCE])
    calm = []
    for row in rows:
        alerts = Alert.objects.filter(rule=row.rule_id, device_key=row.device_key, tag=row.tag)
        last = next((a for a in alerts.order_by("-pk")[:1_000] if path_digest(a.key) == row.key_digest), None)
        if last is not None:
            calm.append(Notification(alert=last, kind=Kind.CALM.value, created_at=now))
    Flapping.objects.filter(pk__in=[row.pk for row in rows]).delete()
    Notification.objects.bulk_create(calm)
