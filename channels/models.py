"""Channels: logical time-series stores of schema-less records, their tags and streams."""

from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from tokens.models import Account


class Channel(models.Model):
    """A store that devices are mapped to. `number` is the id the client chose; the key is never reused.

    A deleted channel stays as a tombstone until its records are purged; its number is free at once.
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="channels")
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=64, blank=True)
    retention_days = models.PositiveSmallIntegerField(default=90)
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    config_version = models.BigIntegerField(default=0, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "number"],
                condition=models.Q(deleted_at=None),
                name="channels_number_unique",
            ),
            models.CheckConstraint(
                condition=models.Q(retention_days__gte=1, retention_days__lte=3650),
                name="channels_retention_range",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.number} {self.name}".strip()

    @property
    def retention(self) -> timedelta:
        return timedelta(days=self.retention_days)


class Tag(models.Model):
    """A sub-series of a channel; comes into being when first used."""

    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["channel", "name"], name="channels_tag_unique")]

    def __str__(self) -> str:
        return self.name


class Stream(models.Model):
    """One key path of a channel's metrics, levels joined by `:`, with a label and unit for people."""

    class Type(models.TextChoices):
        NUMBER = "number", _("number")
        STRING = "string", _("text")
        BOOLEAN = "boolean", _("yes or no")
        MIXED = "mixed", _("mixed")

    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="streams")
    key = models.CharField(max_length=1000)
    label = models.CharField(max_length=128, blank=True)
    unit = models.CharField(max_length=32, blank=True)
    type = models.CharField(max_length=8, choices=Type)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["channel", "key"], name="channels_stream_unique")]

    def __str__(self) -> str:
        return self.key


class Latest(models.Model):
    """The newest record of each device, channel, tag and shape: "now" without a look at the records.

    `shape` tells messages with different top-level keys apart, so that a device which sends `cpu` and `disk`
    in turns keeps the newest of both. Written by the writer of streams only.
    """

    pk = models.CompositePrimaryKey("device_key", "channel_key", "tag", "shape")
    device_key = models.BigIntegerField()
    channel_key = models.BigIntegerField()
    tag = models.CharField(max_length=64, default="")  # empty: no tag, since a key cannot hold NULL
    shape = models.IntegerField()
    at = models.DateTimeField()
    digest = models.BigIntegerField()
    form = models.SmallIntegerField()
    value = models.JSONField()

    class Meta:
        # No index may hold what each message changes: its updates then stay within their page.
        indexes = [models.Index(fields=["channel_key"], name="channels_latest_of_channel")]

    def __str__(self) -> str:
        return f"{self.device_key} in {self.channel_key}"
