"""Rules held against messages that go down the real write street."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from events.models import Alert, AlertState, Notification, Rule
from events.services import rule_create
from servwatch_site.tests.street import StreetTestCase
from streams.plan import Incoming


class AlertsTestCase(StreetTestCase):
    """The owner's device `web-1` in channel 0, and rules on it."""

    def setUp(self) -> None:
        super().setUp()
        self.begin = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=60)

    def rule(self, source: str = "cpu", operator: str = ">", threshold: str = "90", **more: Any) -> Rule:
        """An enabled rule of channel 0 unless `channel` says otherwise."""
        changes = {"channel": self.servers, "source": source, "operator": operator, "threshold": threshold}
        return rule_create(self.owner, changes=changes | more)

    def message(self, value: Any, *, at_s: float, device: str = "web-1", tag: str | None = None) -> Incoming:
        """One that was measured so many seconds after a minute ago."""
        body = json.dumps({"at": self.at(at_s).isoformat(), "value": value})
        return self.incoming(f"json/{device}" + (f"/{tag}" if tag else ""), body)

    def at(self, at_s: float) -> datetime:
        return self.begin + timedelta(seconds=at_s)

    def say(self, value: Any, *, at_s: float, device: str = "web-1", tag: str | None = None) -> None:
        """One message in a batch of its own."""
        self.street.process([self.message(value, at_s=at_s, device=device, tag=tag)])

    def alerts(self) -> list[str]:
        """What became of each alert, in the order they began: `firing`, or why it was resolved."""
        return [alert.resolution or "firing" for alert in Alert.objects.order_by("pk")]

    def notified(self) -> list[str]:
        return list(Notification.objects.order_by("pk").values_list("kind", flat=True))

    def standing(self) -> list[tuple[str, str]]:
        """Key path and phase of all that is not quiet."""
        return list(AlertState.objects.order_by("key").values_list("key", "phase"))
