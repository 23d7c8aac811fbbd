"""Notifications: that somebody is to be told, who, what was sent to them, and how each attempt ended."""

import json
from typing import Any
from uuid import uuid4

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from devices.models import Device
from events.models.alerts import Alert
from events.models.rules import Rule
from tokens.crypto import decrypt
from tokens.models import Account


class Notification(models.Model):
    """That somebody is to be told of an alert; written with the alert itself, handed on later, in this order.

    `settled_at`: when it became deliveries, or when it was found that nobody needs to be told; `outcome` says which.
    `held_until`: not to be looked at before, since a maintenance window or a group of alerts keeps it.
    """

    class Kind(models.TextChoices):
        FIRING = "firing", _("firing")
        RESOLVED = "resolved", _("resolved")
        REPEAT = "repeat", _("still firing")
        AWAKE = "awake", _("firing after a snooze")
        FLAPPING = "flapping", _("flapping")
        CALM = "calm", _("no longer flapping")
        ACKED = "acked", _("acknowledged")

    class Outcome(models.TextChoices):
        SENT = "sent", _("handed to the notifiers")
        NOBODY = "nobody", _("the event names nobody to tell")
        MAINTENANCE = "maintenance", _("within a maintenance window")
        SNOOZED = "snoozed", _("the alert was snoozed")
        FLAPPING = "flapping", _("the alert was flapping")
        OVERTAKEN = "overtaken", _("resolved before anybody was told")

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="notifications")
    kind = models.CharField(max_length=8, choices=Kind)
    created_at = models.DateTimeField(db_default=Now())
    held_until = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=11, choices=Outcome, blank=True, db_default="")

    class Meta:
        indexes = [
            models.Index(
                fields=["id"], condition=models.Q(settled_at=None), name="events_notification_unsettled"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.alert_id}"


class Notifier(models.Model):
    """Where an account's notifications go: one receiver and how to reach it.

    `ciphertext`: its settings as JSON, encrypted, since addresses such as webhooks' are secrets. `implicit`: made for
    `post_url` or the e-mail addresses of the account, found again by `address_digest`, and not shown among the
    notifiers. `group_s`: alerts of one rule that come within so many seconds are one message; 0 sends each on its own.

    The circuit: after `failures` in a row that were the receiver's fault nothing is sent before `retry_at`.
    """

    class Kind(models.TextChoices):
        EMAIL = "email", _("e-mail")
        WEBHOOK = "webhook", _("webhook")
        SLACK = "slack", "Slack"
        TEAMS = "teams", "Microsoft Teams"
        TELEGRAM = "telegram", "Telegram"
        NTFY = "ntfy", "ntfy"
        PAGERDUTY = "pagerduty", "PagerDuty"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="notifiers")
    kind = models.CharField(max_length=9, choices=Kind)
    name = models.CharField(max_length=64, blank=True)
    ciphertext = models.TextField()
    implicit = models.BooleanField(default=False)
    address_digest = models.CharField(max_length=64, blank=True)
    group_s = models.PositiveIntegerField(default=0)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    last_ok_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "kind", "address_digest"],
                condition=models.Q(implicit=True, deleted_at=None),
                name="events_implicit_unique",
            )
        ]

    def __str__(self) -> str:
        return self.name or self.get_kind_display()

    def reveal(self) -> dict[str, Any]:
        """Its settings."""
        settings: dict[str, Any] = json.loads(decrypt(self.ciphertext))
        return settings


