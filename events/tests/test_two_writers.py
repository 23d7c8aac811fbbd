"""Messages of one device may pass through two writers at once: whoever commits first, the alerts end right."""

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from unittest.mock import patch

from django.db import connection, connections
from django.utils import timezone

from devices.services import device_update
from events.conditions import Comparison
from events.evaluation import scalars_at
from events.models import Alert, AlertState, Notification, Rule
from events.services import alert_acknowledge, rule_update
from events.tests.street import AlertsTestCase
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.waiting import wait_until
from streams.pipeline import Street
from streams.plan import Incoming
from streams.tests.test_pipeline import records
from streams.writer import Writer

SAME: dict[str, Any] = {"cpu": 0}
OTHER: dict[str, Any] = {"cpu": 0, "mem": 1}  # of another shape, so that no row of latest values is shared
DEEPER: dict[str, Any] = {"cpu": 0, "disk": {"sda": 1}}


class TwoWritersTestCase(AlertsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.streets = [Street(Writer(name=f"writer-{number}")) for number in range(2)]
        self.pool = self.enterContext(ThreadPoolExecutor(2))
        self.addCleanup(self.close)

    def close(self) -> None:
        for street in self.streets:
            street.writer.close()

    def submit(self, street: Street, batch: list[Incoming]) -> "Future[None]":
        def process() -> None:
            try:
                street.process(batch)
            finally:
                connections.close_all()

        return self.pool.submit(process)

    @contextmanager
    def uncommitted(self, street: Street, batch: list[Incoming]) -> Iterator[None]:
        """Everything of this batch is written, and committed only when the block ends."""
        written, go_on = threading.Event(), threading.Event()
        counters = street.writer._counters

        def wait(*arguments: Any) -> None:
            counters(*arguments)
            written.set()
            assert go_on.wait(30)

        with patch.object(street.writer, "_counters", wait):
            done = self.submit(street, batch)
            assert written.wait(30)
            try:
                yield
            finally:
                go_on.set()
                done.result(30)


class EitherOrderTest(TwoWritersTestCase):
    def waits_or_is_done(self, done: "Future[None]") -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name LIKE 'servwatch-writer-%' AND wait_event_type = 'Lock'"
            )
            (waiting,) = cursor.fetchone()
        return bool(waiting) or done.done()

    def end_with(self, first: Incoming, second: Incoming) -> None:
        """Write the first, then the second while the first is not committed yet."""
        with self.uncommitted(self.streets[0], [first]):
            done = self.submit(self.streets[1], [second])
            wait_until(lambda: self.waits_or_is_done(done), what="the second writer")
        done.result(30)

    def test_two_writers_with_one_device_end_right_in_either_order(self) -> None:
        """Beyond then within, and within then beyond; the same shape or another; the older or the newer first."""
        self.rule()
        for number, (shape, newer, newer_first) in enumerate(
            itertools.product((SAME, OTHER, DEEPER), (95, 5), (False, True))
        ):
            with self.subTest(shape=shape, newer=newer, newer_first=newer_first):
                for street in self.streets:  # no shape is new
                    street.process(
                        [self.message({**known, "cpu": 5}, at_s=3 * number) for known in (SAME, shape)]
                    )
                before = Alert.objects.count()
                messages = [
                    self.message({**SAME, "cpu": 100 - newer}, at_s=3 * number + 1),
                    self.message({**shape, "cpu": newer}, at_s=3 * number + 2),
                ]
                self.end_with(*(reversed(messages) if newer_first else messages))
                assert len(self.standing()) == (newer == 95)
                began = list(Alert.objects.order_by("pk").values_list("resolution", flat=True))[before:]
                assert began == ([""] if newer == 95 else [] if newer_first else ["recovered"])

    def test_the_first_message_of_a_shape_is_seen_too(self) -> None:
        self.rule()
        for number, newer_first in enumerate((False, True)):
            messages = [
                self.message({"cpu": 95}, at_s=10 * number),
                self.message({"cpu": 5, f"new-{number}": 1}, at_s=10 * number + 1),
            ]
            self.end_with(*(reversed(messages) if newer_first else messages))
            assert self.standing() == []

    def test_both_begin_the_same_alert_once(self) -> None:
        self.rule()
        for first, second in ((0, 1), (11, 10)):
            self.end_with(
                self.message({**SAME, "cpu": 95}, at_s=first), self.message({**OTHER, "cpu": 96}, at_s=second)
            )
            assert Alert.objects.filter(resolved_at=None).count() == 1
            self.say({"cpu": 5}, at_s=9)
        assert Alert.objects.count() == 2

    def test_one_ends_while_the_other_goes_on(self) -> None:
        self.rule()
        self.say({"cpu": 95}, at_s=0)
        self.end_with(self.message({**SAME, "cpu": 96}, at_s=2), self.message({**OTHER, "cpu": 5}, at_s=1))
        assert self.alerts() == ["firing"]
        self.end_with(self.message({**OTHER, "cpu": 5}, at_s=3), self.message({**SAME, "cpu": 97}, at_s=4))
        assert self.alerts() == ["recovered", "firing"]


