"""Accounts, the people who sign in for them, API tokens and device tokens."""

from datetime import datetime
from typing import ClassVar
from zoneinfo import ZoneInfo, available_timezones

from django.contrib.auth.base_user import BaseUserManager
from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Lower
from django.utils.translation import gettext_lazy as _

from tokens.crypto import decrypt


def validate_zone(name: str) -> None:
    if name not in available_timezones():
        raise ValidationError(
            _("%(name)s is not a time zone. Use a name such as Asia/Tokyo."), params={"name": name}
        )


class ConfigVersion(models.Model):
    """One row. Its number grows with every change the write street must know of.

    A change locks this row until it commits, so that a reader who sees version n has every change up to n.
    """

    version = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.version)


class Account(models.Model):
    """One customer: owns tokens, devices and channels."""

    class NewDevices(models.TextChoices):
        OPEN = "open", _("Open: enable every new device")
        APPROVE = "approve", _("Approve: list new devices until somebody approves them")
        CLOSED = "closed", _("Closed: refuse devices that were not created beforehand")

    user_id = models.CharField(max_length=7, unique=True)
    user_alias = models.CharField(max_length=64, blank=True)
    organization = models.CharField(max_length=128, blank=True)
    email1 = models.EmailField(blank=True)
    email2 = models.EmailField(blank=True)
    locale = models.CharField(max_length=64, default="UTC", validators=[validate_zone])
    new_devices = models.CharField(max_length=8, choices=NewDevices, default=NewDevices.OPEN)
    default_channel = models.PositiveIntegerField(null=True, blank=True)
    max_devices = models.PositiveIntegerField(default=10_000)
    # Requests in one second of the wall clock; 0 is no limit.
    api_per_second = models.PositiveSmallIntegerField(default=3)  # for each API token
    connector_per_second = models.PositiveSmallIntegerField(default=1)  # for each device over HTTP
    kept_refused_rows = models.PositiveIntegerField(default=100_000)
    kept_refused_bytes = models.PositiveBigIntegerField(default=256 * 1024 * 1024)
    kept_refused_days = models.PositiveSmallIntegerField(default=30)
    created_at = models.DateTimeField(auto_now_add=True)
    config_version = models.BigIntegerField(default=0, db_index=True)

    def __str__(self) -> str:
        return self.user_id

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.locale)


class UserManager(BaseUserManager["User"]):
    """Users are known by e-mail address."""

    def create_user(
        self, *, email: str, account: Account | None = None, password: str | None = None
    ) -> "User":
        user = self.model(email=self.normalize_email(email), account=account)
        user.set_password(password)  # None makes it unusable: sign in by link, then choose one
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None) -> "User":
        user = self.model(email=self.normalize_email(email), is_staff=True, is_superuser=True)
        user.set_password(password)
        user.save(using=self._db)
        return user


class User(AbstractUser):
    """A person who signs in to the console of one account."""

    username = None  # type: ignore[assignment]  # the e-mail address is the name
    email = models.EmailField(_("e-mail address"), unique=True)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, null=True, related_name="users")

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = UserManager()  # type: ignore[assignment,misc]  # users have no username here

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="tokens_user_email_unique")]

    def __str__(self) -> str:
        return self.email


class DeviceToken(models.Model):
    """What an account's devices show to the broker and the HTTP connector, and the first level of their topics.

    Found by a keyed digest, kept encrypted because the console must be able to show it again.
    A replaced token keeps its row: messages the broker had accepted under it are still on their way.
    `overlap_until`: so long the HTTP connector goes on taking a replaced one.
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="device_tokens")
    digest = models.CharField(max_length=64, unique=True)
    ciphertext = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    overlap_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"], condition=models.Q(revoked_at=None), name="tokens_one_device_token"
            )
        ]

    def __str__(self) -> str:
        return f"device token of {self.account_id}"

    def reveal(self) -> str:
        return decrypt(self.ciphertext)


class ApiToken(models.Model):
    """Authorises REST. Only its digest is kept; `hint` is the beginning, to tell tokens apart."""

    class Scope(models.TextChoices):
        READ = "read", _("read")
        WRITE = "write", _("write")
        ADMIN = "admin", _("admin")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=64)
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=4)
    scopes = ArrayField(models.CharField(max_length=8, choices=Scope))
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    def is_valid(self, *, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class AccountTraffic(models.Model):
    """What became of an account's messages, one row per writing process.

    received = stored + duplicate + refused + limited, always. `account_key` 0 counts messages whose token
    belongs to nobody. Summed when read, so that writers never wait for each other's row.
    """

    pk = models.CompositePrimaryKey("account_key", "writer")
    account_key = models.BigIntegerField()
    writer = models.CharField(max_length=32)
    received = models.BigIntegerField(default=0)
    stored = models.BigIntegerField(default=0)
    duplicate = models.BigIntegerField(default=0)
    refused = models.BigIntegerField(default=0)
    limited = models.BigIntegerField(default=0)
    repeated_keys = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    received=models.F("stored")
                    + models.F("duplicate")
                    + models.F("refused")
                    + models.F("limited")
                ),
                name="tokens_traffic_adds_up",
            )
        ]

    def __str__(self) -> str:
        return f"{self.account_key}/{self.writer}"
