import json
import random
from datetime import UTC, datetime, timedelta
from decimal import localcontext
from typing import Any

from devices.models import Device
from devices.services import device_create
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import StreetTestCase
from streams.models import RollupMark
from streams.rollup_rows import HOURS, MINUTES
from streams.rollups import rollups_make
from streams.tests.rolled import expected_rows, stored_rows

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class RollupCase(StreetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = datetime.now(UTC).replace(minute=5, second=30, microsecond=0) - HOUR
        self.random = random.Random(7)

    def device(self, name: str, *, channel: Any = None) -> Device:
        changes = {"enabled": True, "channel": channel or self.servers}
        return device_create(self.owner, name, now=NOW, changes=changes)

    def store(self, device: str, *measured: tuple[datetime, Any], tag: str = "") -> None:
        envelopes = [{"at": at.isoformat(), "value": value} for at, value in measured]
        topic = f"json/{device}/{tag}".rstrip("/")
        (outcomes,) = self.street.process([self.incoming(topic, json.dumps(envelopes))])
        assert {outcome.status for outcome in outcomes} == {"stored"}

    def roll(self) -> None:
        assert rollups_make(now=lambda: self.now)

    def assert_right(self) -> datetime:
        """Every row is what the records say, and there is no other row; returns the border."""
        border = RollupMark.objects.get().rolled_until
        assert border is not None
        with localcontext(prec=200):
            assert stored_rows(MINUTES) == expected_rows(MINUTE, until=border)
            assert stored_rows(HOURS) == expected_rows(HOUR, until=border.replace(minute=0))
        return border

    def metrics(self) -> Any:
        number = self.random.choice(
            [lambda: self.random.randrange(1000), lambda: round(self.random.random(), 3)]
        )
        kinds: list[Any] = [
            lambda: {"cpu": {"user": number(), "idle": number()}, "load1": number(), "up": True},
            lambda: {
                "cpu": {"user": number()},
                "disks": {"a:b": {"used": number()}, "/": {"used": number()}},
            },
            lambda: {"temps": [number(), number(), "off"], "fans": [{"rpm": number()}, {"rpm": [number()]}]},
            lambda: {"up": self.random.choice([True, False, 1, "yes", None]), "load1": 10**30},
            lambda: {"value": number()},
            lambda: {"host": "a"},
            number,
        ]
        return self.random.choice(kinds)()


class RollTest(RollupCase):
    def test_rows_say_what_the_records_say(self) -> None:
        for name in ("web-2", "web-3"):
            self.device(name)
        begin = self.now - 3 * HOUR
        for name in ("web-1", "web-2", "web-3"):
            for tag in ("", "blue"):
                times = (begin + self.random.random() * 3 * HOUR for _ in range(60))
                self.store(name, *((at, self.metrics()) for at in times), tag=tag)
        self.roll()
        assert self.assert_right() == self.now - 30 * SECOND
        self.now += 10 * MINUTE
        self.store("web-1", (self.now - 5 * MINUTE, {"load1": 3}), (self.now - 3 * HOUR, {"load1": 4}))
        self.roll()
        assert self.assert_right() == self.now - 30 * SECOND
