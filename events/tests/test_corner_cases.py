"""The corner cases of rules, one test each, down the real write street; see the other files for what each part does.

| case | tests |
| --- | --- |
| values | rising, falling, flapping, exactly equal, texts, an array, null |
| time | recovery before `for_s`, `for_s` over two batches, a late message, a duplicate, a backfill, clock jumps |
| what goes | a value vanishes, a device is silent, a stream is silent, the intake is interrupted |
| what changes | a rule is edited, disabled or deleted, a device deleted, disabled or moved, a tag or channel deleted |
| who works | a restart in every state, two writers, two workers |
"""

from typing import Any

from channels.services import channel_delete, tag_delete
from devices.services import device_delete, device_update
from events.models import Alert
from events.services import rule_delete, rule_update
from events.silence import Ingest, SilenceCheck, Way, vanished_end
from events.tests.silent import SilenceTestCase
from servwatch_site.tests.cast import NOW
from streams.newest import records_newest
from streams.pipeline import Street
from streams.writer import Writer

DAY_S = 86_400.0


class ValueTest(SilenceTestCase):
    def test_rising_fires(self) -> None:
        self.rule()
        self.hear({"cpu": 89}, at_s=0)
        self.hear({"cpu": 91}, at_s=1)
        assert self.told() == [("value", "cpu", "firing")]

    def test_falling_resolves(self) -> None:
        self.rule()
        self.hear({"cpu": 91}, at_s=0)
        self.hear({"cpu": 89}, at_s=1)
        assert self.told() == [("value", "cpu", "recovered")]

    def test_falling_below_fires_where_the_rule_asks_for_less(self) -> None:
        self.rule(operator="<", threshold="10")
        self.hear({"cpu": 11}, at_s=0)
        self.hear({"cpu": 9}, at_s=1)
        assert self.alerts() == ["firing"]

    def test_flapping_is_a_row_for_each_firing(self) -> None:
        self.rule()
        for at_s in range(8):
            self.hear({"cpu": 95 if at_s % 2 else 5}, at_s=at_s)
        assert self.alerts() == ["recovered"] * 3 + ["firing"]

    def test_flapping_between_two_levels_is_one_alert(self) -> None:
        self.rule(clear_threshold="50")
        for at_s in range(8):
            self.hear({"cpu": 95 if at_s % 2 else 60}, at_s=at_s)
        assert self.alerts() == ["firing"]

    def test_exactly_equal(self) -> None:
        for operator in (">", ">=", "<", "<=", "=", "!="):
            self.rule(operator=operator)
        self.hear({"cpu": 90}, at_s=0)
        found = Alert.objects.order_by("rule").values_list("operator", flat=True)
        assert list(found) == [">=", "<=", "="]

    def test_exactly_equal_to_the_level_of_recovery_recovers(self) -> None:
        self.rule(clear_threshold="50")
        self.hear({"cpu": 95}, at_s=0)
        self.hear({"cpu": 50}, at_s=1)
        assert self.alerts() == ["recovered"]

    def test_texts_fire_by_equality(self) -> None:
        self.rule("state", "=", "down")
        self.hear({"state": "down"}, at_s=0)
        self.hear({"state": "up"}, at_s=1)
        assert self.alerts() == ["recovered"]

    def test_texts_are_neither_above_nor_below_a_number(self) -> None:
        for operator in (">", ">=", "<", "<="):
            self.rule(operator=operator)
        self.hear({"cpu": "N/A"}, at_s=0)
        self.hear({"cpu": ""}, at_s=1)
        assert self.alerts() == []

    def test_numbers_written_as_texts_are_numbers(self) -> None:
        self.rule()
        self.hear({"cpu": "90.5"}, at_s=0)
        assert self.alerts() == ["firing"]

    def test_a_text_where_a_number_fired_is_a_recovery(self) -> None:
        self.rule()
        self.hear({"cpu": 95}, at_s=0)
        self.hear({"cpu": "N/A"}, at_s=1)
        assert self.alerts() == ["recovered"]

    def test_any_element_of_an_array(self) -> None:
        self.rule("load")
        self.hear({"load": [1, 95]}, at_s=0)
        self.hear({"load": [1, 2]}, at_s=1)
        assert self.alerts() == ["recovered"]

    def test_null_and_an_empty_array_are_no_values(self) -> None:
        self.rule()
        self.hear({"cpu": 95}, at_s=0)
        self.hear({"cpu": None}, at_s=1)
        self.hear({"cpu": []}, at_s=2)
        assert self.alerts() == ["firing"]