class SigningSecret(models.Model):
    """What an account's webhooks are signed with. One has no end; a replaced one signs beside it until `expires_at`."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="signing_secrets")
    ciphertext = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"], condition=models.Q(expires_at=None), name="events_one_signing_secret"
            )
        ]

    def __str__(self) -> str:
        return f"signing secret of {self.account_id}"

    def reveal(self) -> str:
        return decrypt(self.ciphertext)


class Delivery(models.Model):
    """One message to one receiver, about one alert or a group of them; `items` say which, none: a test.

    `public_id` is the same for every attempt, so that a receiver can tell a repetition. Tried again with growing
    distance until `expires_at`; of one alert in the order of keys. `leased_until`: a worker is sending it and has
    so long to say how that went.
    """

    class Status(models.TextChoices):
        PENDING = "pending", _("waiting")
        DELIVERED = "delivered", _("delivered")
        EXPIRED = "expired", _("given up")
        CANCELLED = "cancelled", _("cancelled")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="deliveries")
    notifier = models.ForeignKey(Notifier, on_delete=models.CASCADE, related_name="deliveries")
    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, null=True, related_name="deliveries")
    public_id = models.UUIDField(default=uuid4, unique=True)
    is_test = models.BooleanField(default=False, db_default=False)
    status = models.CharField(max_length=9, choices=Status, default=Status.PENDING, db_default=Status.PENDING)
    created_at = models.DateTimeField(db_default=Now())
    next_at = models.DateTimeField(db_default=Now())
    leased_until = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField()
    attempt_count = models.PositiveIntegerField(default=0, db_default=0)
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["notifier", "next_at"],
                condition=models.Q(status="pending"),
                name="events_delivery_pending",
            ),
            models.Index(
                fields=["notifier", "id"],
                condition=models.Q(status="pending"),
                name="events_delivery_order",
            ),
            models.Index(
                fields=["expires_at"],
                condition=models.Q(status="pending"),
                name="events_delivery_expiry",
            ),
            models.Index(fields=["id"], condition=models.Q(status="expired"), name="events_delivery_expired"),
            models.Index(fields=["account", "-id"], name="events_delivery_account"),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} to {self.notifier_id}"


class DeliveryItem(models.Model):
    """One notification within a message."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="items")
    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="items")
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="delivery_items")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["delivery", "notification"], name="events_item_unique")
        ]

    def __str__(self) -> str:
        return f"{self.notification_id} in {self.delivery_id}"


class Attempt(models.Model):
    """How one try to deliver ended. `status_code` None: no answer, see `error`. `answer`: its beginning."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempts")
    at = models.DateTimeField()
    ok = models.BooleanField()
    latency_ms = models.PositiveIntegerField()
    status_code = models.PositiveSmallIntegerField(null=True)
    answer = models.CharField(max_length=500, blank=True)
    error = models.CharField(max_length=300, blank=True)

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.status_code or self.error}"


class Flapping(models.Model):
    """An instance of a rule that fires and recovers again and again: it was said once, and then there is quiet.

    `changed_at`: of its last change; long enough after it the flapping is over and the row goes.
    """

    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, related_name="flapping")
    device_key = models.BigIntegerField()
    tag = models.CharField(max_length=64, blank=True)
    key_digest = models.BigIntegerField()
    since = models.DateTimeField()
    changed_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "device_key", "tag", "key_digest"], name="events_flapping_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.rule_id} of {self.device_key}"


class Maintenance(models.Model):
    """A time in which nobody is told of alerts, for a channel, a device or a tag; with none of them for everything.

    Alerts go on; what still fires at the end is told then. `repeat` daily or weekly: the time of day and the length
    are those of `starts_at` and `ends_at` in the account's time zone, `weekdays` (0 is Monday) those it begins on;
    `until` ends the repetition.
    """

    class Repeat(models.TextChoices):
        ONCE = "once", _("once")
        DAILY = "daily", _("every day")
        WEEKLY = "weekly", _("every week")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="maintenance")
    name = models.CharField(max_length=128, blank=True)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, null=True, blank=True, related_name="maintenance"
    )
    device = models.ForeignKey(
        Device, on_delete=models.CASCADE, null=True, blank=True, related_name="maintenance"
    )
    tag = models.CharField(max_length=64, blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    repeat = models.CharField(max_length=6, choices=Repeat, default=Repeat.ONCE)
    weekdays = ArrayField(models.PositiveSmallIntegerField(), default=list, blank=True)
    until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=254, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ends_at__gt=models.F("starts_at")), name="events_maintenance_order"
            )
        ]

    def __str__(self) -> str:
        return self.name or f"{self.starts_at:%Y-%m-%d %H:%M}"
