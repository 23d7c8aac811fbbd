"""What is monitored: devices, what became of their messages, and ids that knocked in vain."""

from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from tokens.models import Account


class Device(models.Model):
    """A server or instance; `device_id` is the serial it chose. The key is never reused.

    A deleted device stays as a tombstone, since its records may outlive it; its id is free at once.
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="devices")
    device_id = models.CharField(max_length=64)
    description = models.CharField(max_length=256, blank=True)
    enabled = models.BooleanField(default=False)
    pending = models.BooleanField(default=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.SET_NULL, null=True, blank=True, related_name="devices"
    )
    device_type = models.CharField(max_length=64, blank=True)
    location = models.CharField(max_length=128, blank=True)
    manufacturer = models.CharField(max_length=64, blank=True)
    replay_when_mapped = models.BooleanField(default=False)
    state = models.JSONField(null=True, blank=True)
    activate_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    # A tombstone whose records are to go, too: streams/retention.py removes them and reports here.
    purge_wanted = models.BooleanField(default=False, db_default=False)
    purged_at = models.DateTimeField(null=True, blank=True)
    purged_records = models.BigIntegerField(default=0, db_default=0)
    config_version = models.BigIntegerField(default=0, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "device_id"], condition=models.Q(deleted_at=None), name="devices_id_unique"
            )
        ]

    def __str__(self) -> str:
        return self.device_id


class DeviceTraffic(models.Model):
    """What became of a device's messages and when it was last heard, one row per writing process.

    received = stored + duplicate + refused + limited, always.
    """

    pk = models.CompositePrimaryKey("device_key", "writer")
    device_key = models.BigIntegerField()
    writer = models.CharField(max_length=32)
    received = models.BigIntegerField(default=0)
    stored = models.BigIntegerField(default=0)
    duplicate = models.BigIntegerField(default=0)
    refused = models.BigIntegerField(default=0)
    limited = models.BigIntegerField(default=0)
    last_seen = models.DateTimeField(null=True)
    # Smoothed distance between two messages, from which "online" is told; unknown until the second.
    usual_interval_s = models.FloatField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    received=models.F("stored")
                    + models.F("duplicate")
                    + models.F("refused")
                    + models.F("limited")
                ),
                name="devices_traffic_adds_up",
            )
        ]

    def __str__(self) -> str:
        return f"{self.device_key}/{self.writer}"


class RefusalCount(models.Model):
    """How often messages were refused, by reason. `device_key` 0: no device is known for them."""

    pk = models.CompositePrimaryKey("account_key", "device_key", "reason", "writer")
    account_key = models.BigIntegerField()
    device_key = models.BigIntegerField()
    reason = models.CharField(max_length=32)
    writer = models.CharField(max_length=32)
    count = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.reason}: {self.count}"


class UnknownDevice(models.Model):
    """An id that sent to an account closed for new devices, or one whose limit is reached."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="unknown_devices")
    device_id = models.CharField(max_length=64)
    reason = models.CharField(max_length=32)
    attempts = models.BigIntegerField(default=0)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "device_id"], name="devices_unknown_unique")
        ]

    def __str__(self) -> str:
        return self.device_id


class RefusedSignIn(models.Model):
    """A connection the broker refused, as its log told: usually a wrong password. Nothing secret is in it."""

    client_id = models.CharField(max_length=256, blank=True)
    address = models.CharField(max_length=64)
    reason = models.CharField(max_length=128)
    at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.client_id} from {self.address}"


class Session(models.Model):
    """A client of the broker, as its log told (`broker_log.py`); one that is gone when its subscription stays.

    `device_id` is what its subscription to commands said, `named_device` what its client id may say after the
    account's; neither need exist. `commands_for` lists the devices whose commands it takes.
    """

    broker = models.TextField()
    # No longer than a line of the broker's log, so that it fits into an index.
    client_id = models.TextField()
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="sessions")
    device_id = models.TextField(blank=True)
    named_device = models.TextField(blank=True)
    ipaddress = models.CharField(max_length=64)
    clean_sess = models.BooleanField()
    proto_ver = models.PositiveSmallIntegerField()
    keepalive = models.PositiveIntegerField()
    connected_at = models.DateTimeField()
    connected = models.BooleanField()
    takes_commands = models.BooleanField(default=False)
    commands_for = ArrayField(models.TextField(), default=list, blank=True)
    # Of the token in the topics of `commands_for`: they end with it.
    token_digest = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["broker", "client_id"], name="devices_session_unique")]
        indexes = [
            models.Index(fields=["account", "client_id"], name="devices_session_client"),
            models.Index(fields=["account", "device_id"], name="devices_session_device"),
            models.Index(fields=["account", "named_device"], name="devices_session_named"),
            GinIndex(fields=["commands_for"], name="devices_session_commands"),
        ]

    def __str__(self) -> str:
        return self.client_id


class BrokerFollowed(models.Model):
    """Until when the log of a broker was read that we do not run; what it said later is not known."""

    broker = models.TextField(primary_key=True)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return self.broker


class Command(models.Model):
    """A message to a device, and what is known of its way. The states are told in devices/commands.py."""

    class State(models.TextChoices):
        QUEUED = "queued", _("waiting")
        SENT = "sent", _("sent")
        DELIVERED = "delivered", _("delivered")
        EXPIRED = "expired", _("expired")

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="commands")
    payload = models.BinaryField()
    qos = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=9, choices=State)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["device", "-id"], name="devices_command_device"),
            models.Index(
                fields=["expires_at"], condition=models.Q(state="queued"), name="devices_command_queued"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk}: {self.state}"

    def state_now(self, *, now: datetime) -> str:
        """The state; what has run out is expired before the worker says so."""
        if self.state == self.State.QUEUED and self.expires_at <= now:
            return self.State.EXPIRED.value
        return self.state