class InterleavingTest(TwoWritersTestCase):
    ROUNDS = 40

    def test_random_interleavings_never_leave_an_alert_that_contradicts_the_data(self) -> None:
        chance = random.Random(20261123)  # noqa: S311 - a test's chance
        device_update(self.new1, changes={"enabled": True, "channel": self.servers}, now=NOW)
        self.rules = [
            self.rule(),
            self.rule(clear_threshold="60"),
            self.rule(for_s=1),
            self.rule("disk:*", ">=", "90"),
            self.rule("mem", "<", "10", device=self.web1),
            self.rule("cpu", tag="rack"),
        ]
        moment = 0.0
        for _ in range(self.ROUNDS):
            messages = []
            for _ in range(chance.randrange(4, 30)):
                moment += 0.1
                messages.append(self.random_message(chance, moment))
            for number in range(
                len(messages) - 1
            ):  # somewhat out of order, as two ways through the broker are
                if chance.random() < 0.2:
                    messages[number], messages[number + 1] = messages[number + 1], messages[number]
            self.both_process(chance, messages)
            self.something_happens(chance)
            self.check()
        assert Notification.objects.filter(kind="firing").count() == Alert.objects.count() > 50

    def random_message(self, chance: random.Random, at_s: float) -> Incoming:
        value: dict[str, Any] = {}
        keys = chance.sample(("cpu", "mem", "disk"), chance.randrange(1, 4))
        for key in keys:
            number = chance.choice((5, 50, 70, 95))
            value[key] = {chance.choice(("sda", "sdb")): number} if key == "disk" else number
        device, tag = chance.choice(("web-1", "new-1")), chance.choice((None, None, "rack"))
        return self.message(value, at_s=at_s, device=device, tag=tag)

    def both_process(self, chance: random.Random, messages: list[Incoming]) -> None:
        """Each message goes one way, and now and then both."""
        ways: tuple[list[Incoming], list[Incoming]] = ([], [])
        for message in messages:
            chance.choice(ways).append(message)
            if chance.random() < 0.1:
                ways[0 if ways[1] and ways[1][-1] is message else 1].append(message)
        batches = [
            (street, way[start : start + 7])
            for street, way in zip(self.streets, ways, strict=True)
            for start in range(0, len(way), 7)
        ]
        by_street = {id(street): [b for s, b in batches if s is street] for street in self.streets}

        def work(street: Street) -> None:
            try:
                for batch in by_street[id(street)]:
                    street.process(batch)
            finally:
                connections.close_all()

        for done in [self.pool.submit(work, street) for street in self.streets]:
            done.result(60)

    def something_happens(self, chance: random.Random) -> None:
        what = chance.random()
        alert = Alert.objects.filter(resolved_at=None).order_by("?").first()
        if what < 0.2:
            self.streets[0].writer.close()
            self.streets[0] = Street(Writer(name="writer-0"))
        elif what < 0.4 and alert is not None:
            alert_acknowledge(alert, by="test", now=NOW)
        elif what < 0.6:
            rule = chance.choice(self.rules)
            rule_update(rule, changes={"severity": chance.choice(("info", "critical"))}, now=timezone.now())

    def check(self) -> None:
        """What stands is what the newest record of each key path says."""
        newest: dict[tuple[int, str], list[tuple[datetime, Any]]] = {}
        for device_key, _channel, at, tag, _form, value in records():
            newest.setdefault((device_key, tag or ""), []).append((at, value))
        standing = {(s.rule_id, s.device_key, s.tag, s.key): s for s in AlertState.objects.all()}
        for (device_key, tag), rows in newest.items():
            for rule, path in itertools.product(self.rules, ("cpu", "mem", "disk:sda", "disk:sdb")):
                levels = tuple(path.split(":"))
                said = [(at, scalars_at(value, levels)) for at, value in rows if scalars_at(value, levels)]
                state = standing.pop((rule.pk, device_key, tag, path), None)
                concerned = (
                    rule.source.split(":")[0] == levels[0]
                    and rule.tag in ("", tag)
                    and rule.device_id in (None, device_key)
                )
                if said and concerned:
                    self.check_one(rule, state, said[-1][1])
                else:
                    assert state is None
        assert standing == {}
        open_ = set(Alert.objects.filter(resolved_at=None).values_list("pk", flat=True))
        assert open_ == {s.alert_id for s in AlertState.objects.filter(phase="firing")}

    def check_one(self, rule: Rule, state: AlertState | None, newest: list[Any]) -> None:
        beyond = Comparison.of(rule.operator, rule.threshold).matches(newest[0])
        holds = Comparison.of(rule.operator, rule.clear_threshold or rule.threshold).matches(newest[0])
        if state is None:
            assert not beyond
        elif state.phase == "pending":
            assert beyond and rule.for_s
        else:
            assert holds
