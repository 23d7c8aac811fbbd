"""What alerts do, message by message, through the real write street."""

from events.models import Alert
from events.tests.street import AlertsTestCase


class FiringTest(AlertsTestCase):
    def test_rising_fires_and_falling_resolves_and_both_notify(self) -> None:
        rule = self.rule()
        for at_s, value in enumerate((50, 90, 90.1, 95, 90)):
            self.say({"cpu": value}, at_s=at_s)
        alert = Alert.objects.get()
        assert (alert.rule_id, alert.device_key, alert.key) == (rule.pk, self.web1.pk, "cpu")
        assert (alert.fired_at, alert.since, alert.resolved_at) == (self.at(2), self.at(2), self.at(4))
        assert (alert.value, alert.last_value, alert.resolution) == (90.1, 90, "recovered")
        assert self.notified() == ["firing", "resolved"]
        assert self.standing() == []
