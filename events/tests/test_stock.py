"""Each stock rule with messages of the agent's shape, down the real write street."""

from copy import deepcopy
from typing import Any

import pytest
from django.utils import timezone

from agent import servwatch_agent
from devices.services import device_create
from events.models import Alert, Rule
from events.services import rule_update
from events.stock import AGENT_VERSION, STOCK, agent_rules_follow, offers, stock_disable, stock_enable
from events.tests.street import AlertsTestCase
from servwatch_site.errors import Code, ServwatchError
from servwatch_site.tests.cast import NOW

CALM: dict[str, Any] = {
    "cpu": {"user": 5.0, "idle": 90.0, "total": 8.0, "count": 4},
    "load": {"load1": 0.4, "load5": 0.4, "load5_per_core": 0.1},
    "memory": {"used_pct": 40.0},
    "swap": {"used_pct": 0.0},
    "disks": {
        "/": {"used_pct": 50.0, "inodes_used_pct": 5.0},
        "/var": {"used_pct": 60.0, "inodes_used_pct": 6.0},
    },
    "temperatures": {"coretemp_package_id_0_c": 50.0},
    "boot": {"rebooted": 0},
    "clock": {"error_s": 0.01},
    "agent": {"version_number": AGENT_VERSION},
    "uptime_s": 9000.0,
}
# Stock rule -> what is beyond it, and what clears it after that.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cpu": ({"cpu": {"total": 99.0}}, {"cpu": {"total": 85.0}}),
    "load": ({"load": {"load5_per_core": 2.5}}, {"load": {"load5_per_core": 1.5}}),
    "memory": ({"memory": {"used_pct": 97.0}}, {"memory": {"used_pct": 90.0}}),
    "swap": ({"swap": {"used_pct": 90.0}}, {"swap": {"used_pct": 50.0}}),
    "disk_full": ({"disks": {"/var": {"used_pct": 91.0}}}, {"disks": {"/var": {"used_pct": 80.0}}}),
    "inodes_full": ({"disks": {"/": {"inodes_used_pct": 95.0}}}, {"disks": {"/": {"inodes_used_pct": 20.0}}}),
    "rebooted": ({"boot": {"rebooted": 1}, "uptime_s": 30.0}, {"boot": {"rebooted": 0}, "uptime_s": 700.0}),
    "clock_off": ({"clock": {"error_s": 16.0}}, {"clock": {"error_s": 0.1}}),
    "temperature": (
        {"temperatures": {"coretemp_package_id_0_c": 91.0}},
        {"temperatures": {"coretemp_package_id_0_c": 70.0}},
    ),
    "agent_outdated": (
        {"agent": {"version_number": AGENT_VERSION - 1}},
        {"agent": {"version_number": AGENT_VERSION}},
    ),
}
BY_THE_WORKER = {"offline", "disk_fills"}  # tested there: silence, and streams/tests/test_trends.py


def message(**beyond: Any) -> dict[str, Any]:
    """A calm machine, but for this."""
    metrics = deepcopy(CALM)
    for group, value in beyond.items():
        _merge(metrics, group, value)
    return metrics


def _merge(into: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, dict):
        for inner, inner_value in value.items():
            _merge(into[key], inner, inner_value)
    else:
        into[key] = value


class StockTest(AlertsTestCase):
    def test_each_is_offered_to_a_channel_with_the_agents_keys(self) -> None:
        assert offers(self.owner) == []
        self.say(CALM, at_s=0)
        found = offers(self.owner)
        assert [(offer.channel.number, offer.stock.key) for offer in found] == [
            (0, stock.key) for stock in STOCK
        ]
        assert not any(offer.is_on or offer.is_changed for offer in found)
        assert {stock.key for stock in STOCK} == CASES.keys() | BY_THE_WORKER
        assert offers(self.stranger) == []

    def test_what_a_channel_does_not_measure_is_not_offered(self) -> None:
        self.say({"memory": {"used_pct": 50.0}}, at_s=0)
        assert [offer.stock.key for offer in offers(self.owner)] == ["offline", "memory"]
        with pytest.raises(ServwatchError) as caught:
            stock_enable(self.owner, self.servers, "cpu")
        assert caught.value.code is Code.NOT_FOUND

    def test_each_fires_and_clears(self) -> None:
        self.say(CALM, at_s=-1)
        for key, (beyond, calm) in CASES.items():
            with self.subTest(key):
                device_create(self.owner, key, now=NOW, changes={"enabled": True, "channel": self.servers})
                rule = stock_enable(self.owner, self.servers, key)
                self.say(CALM, at_s=0, device=key)
                for at_s in (1, 1 + rule.for_s / 2):
                    self.say(message(**beyond), at_s=at_s, device=key)
                assert not Alert.objects.exists() or not rule.for_s
                self.say(message(**beyond), at_s=1 + rule.for_s, device=key)
                alert = Alert.objects.get()
                assert (alert.rule_id, alert.resolved_at) == (rule.pk, None)
                self.say(message(**calm), at_s=2 + rule.for_s, device=key)
                alert.refresh_from_db()
                assert alert.resolution == "recovered"
                stock_disable(self.owner, self.servers, key, now=timezone.now())
                Alert.objects.all().delete()

    def test_it_is_on_or_off_by_one_call_each(self) -> None:
        self.say(CALM, at_s=0)
        rule = stock_enable(self.owner, self.servers, "memory")
        assert stock_enable(self.owner, self.servers, "memory").pk == rule.pk
        (offer,) = [offer for offer in offers(self.owner) if offer.rule is not None]
        assert (offer.stock.key, offer.is_on, offer.is_changed) == ("memory", True, False)
        stock_disable(self.owner, self.servers, "memory", now=timezone.now())
        assert not any(offer.rule for offer in offers(self.owner))
        assert stock_enable(self.owner, self.servers, "memory").pk != rule.pk

    def test_what_was_edited_stays_its_owners(self) -> None:
        self.say(CALM, at_s=0)
        rule = stock_enable(self.owner, self.servers, "memory")
        rule_update(rule, changes={"threshold": "80", "clear_threshold": "70"}, now=timezone.now())
        stock_disable(self.owner, self.servers, "memory", now=timezone.now())
        (offer,) = [offer for offer in offers(self.owner) if offer.rule is not None]
        assert (offer.is_on, offer.is_changed) == (False, True)
        again = stock_enable(self.owner, self.servers, "memory")
        assert (again.pk, again.threshold, again.enabled) == (rule.pk, "80", True)

    def test_the_version_asked_for_is_that_of_the_agent_beside(self) -> None:
        assert servwatch_agent.agent_metrics()["version_number"] == AGENT_VERSION

    def test_after_an_upgrade_untouched_rules_ask_for_the_new_agent(self) -> None:
        self.say(CALM, at_s=0)
        rule = stock_enable(self.owner, self.servers, "agent_outdated")
        assert agent_rules_follow(now=timezone.now()) == 0
        Rule.objects.filter(pk=rule.pk).update(threshold="100")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("events.stock.EARLIER_AGENT_VERSIONS", (100,))
            assert agent_rules_follow(now=timezone.now()) == 1
        assert Rule.objects.get().threshold == str(AGENT_VERSION)