class TimeTest(SilenceTestCase):
    def test_recovery_before_for_s_is_no_alert(self) -> None:
        self.rule(for_s=30)
        self.hear({"cpu": 95}, at_s=0)
        self.hear({"cpu": 5}, at_s=29)
        self.hear({"cpu": 95}, at_s=31)
        assert self.alerts() == []

    def test_for_s_is_exactly_its_time(self) -> None:
        self.rule(for_s=30)
        self.hear({"cpu": 95}, at_s=0)
        self.hear({"cpu": 95}, at_s=29.9)
        assert self.alerts() == []
        self.hear({"cpu": 95}, at_s=30)
        assert self.alerts() == ["firing"]

    def test_a_late_message_neither_fires_nor_resolves(self) -> None:
        self.rule()
        self.hear({"cpu": 5}, at_s=10)
        self.hear({"cpu": 95}, at_s=5, received_s=11)
        assert self.alerts() == []
        self.hear({"cpu": 95}, at_s=20)
        self.hear({"cpu": 5}, at_s=15, received_s=21)
        assert self.alerts() == ["firing"]

    def test_a_duplicate_message_changes_nothing(self) -> None:
        self.rule()
        message = self.heard({"cpu": 95}, at_s=0)
        self.street.process([message])
        self.hear({"cpu": 5}, at_s=1)
        self.street.process([message._replace(received_at=self.at(2))])
        assert self.alerts() == ["recovered"]

    def test_a_duplicate_is_a_sign_of_life(self) -> None:
        self.silence_rule(60)
        message = self.heard({"cpu": 95}, at_s=0)
        self.street.process([message])
        self.look(60)
        self.street.process([message._replace(received_at=self.at(61))])
        self.look(66)
        assert self.told() == [("silence", "", "recovered")]

    def test_a_backfill_fires_no_old_alert_as_a_new_one(self) -> None:
        self.rule()
        for at_s in (-5_000, -4_000):
            self.hear({"cpu": 95}, at_s=at_s, received_s=0)
        assert self.alerts() == []
        self.hear({"cpu": 95}, at_s=1)
        assert self.alerts() == ["firing"]

    def test_a_clock_that_jumps_ahead_and_back(self) -> None:
        """What was measured ahead hides what is measured now no longer than a clock may be wrong."""
        self.rule()
        self.silence_rule(60, source="cpu")
        self.hear({"cpu": 95}, at_s=3_000, received_s=0)
        assert self.alerts() == ["firing"]
        self.hear({"cpu": 5}, at_s=1)
        assert self.alerts() == ["recovered"]
        assert self.look(2) == 0

    def test_a_worker_s_clock_that_is_set_back(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        assert self.look(50) == 0
        assert self.look(-3_600) == 0
        assert self.look(60) == 1


class AbsenceTest(SilenceTestCase):
    def test_a_value_that_vanishes_ends_as_vanished(self) -> None:
        self.rule()
        self.hear({"cpu": 95, "load": 1}, at_s=0)
        self.hear({"load": 1}, at_s=DAY_S)
        vanished_end(now=self.at(DAY_S + 1))
        assert self.alerts() == ["vanished"]

    def test_a_device_is_silent_and_comes_back(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        self.look(60)
        self.hear({"cpu": 5}, at_s=61)
        assert self.told() == [("silence", "", "recovered")]

    def test_a_stream_is_silent_while_its_device_is_not(self) -> None:
        self.silence_rule(60, source="gpu")
        self.hear({"cpu": 5, "gpu": 1}, at_s=0)
        self.hear({"cpu": 5}, at_s=59)
        self.look(60)
        assert self.told() == [("silence", "gpu", "firing")]

    def test_a_silent_device_does_not_end_what_its_values_said(self) -> None:
        self.rule()
        self.silence_rule(60)
        self.hear({"cpu": 95}, at_s=0)
        self.look(60)
        assert self.alerts() == ["firing", "firing"]

    def test_an_interrupted_intake_makes_nobody_silent(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        away = Ingest(Way(None), Way(None), records_newest)
        assert self.check.check(now=self.at(600), ingest=away) == 0
        self.pause(1, 590)
        assert self.look(600) == 0


class ChangeTest(SilenceTestCase):
    """Each with a value and a silence that stand: cpu of web-1, and gpu, which stopped."""

    def stand(self, **more: Any) -> None:
        self.value, self.silence = self.rule(**more), self.silence_rule(60, source="gpu", **more)
        self.hear({"cpu": 95, "gpu": 1}, at_s=0, tag=more.get("tag"))
        self.hear({"cpu": 95}, at_s=60, tag=more.get("tag"))
        self.look(60)
        assert self.alerts() == ["firing", "firing"]

    def test_a_rule_edited_while_firing(self) -> None:
        self.stand()
        rule_update(self.value, changes={"threshold": "94"}, now=self.at(61))
        rule_update(self.silence, changes={"absent_s": 70}, now=self.at(61))
        assert self.alerts() == ["rule_changed", "rule_changed"]
        self.hear({"cpu": 95, "gpu": 1}, at_s=62)
        self.look(62)
        assert self.alerts() == ["rule_changed", "rule_changed", "firing"]

    def test_a_rule_disabled_or_deleted_while_firing(self) -> None:
        self.stand()
        rule_update(self.value, changes={"enabled": False}, now=self.at(61))
        rule_delete(self.silence, now=self.at(61))
        assert self.alerts() == ["rule_disabled", "rule_deleted"]
        self.hear({"cpu": 95}, at_s=62)
        assert self.look(200) == 0

    def test_a_device_deleted_while_firing(self) -> None:
        self.stand()
        device_delete(self.web1, now=NOW)
        self.look(61)
        assert self.alerts() == ["device_deleted", "device_deleted"]

    def test_a_device_disabled_while_firing(self) -> None:
        self.stand()
        device_update(self.web1, changes={"enabled": False}, now=NOW)
        self.look(61)
        assert self.alerts() == ["device_disabled", "device_disabled"]

    def test_a_device_moved_while_firing(self) -> None:
        self.stand()
        device_update(self.web1, changes={"channel": self.backups}, now=NOW)
        self.look(61)
        assert self.alerts() == ["device_moved", "device_moved"]

    def test_a_tag_deleted_while_firing(self) -> None:
        self.stand(tag="rack")
        tag_delete(self.servers, "rack")
        self.look(61)
        assert self.alerts() == ["tag_deleted", "tag_deleted"]

    def test_a_channel_deleted_while_firing(self) -> None:
        self.stand()
        channel_delete(self.servers, now=NOW)
        self.look(61)
        assert self.alerts() == ["channel_deleted", "channel_deleted"]


class WhoTest(SilenceTestCase):
    def restart(self) -> None:
        self.street.writer.close()
        self.street, self.check = Street(Writer(name="again")), SilenceCheck()
        self.addCleanup(self.street.writer.close)

    def test_a_restart_in_every_state(self) -> None:
        """Quiet, pending, firing, silent, and resolved: none is lost, none said twice."""
        self.rule(for_s=10)
        self.silence_rule(60)
        story: tuple[tuple[float, int | None], ...] = (
            (0, 5),
            (1, 95),
            (11, 95),
            (12, 95),
            (72, None),
            (73, 5),
            (133, None),
        )
        for at_s, value in story:
            self.restart()
            if value is None:
                self.look(at_s)
                self.restart()
                self.look(at_s)
            else:
                self.hear({"cpu": value}, at_s=at_s)
        assert self.told() == [
            ("value", "cpu", "recovered"),
            ("silence", "", "recovered"),
            ("silence", "", "firing"),
        ]
        assert sorted(self.notified()) == ["firing"] * 3 + ["resolved"] * 2

    def test_two_writers_with_the_messages_of_one_device(self) -> None:
        other = Street(Writer(name="other"))
        self.addCleanup(other.writer.close)
        self.rule()
        self.silence_rule(60)
        other.process([self.heard({"cpu": 95}, at_s=0)])
        self.hear({"cpu": 96}, at_s=1)
        self.look(61)
        other.process([self.heard({"cpu": 5}, at_s=62)])
        assert self.told() == [("value", "cpu", "recovered"), ("silence", "", "recovered")]

    def test_two_workers(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        other = SilenceCheck()
        assert [self.look(60), self.look(60, check=other)] == [1, 0]
        self.hear({"cpu": 5}, at_s=61)
        assert [self.look(121, check=other), self.look(121)] == [1, 0]
