"""Whatever happens in whatever order, no alert contradicts the data: judged by an oracle that knows no machine.

Each example is a story of a hundred seconds to some hours: two devices, two writers and two workers that may be begun
anew at any step. The oracle keeps nothing but what was sent and asks, after each step that should have settled things,
what must be open and what must not. Where the system may estimate (when a stream was received last) it allows for the
delay of messages.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels.services import channel_create
from devices.models import Device
from devices.services import device_create
from events.maintenance import maintenance_create
from events.models import Alert, AlertState, Delivery, DeliveryItem, Notification, Notifier, Rule
from events.services import alert_acknowledge, alert_snooze, rule_create, rule_delete, rule_update
from events.settling import settle_due
from events.silence import SilenceCheck
from events.tests.silent import SilenceTestCase
from servwatch_site.tests.cast import NOW
from streams.pipeline import Street
from streams.plan import Incoming
from streams.writer import Writer
from tokens.crypto import encrypt

ABSENT_S = 100
MOST_DELAY_S = 30
STEP_S = 7.0

DEVICE, SIDE = st.integers(0, 1), st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(
        st.just("say"),
        DEVICE,
        SIDE,
        st.sampled_from((5, 95)),
        st.booleans(),
        st.sampled_from((0, 0, 10, MOST_DELAY_S)),
    ),
    st.tuples(st.just("say"), DEVICE, SIDE, st.just(None), st.booleans(), st.just(0)),
    st.tuples(st.just("repeat"), SIDE, st.integers(0, 100)),
    st.tuples(st.just("wait"), st.sampled_from((10, 60, 110, 400))),
    st.tuples(st.just("look"), SIDE),
    st.tuples(st.just("settle")),
    st.tuples(st.just("edit"), st.integers(0, 2)),
    st.tuples(st.just("acknowledge")),
    st.tuples(st.just("snooze"), st.sampled_from((30, 300))),
    st.tuples(st.just("maintain"), st.sampled_from((30, 300))),
    st.tuples(st.just("restart"), SIDE),
)


@dataclass
class Said:
    """What was sent of a device: (measured, received, value of cpu or None, whether gpu was in it)."""

    messages: list[tuple[float, float, int | None, bool]] = field(default_factory=list)
    received_s: float | None = None  # repetitions included


class Oracle:
    """Knows what was sent and when rules were changed; nothing of how alerts are made."""

    def __init__(self) -> None:
        self.said: dict[int, Said] = defaultdict(Said)
        self.changed_s = [0.0, 0.0, 0.0]

    def value_is_open(self, device_key: int) -> bool:
        values = [
            (at, received, cpu) for at, received, cpu, _ in self.said[device_key].messages if cpu is not None
        ]
        if not values:
            return False
        _at, received, cpu = max(values)
        return cpu > 90 and received > self.changed_s[0]

    def device_is_silent(self, device_key: int, now_s: float) -> bool:
        received = self.said[device_key].received_s
        return received is not None and now_s - received >= ABSENT_S

    def stream_is_silent(self, device_key: int, now_s: float) -> bool | None:
        """None: it may be or not, for delays blur it."""
        received = [r for _, r, _, gpu in self.said[device_key].messages if gpu and r > self.changed_s[2]]
        if not received:
            return False
        passed = now_s - max(received)
        if passed < ABSENT_S - MOST_DELAY_S:
            return False
        return True if passed >= ABSENT_S + 2 * MOST_DELAY_S else None


class Story:
    """One example, in a channel of its own."""

    numbers = count(100)

    def __init__(self, case: "PropertyTest") -> None:
        self.case, self.oracle, self.now_s = case, Oracle(), 0.0
        number = next(self.numbers)
        self.channel = channel_create(case.owner, number)
        mapped = {"enabled": True, "channel": self.channel}
        self.devices = [
            device_create(case.owner, f"d{number}-{place}", now=NOW, changes=mapped) for place in range(2)
        ]
        value: dict[str, Any] = {"source": "cpu", "operator": ">", "threshold": "90"}
        self.rules = [
            self.rule(value),
            self.rule({"absent_s": ABSENT_S}),
            self.rule({"source": "gpu", "absent_s": ABSENT_S}),
        ]
        self.looked_s = 0.0
        self.sent: list[tuple[Device, bytes]] = []

    def rule(self, changes: dict[str, Any]) -> Rule:
        rule = rule_create(self.case.owner, changes=changes | {"channel": self.channel})
        rule.notifiers.add(self.case.notifier)
        return rule

    @property
    def now(self) -> datetime:
        return self.case.at(self.now_s)

    def run(self, steps: list[tuple[Any, ...]]) -> None:
        try:
            for name, *arguments in steps:
                self.now_s += STEP_S
                getattr(self, name)(*arguments)
                self.check_values()
            self.end()
        finally:
            for rule in self.rules:
                rule_delete(rule, now=self.now)

    # --- what can happen ---

    def say(self, place: int, side: int, cpu: int | None, gpu: bool, delay_s: float) -> None:
        device, at_s = self.devices[place], self.now_s - delay_s
        value = {"load": 1} | ({} if cpu is None else {"cpu": cpu}) | ({"gpu": 1} if gpu else {})
        message = self.case.heard(value, at_s=at_s, received_s=self.now_s, device=device.device_id)
        self.sent.append((device, message.payload))
        self.case.streets[side].process([message])
        said = self.oracle.said[device.pk]
        if at_s not in [at for at, *_ in said.messages]:
            said.messages.append((at_s, self.now_s, cpu, gpu))
        else:  # of two messages with one time nobody knows which is the newer
            said.messages = [m for m in said.messages if m[0] != at_s] + [(at_s, self.now_s, cpu, gpu)]
        said.received_s = self.now_s

    def repeat(self, side: int, place: int) -> None:
        if not self.sent:
            return
        device, payload = self.sent[place % len(self.sent)]
        topic = f"{self.case.device_token}/json/{device.device_id}"
        self.case.streets[side].process([Incoming(topic, payload, self.now)])
        self.oracle.said[device.pk].received_s = self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def look(self, side: int) -> None:
        self.case.look(self.now_s, check=self.case.checks[side])
        self.check_silences()

    def settle(self) -> None:
        settle_due(now=self.now)

    def edit(self, place: int) -> None:
        rule = self.rules[place]
        rule_update(rule, changes={"clear_threshold": None, "for_s": 0, **self.other(rule)}, now=self.now)
        self.oracle.changed_s[place] = self.now_s

    def other(self, rule: Rule) -> dict[str, Any]:
        """A condition that is another and means the same to this test."""
        if rule.absent_s is None:
            return {"threshold": "91" if rule.threshold == "90" else "90"}
        return {"for_s": 1 - rule.for_s}

    def acknowledge(self) -> None:
        for alert in self.open()[:1]:
            alert_acknowledge(alert, by="test", now=self.now)

    def snooze(self, seconds: float) -> None:
        for alert in self.open()[-1:]:
            alert_snooze(alert, until=self.now + timedelta(seconds=seconds), by="test", now=self.now)

    def maintain(self, seconds: float) -> None:
        times = {"starts_at": self.now, "ends_at": self.now + timedelta(seconds=seconds)}
        maintenance_create(
            self.case.owner, changes=times | {"channel": self.channel}, by="test", now=self.now
        )

    def restart(self, side: int) -> None:
        self.case.streets[side].writer.close()
        self.case.streets[side] = Street(Writer(name=f"test-{side}"))
        self.case.checks[side] = SilenceCheck()

    # --- what must be ---

    def open(self) -> list[Alert]:
        return list(Alert.objects.filter(channel=self.channel, resolved_at=None).order_by("pk"))

    def check_values(self) -> None:
        found = {a.device_key for a in self.open() if a.rule_id == self.rules[0].pk}
        assert found == {d.pk for d in self.devices if self.oracle.value_is_open(d.pk)}
        states = AlertState.objects.filter(rule__in=self.rules)
        assert {a.pk for a in self.open()} == {s.alert_id for s in states if s.phase == "firing"}

    def check_silences(self) -> None:
        silent = {(a.rule_id, a.device_key) for a in self.open() if a.cause == "silence"}
        for device in self.devices:
            found = (self.rules[1].pk, device.pk) in silent
            assert found == self.oracle.device_is_silent(device.pk, self.now_s)
            expected = self.oracle.stream_is_silent(device.pk, self.now_s)
            assert expected in (None, (self.rules[2].pk, device.pk) in silent)

    def end(self) -> None:
        """After everything that damps has passed, everybody was told of how it ended."""
        self.now_s += 3_600
        self.look(0)
        for _ in range(3):
            self.now_s += 1_000
            settle_due(now=self.now)
        for alert in Alert.objects.filter(channel=self.channel).order_by("pk"):
            self.check_told(alert)

    def check_told(self, alert: Alert) -> None:
        kinds = list(Notification.objects.filter(alert=alert).order_by("pk").values_list("kind", flat=True))
        assert kinds.count("firing") == 1
        assert kinds.count("resolved") == (alert.resolved_at is not None)
        assert not Notification.objects.filter(alert=alert, settled_at=None).exists()
        told = list(
            DeliveryItem.objects.filter(alert=alert)
            .order_by("delivery_id")
            .values_list("notification__kind", flat=True)
        )
        assert told.count("firing") <= 1 and told.count("resolved") <= 1 and told.count("flapping") <= 1
        if "resolved" in told:
            assert told[-1] == "resolved" and len(told) > 1
        elif alert.resolved_at is not None:
            assert not told or "flapping" in kinds or self.flapped(alert)
        else:
            assert (told and told[-1] != "resolved") or self.flapped(alert)

    def flapped(self, alert: Alert) -> bool:
        """Whether its instance was said to flap: then that it is calm is said of its last alert."""
        return Notification.objects.filter(
            alert__rule=alert.rule_id, alert__device_key=alert.device_key, kind="flapping"
        ).exists()


class PropertyTest(SilenceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.notifier = Notifier.objects.create(account=self.owner, kind="webhook", ciphertext=encrypt("{}"))
        self.streets = [self.street, Street(Writer(name="test-1"))]
        self.checks = [SilenceCheck(), SilenceCheck()]
        self.addCleanup(self.close)

    def close(self) -> None:
        for street in self.streets:
            street.writer.close()

    def test_no_story_leaves_an_alert_that_contradicts_the_data(self) -> None:
        @settings(
            max_examples=30,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(STEPS, min_size=10, max_size=40))
        def tell(steps: list[tuple[Any, ...]]) -> None:
            Story(self).run(steps)

        tell()
        assert Alert.objects.count() > 30
        assert Delivery.objects.count() > 30
