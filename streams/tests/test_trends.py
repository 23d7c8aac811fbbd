from datetime import UTC, datetime, timedelta
from typing import Any

from events.models import Alert, AlertState, Cause, Notification, Rule
from events.services import alerts_end, rule_create, rule_update
from events.stock import stock_enable
from events.trend_alerts import trend_settle
from streams.tests.records import record_add
from streams.tests.test_rollups import HOUR, MINUTE, RollupCase
from streams.trends import trends_check, trends_of


class TrendsTest(RollupCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = datetime.now(UTC).replace(minute=5, second=40, microsecond=0)
        self.per_hour = 2.0
        self.level = 40.0
        self.fill(24)

    def fill(self, hours: int, *, per_hour: float | None = None) -> None:
        """Six records an hour up to now."""
        self.per_hour = self.per_hour if per_hour is None else per_hour
        some = []
        for number in range(hours * 6):
            self.level += self.per_hour / 6
            some.append(
                (self.now - (hours * 6 - number) * 10 * MINUTE, {"disks": {"/": {"pct": self.level}}})
            )
        self.store("web-1", *some)
        self.roll()

    def rule(self, **more: Any) -> Rule:
        changes = {"channel": self.servers, "source": "disks:*:pct", "operator": ">", "threshold": "98"}
        return rule_create(self.owner, changes=changes | {"ahead_s": 86_400} | more)

    def later(self, hours: int, *, per_hour: float) -> None:
        """As if the records lay so much earlier, and more have come."""
        self.now += hours * HOUR
        some = []
        for number in range(hours * 6):
            self.level += per_hour / 6
            some.append(
                (self.now - (hours * 6 - number) * 10 * MINUTE, {"disks": {"/": {"pct": self.level}}})
            )
        self.put(some)

    def put(self, some: Any) -> None:
        for at, value in some:
            record_add(self.web1, self.servers, at, value)
        self.roll()

    def notified(self) -> list[str]:
        return list(Notification.objects.order_by("pk").values_list("kind", flat=True))

    def test_it_fires_once_and_recovers_when_the_trend_is_broken(self) -> None:
        self.rule()
        assert trends_check(now=self.now) == 1
        assert trends_check(now=self.now + 5 * MINUTE) == 0
        alert = Alert.objects.get()
        assert (alert.cause, alert.key, alert.operator, alert.threshold) == (
            Cause.TREND,
            "disks:/:pct",
            ">",
            "98",
        )
        assert 85 <= float(alert.value) <= 90
        self.later(24, per_hour=-0.5)
        assert trends_check(now=self.now) == 1
        alert.refresh_from_db()
        assert alert.resolution == "recovered" and not AlertState.objects.exists()
        assert self.notified() == ["firing", "resolved"]

    def test_a_value_beyond_the_threshold_is_no_matter_of_the_batch(self) -> None:
        self.rule(threshold="10")
        self.store("web-1", (self.now - MINUTE, {"disks": {"/": {"pct": 99}}}))
        assert not Alert.objects.exists()

    def test_for_s_waits_by_the_times_it_was_judged(self) -> None:
        self.rule(for_s=1800)
        assert trends_check(now=self.now) == 0
        assert AlertState.objects.get().phase == "pending"
        assert trends_check(now=self.now + 31 * MINUTE) == 1

    def test_an_edited_or_disabled_rule_ends_its_alert(self) -> None:
        rule = self.rule()
        trends_check(now=self.now)
        rule_update(rule, changes={"threshold": "97"}, now=self.now)
        assert Alert.objects.get().resolution == "rule_changed"
        assert trends_check(now=self.now) == 1
        rule_update(rule, changes={"enabled": False}, now=self.now)
        assert trends_check(now=self.now) == 0
        assert self.notified() == ["firing", "resolved", "firing", "resolved"]
        assert alerts_end(now=self.now) == 0

    def test_a_steady_disk_and_one_that_sends_nothing_are_quiet(self) -> None:
        self.rule()
        assert trends_check(now=self.now + timedelta(hours=9)) == 0
        Rule.objects.update(ahead_s=3600)
        assert trends_check(now=self.now) == 0

    def test_the_stock_rule_tells_of_a_disk_that_fills_within_a_day(self) -> None:
        some = [
            (
                self.now - n * 10 * MINUTE,
                {"disks": {"/var": {"used_pct": 88 - n / 6}, "/": {"used_pct": 50.0}}},
            )
            for n in range(144, 0, -1)
        ]
        self.store("web-1", *some)
        self.roll()
        stock_enable(self.owner, self.servers, "disk_fills")
        assert trends_check(now=self.now) == 0
        assert trends_check(now=self.now + 31 * MINUTE) == 1
        assert Alert.objects.get().key == "disks:/var:used_pct"
        self.now += 24 * HOUR
        self.put(
            [(self.now - n * 10 * MINUTE, {"disks": {"/var": {"used_pct": 40.0}}}) for n in range(144, 0, -1)]
        )
        assert trends_check(now=self.now) == 1
        assert Alert.objects.get().resolution == "recovered"

    def test_a_second_worker_finds_nothing_to_do(self) -> None:
        rule = self.rule()
        judged = list(trends_of(rule, now=self.now))
        assert [trend_settle(rule, judged), trend_settle(rule, judged)] == [1, 0]
        assert Alert.objects.count() == 1
