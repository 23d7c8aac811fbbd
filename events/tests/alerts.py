"""Alerts for tests of reading, written past the write street."""

from typing import Any

from channels.models import Channel
from devices.models import Device
from events.models import Alert, Rule
from servwatch_site.tests.cast import NOW
from tokens.models import Account


def alert_add(
    account: Account, channel: Channel, device: Device, *, rule: Rule | None = None, **fields: Any
) -> Alert:
    """An open alert of the device, with a rule of its own unless one is given."""
    condition = {"operator": ">", "threshold": "90"}
    if rule is None:
        rule = Rule.objects.create(account=account, channel=channel, source="cpu", enabled=True, **condition)
    given: dict[str, Any] = {
        "key": "cpu",
        "severity": "warning",
        "since": NOW,
        "fired_at": NOW,
        "value": 95.5,
        "last_at": NOW,
        "last_value": 96,
        **condition,
    }
    given |= {"account": account, "rule": rule, "channel": channel, "device_key": device.pk}
    return Alert.objects.create(**given | fields)
