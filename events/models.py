"""Rules, their alerts, what is pending or firing at the moment, and the notifications that are to be sent."""

from datetime import datetime

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from devices.models import Device
from tokens.models import Account


class Severity(models.TextChoices):
    INFO = "info", _("info")
    WARNING = "warning", _("warning")
    CRITICAL = "critical", _("critical")


class Rule(models.Model):
    """An event of the contract: a condition on one stream of one channel, with a notification.

    `device` and `tag` narrow it; without them it holds for every device and tag of the channel. `clear_threshold`
    None: recovers at the threshold itself. A rule that is deleted stays, since its alerts outlive it.
    """

    class Operator(models.TextChoices):
        LESS = "<", "<"
        MORE = ">", ">"
        AT_MOST = "<=", "<="
        AT_LEAST = ">=", ">="
        EQUAL = "=", "="
        OTHER = "!=", "!="

    class NotifyType(models.TextChoices):
        EMAIL = "email", _("e-mail")
        HTTP = "http", _("webhook")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="rules")
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, null=True, blank=True, related_name="rules"
    )
    device = models.ForeignKey(Device, on_delete=models.CASCADE, null=True, blank=True, related_name="rules")
    tag = models.CharField(max_length=64, blank=True)
    description = models.CharField(max_length=256, blank=True)
    notify_type = models.CharField(max_length=5, choices=NotifyType, default=NotifyType.EMAIL)
    post_url = models.CharField(max_length=2000, blank=True)
    enabled = models.BooleanField(default=False)
    source = models.CharField(max_length=1000, blank=True)
    operator = models.CharField(max_length=2, choices=Operator, blank=True)
    threshold = models.CharField(max_length=256, blank=True)
    for_s = models.PositiveIntegerField(default=0)
    clear_threshold = models.CharField(max_length=256, null=True, blank=True)  # noqa: DJ001 - "" is a threshold
    absent_s = models.PositiveIntegerField(null=True, blank=True)
    severity = models.CharField(max_length=8, choices=Severity, default=Severity.WARNING)
    repeat_s = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    # The configuration version of the last change that gave the condition another meaning.
    condition_version = models.BigIntegerField(default=0)
    config_version = models.BigIntegerField(default=0, db_index=True)

    def __str__(self) -> str:
        return f"{self.source} {self.operator} {self.threshold}"


class Alert(models.Model):
    """One firing of a rule: for one device, tag and key path, from when it fired until it was resolved.

    Times are of measurement, but `opened_at`. `resolution` says why it ended; severity and condition are those it
    fired with. `device_key` of records without a device is the channel's own, negative.
    """

    class Resolution(models.TextChoices):
        RECOVERED = "recovered", _("recovered")
        RULE_CHANGED = "rule_changed", _("the event was changed")
        RULE_DISABLED = "rule_disabled", _("the event was disabled")
        RULE_DELETED = "rule_deleted", _("the event was deleted")
        CHANNEL_DELETED = "channel_deleted", _("the channel was deleted")
        TAG_DELETED = "tag_deleted", _("the tag was deleted")
        DEVICE_DELETED = "device_deleted", _("the device was deleted")
        DEVICE_DISABLED = "device_disabled", _("the device was disabled")
        DEVICE_MOVED = "device_moved", _("the device was mapped to another channel")

    class State(models.TextChoices):
        FIRING = "firing", _("firing")
        ACKNOWLEDGED = "acknowledged", _("acknowledged")
        SNOOZED = "snoozed", _("snoozed")
        RESOLVED = "resolved", _("resolved")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="alerts")
    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, related_name="alerts")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="alerts")
    device_key = models.BigIntegerField(db_index=True)
    tag = models.CharField(max_length=64, blank=True)
    key = models.TextField()
    severity = models.CharField(max_length=8, choices=Severity)
    operator = models.CharField(max_length=2)
    threshold = models.CharField(max_length=256)
    since = models.DateTimeField()  # from when the condition has held
    fired_at = models.DateTimeField()
    value = models.JSONField()
    last_at = models.DateTimeField()
    last_value = models.JSONField()
    opened_at = models.DateTimeField(db_default=Now())
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolution = models.CharField(max_length=16, choices=Resolution, blank=True, db_default="")
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=254, blank=True, db_default="")
    snoozed_at = models.DateTimeField(null=True, blank=True)
    snoozed_by = models.CharField(max_length=254, blank=True, db_default="")
    snoozed_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["account", "-id"], name="events_alert_account"),
            models.Index(
                fields=["account", "-id"],
                condition=models.Q(resolved_at=None),
                name="events_alert_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {self.threshold}"

    def state_now(self, *, now: datetime) -> "Alert.State":
        """A snooze that has run out is over before anybody says so."""
        if self.resolved_at is not None:
            return self.State.RESOLVED
        if self.snoozed_until is not None and now < self.snoozed_until:
            return self.State.SNOOZED
        return self.State.FIRING if self.acknowledged_at is None else self.State.ACKNOWLEDGED


class AlertState(models.Model):
    """Where one rule stands with one device, tag and key path; what is quiet has no row.

    Read and written in the batch that stores the values (events/evaluation.py). `since`: from when the condition has
    held. `config_version`: of the configuration it was judged by. `key_digest` stands for the key, which is too long
    for an index.
    """

    class Phase(models.TextChoices):
        PENDING = "pending", _("pending")
        FIRING = "firing", _("firing")

    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, related_name="states")
    device_key = models.BigIntegerField(db_index=True)
    tag = models.CharField(max_length=64, blank=True)
    key = models.TextField()
    key_digest = models.BigIntegerField()
    phase = models.CharField(max_length=7, choices=Phase)
    since = models.DateTimeField()
    last_at = models.DateTimeField()
    alert = models.OneToOneField(
        Alert, on_delete=models.CASCADE, null=True, blank=True, related_name="state_row"
    )
    config_version = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "device_key", "tag", "key_digest"], name="events_state_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.phase}"


class Comment(models.Model):
    """What a person or program said of an alert."""

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="comments")
    text = models.CharField(max_length=2000)
    by = models.CharField(max_length=254)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.by}: {self.text[:40]}"


class Notification(models.Model):
    """That somebody is to be told of an alert; written with the alert itself, sent later, in this order."""

    class Kind(models.TextChoices):
        FIRING = "firing", _("firing")
        RESOLVED = "resolved", _("resolved")

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="notifications")
    kind = models.CharField(max_length=8, choices=Kind)
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["id"], condition=models.Q(sent_at=None), name="events_notification_unsent")
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.alert_id}"
