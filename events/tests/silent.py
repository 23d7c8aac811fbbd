"""A fleet whose silence is judged by a clock that the test moves."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from events.models import Alert, AlertState, Rule
from events.services import rule_create
from events.silence import Ingest, Pause, SilenceCheck, Way
from events.tests.street import AlertsTestCase
from streams.newest import records_newest
from streams.plan import Incoming


class SilenceTestCase(AlertsTestCase):
    """Times are seconds after a minute ago, as in AlertsTestCase; `say` is received at its own time."""

    def setUp(self) -> None:
        super().setUp()
        self.check = SilenceCheck()
        self.pauses: list[Pause] = []

    def silence_rule(self, absent_s: int | None = 60, **more: Any) -> Rule:
        changes = {"channel": self.servers, "absent_s": absent_s}
        return rule_create(self.owner, changes=changes | more)

    def hear(
        self,
        value: Any,
        *,
        at_s: float,
        received_s: float | None = None,
        device: str = "web-1",
        tag: str | None = None,
    ) -> None:
        """One message in a batch of its own, measured at `at_s` and received then unless told otherwise."""
        self.street.process([self.heard(value, at_s=at_s, received_s=received_s, device=device, tag=tag)])

    def heard(
        self,
        value: Any,
        *,
        at_s: float,
        received_s: float | None = None,
        device: str = "web-1",
        tag: str | None = None,
    ) -> Incoming:
        body = json.dumps({"at": self.at(at_s).isoformat(), "value": value}).encode()
        topic = f"{self.device_token}/json/{device}" + (f"/{tag}" if tag else "")
        return Incoming(topic, body, self.at(at_s if received_s is None else received_s))

    def look(self, now_s: float, *, until_s: float | None = None, check: SilenceCheck | None = None) -> int:
        """What the worker's loop does; the intake has come as far as the clock unless told otherwise."""
        until = self.at(now_s if until_s is None else until_s)
        way = Way(until, self.pauses)
        return (check or self.check).check(now=self.at(now_s), ingest=Ingest(way, way, records_newest))

    def pause(self, began_s: float, ended_s: float) -> None:
        self.pauses.append(Pause(self.at(began_s), self.at(ended_s)))

    def silent(self) -> list[tuple[str, str]]:
        """Tag and key path of all that is silent."""
        rows = AlertState.objects.filter(cause="silence").order_by("tag", "key")
        return list(rows.values_list("tag", "key"))

    def told(self) -> list[tuple[str, str, str]]:
        """Cause, key path and what became of each alert."""
        return [(a.cause, a.key, a.resolution or "firing") for a in Alert.objects.order_by("pk")]


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
