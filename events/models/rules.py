"""Rules: a condition on one stream of one channel, and who is to be told."""

from django.db import models
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
    None: recovers at the threshold itself. `absent_s`: fires, too, when nothing came for so long, 0 for as long as
    is usual; None: never. `ahead_s`: fires when by its trend the value will meet the condition within so many
    seconds. `stock`: the key of the stock rule it was made from. A rule that is deleted stays, since its alerts
    outlive it.
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
    ahead_s = models.PositiveIntegerField(null=True, blank=True)
    repeat_s = models.PositiveIntegerField(null=True, blank=True)
    stock = models.CharField(max_length=32, blank=True, db_default="")
    notifiers = models.ManyToManyField("events.Notifier", blank=True, related_name="rules")
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    # The configuration version of the last change that gave the condition another meaning.
    condition_version = models.BigIntegerField(default=0)
    config_version = models.BigIntegerField(default=0, db_index=True)

    def __str__(self) -> str:
        return f"{self.source} {self.operator} {self.threshold}"
