"""The small cast most tests need: an owner, a stranger, two channels, a mapped and a new device."""

from datetime import UTC, datetime
from typing import Any

from django.test import TestCase

from channels.models import Channel
from channels.services import channel_create
from devices.models import Device
from devices.services import device_create
from tokens.models import Account, ConfigVersion, User
from tokens.selectors import device_token_reveal
from tokens.services import account_create, api_token_issue, user_create

NO_LIMITS: dict[str, Any] = {"api_per_second": 0, "connector_per_second": 0}  # tests ask as fast as they can
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


class Cast:
    """Owner (Alice) and stranger (Mallory), each with tokens; the owner's channels 0 and 7, a mapped device
    `web-1` and a new one `new-1`."""

    owner: Account
    stranger: Account
    alice: User
    mallory: User
    api_token: str
    read_token: str
    strange_token: str
    device_token: str
    servers: Channel
    backups: Channel
    web1: Device
    new1: Device

    @classmethod
    def make_cast(cls) -> None:
        ConfigVersion.objects.get_or_create(pk=1)  # a test before that had its own transactions took it away
        cls.owner = account_create(
            organization="Alice Hosting", email="alice@example.org", locale="Asia/Tokyo", **NO_LIMITS
        )
        cls.stranger = account_create(organization="Mallory Ltd", email="mallory@example.org", **NO_LIMITS)
        cls.alice = user_create(email="alice@example.org", account=cls.owner)
        cls.mallory = user_create(email="mallory@example.org", account=cls.stranger)
        cls.api_token = api_token_issue(cls.owner, name="test", scopes=["read", "write", "admin"])[1]
        cls.read_token = api_token_issue(cls.owner, name="reader", scopes=["read"])[1]
        cls.strange_token = api_token_issue(cls.stranger, name="test", scopes=["read", "write", "admin"])[1]
        cls.device_token = device_token_reveal(cls.owner)
        cls.servers = channel_create(cls.owner, 0, name="Servers")
        cls.backups = channel_create(cls.owner, 7, name="Backups")
        front = {"enabled": True, "channel": cls.servers, "description": "front"}
        cls.web1 = device_create(cls.owner, "web-1", now=NOW, changes=front)
        cls.new1 = device_create(cls.owner, "new-1", now=NOW)


class BaseTestCase(Cast, TestCase):
    """Brings the cast; what a test needs beyond it, the test makes."""

    @classmethod
    def setUpTestData(cls) -> None:
        cls.make_cast()
