"""Alerts: one row per firing, where each stands at the moment, and what people said of it."""

from datetime import datetime

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from events.models.rules import Rule, Severity
from tokens.models import Account


class Cause(models.TextChoices):
    """What made a rule fire."""

    VALUE = "value", _("a value")
    SILENCE = "silence", _("no data")
    TREND = "trend", _("a trend")


class Alert(models.Model):
    """One firing of a rule: for one device, tag and key path, from when it fired until it was resolved.

    Times are of measurement, but `opened_at` and `notified_at`, when somebody was told last. `resolution` says why it
    ended; severity and condition are those it fired with. `device_key` of records without a device is the channel's
    own, negative. Of a silent device `key` is "", of a silent stream its path; `value` is then null.
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
        VANISHED = "vanished", _("the value is no longer reported")

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
    cause = models.CharField(max_length=7, choices=Cause, default=Cause.VALUE, db_default=Cause.VALUE)
    severity = models.CharField(max_length=8, choices=Severity)
    operator = models.CharField(max_length=2)
    threshold = models.CharField(max_length=256)
    since = models.DateTimeField()  # from when the condition has held
    fired_at = models.DateTimeField()
    value = models.JSONField()
    last_at = models.DateTimeField()
    last_value = models.JSONField()
    opened_at = models.DateTimeField(db_default=Now())
    notified_at = models.DateTimeField(null=True, blank=True)
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
            models.Index(fields=["rule", "device_key", "-id"], name="events_alert_instance"),
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
    """Where one rule stands with one device, tag, key path and cause; what is quiet has no row.

    Read and written in the batch that stores the values (events/evaluation.py); silence and trends begin in the
    worker. `since`: from when the condition has held. `config_version`: of the configuration it was judged by.
    `key_digest` stands for the key, which is too long for an index. Of silence `last_at` is when it was heard last.
    """

    class Phase(models.TextChoices):
        PENDING = "pending", _("pending")
        FIRING = "firing", _("firing")

    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, related_name="states")
    device_key = models.BigIntegerField(db_index=True)
    tag = models.CharField(max_length=64, blank=True)
    key = models.TextField()
    key_digest = models.BigIntegerField()
    cause = models.CharField(max_length=7, choices=Cause, default=Cause.VALUE, db_default=Cause.VALUE)
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
                fields=["rule", "device_key", "tag", "key_digest", "cause"], name="events_state_unique"
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
