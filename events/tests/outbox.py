"""Notifications on their way out, with a clock that the test moves."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

from events.http_client import HttpClient
from events.models import Alert, Delivery, DeliveryItem, Notification, Notifier, Rule
from events.notifiers_store import KEEP_TRYING, notifier_create, notifiers_of_rule
from events.sending import DatabaseThread, Sender, deliveries_give_up
from events.tests.alerts import alert_add
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import CommittedTestCase

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1")]


class Outgoing:
    """A sender of its own; `now` is its time."""

    def __init__(self, *, now: datetime = NOW, **http: Any) -> None:
        self.now = now
        self._http = {"allow": LOOPBACK, **http}

    def send(self) -> int:
        """Send all that is due now; returns how many attempts there were."""
        return asyncio.run(self._send())

    async def _send(self) -> int:
        http, database = HttpClient(**self._http), DatabaseThread()
        sender = Sender(http=http, database=database, clock=lambda: self.now, seed=1)
        try:
            await database.run(deliveries_give_up, now=self.now)
            return await sender.drain()
        finally:
            await sender.close(grace_s=5)
            await http.close()
            await database.close()


class OutboxTestCase(CommittedTestCase):
    """The cast, committed, and a sender whose clock stands at NOW."""

    def setUp(self) -> None:
        super().setUp()
        self.outgoing = Outgoing()

    def notifier(self, kind: str = "webhook", *, settings: Mapping[str, Any], **fields: Any) -> Notifier:
        return notifier_create(self.owner, kind=kind, settings=settings, **fields)

    def rule(self, *notifiers: Notifier, **fields: Any) -> Rule:
        """An enabled rule that tells these."""
        condition = {"channel": self.servers, "source": "cpu", "operator": ">", "threshold": "90"}
        rule = Rule.objects.create(account=self.owner, enabled=True, **condition | fields)
        rule.notifiers.set(notifiers)
        return rule

    def fire(self, rule: Rule, *kinds: str, **fields: Any) -> Alert:
        """An alert of the rule, and deliveries of these notifications, `firing` without any."""
        alert = alert_add(self.owner, self.servers, self.web1, rule=rule, **fields)
        for kind in kinds or ("firing",):
            self.tell(alert, kind)
        return alert

    def tell(self, alert: Alert, kind: str) -> None:
        """A delivery to each notifier of the alert's rule, as settling makes them."""
        now = self.outgoing.now
        notification = Notification.objects.create(alert=alert, kind=kind, settled_at=now, outcome="sent")
        for notifier in notifiers_of_rule(alert.rule):
            times = {"created_at": now, "next_at": now, "expires_at": now + KEEP_TRYING}
            delivery = Delivery.objects.create(
                account=self.owner, notifier=notifier, rule=alert.rule, **times
            )
            DeliveryItem.objects.create(delivery=delivery, notification=notification, alert=alert)

    def later(self, **by: float) -> None:
        self.outgoing.now += timedelta(**by)

    def to_next(self) -> None:
        """Move the clock to when something is due again."""
        pending = Delivery.objects.filter(status="pending").select_related("notifier")
        now = self.outgoing.now
        self.outgoing.now = max(now, min(max(row.next_at, row.notifier.retry_at or now) for row in pending))

    def statuses(self) -> list[str]:
        return list(Delivery.objects.order_by("pk").values_list("status", flat=True))


def lookup_of(addresses: Callable[[str], str]) -> Callable[..., list[Any]]:
    """A name service that answers with one address; a test's own."""

    def look_up(host: str, port: int, **_more: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses(host), port))]

    return look_up
