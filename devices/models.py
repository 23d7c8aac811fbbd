"""What is monitored: devices, what became of their messages, and ids that knocked in vain."""

from django.db import models

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
