"""What alerts do, message by message, through the real write street."""

import json
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from channels.services import channel_delete, tag_delete
from devices.services import device_delete, device_update
from events import evaluation, tasks
from events.models import Alert, AlertState, Notification
from events.services import alerts_end, rule_create, rule_delete, rule_update
from events.tests.street import AlertsTestCase
from servwatch_site.tests.cast import NOW
from streams.pipeline import Street
from streams.plan import RestWrite
from streams.refused import refused_replay
from streams.tests.test_pipeline import records
from streams.writer import Writer


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

    def test_flapping_is_one_row_for_each_firing(self) -> None:
        self.rule()
        for at_s, value in enumerate((95, 50, 95, 50, 95)):
            self.say({"cpu": value}, at_s=at_s)
        assert self.alerts() == ["recovered", "recovered", "firing"]
        assert self.notified() == ["firing", "resolved"] * 2 + ["firing"]

    def test_what_rises_and_falls_within_one_batch_is_told_all_the_same(self) -> None:
        self.rule()
        batch = [self.message({"cpu": value}, at_s=at_s) for at_s, value in enumerate((50, 95, 50, 95, 96))]
        self.street.process(batch)
        assert self.alerts() == ["recovered", "firing"]
        assert [alert.value for alert in Alert.objects.order_by("pk")] == [95, 95]
        assert self.notified() == ["firing", "resolved", "firing"]

    def test_measurements_of_a_batch_count_in_their_own_order(self) -> None:
        self.rule()
        batch = [self.message({"cpu": value}, at_s=at_s) for at_s, value in ((3, 50), (1, 95), (2, 95))]
        self.street.process(batch)
        alert = Alert.objects.get()
        assert (alert.fired_at, alert.resolved_at) == (self.at(1), self.at(3))

    def test_string_values_and_booleans(self) -> None:
        self.rule("state", "=", "down")
        self.rule("up", "!=", "true")
        self.say({"state": "down", "up": False}, at_s=0)
        assert [alert.value for alert in Alert.objects.order_by("key")] == ["down", False]
        self.say({"state": "up", "up": True}, at_s=1)
        assert self.alerts() == ["recovered", "recovered"]

    def test_each_key_of_a_pattern_each_tag_and_each_device_has_its_own_alert(self) -> None:
        self.rule("disk:*:used")
        device_update(self.new1, changes={"enabled": True, "channel": self.servers}, now=NOW)
        self.say({"disk": {"sda": {"used": 95}, "sdb": {"used": 96}}}, at_s=0)
        self.say({"disk": {"sda": {"used": 97}}}, at_s=0, tag="rack")
        self.say({"disk": {"sda": {"used": 98}}}, at_s=0, device="new-1")
        found = Alert.objects.order_by("value").values_list("device_key", "tag", "key", "value")
        assert list(found) == [
            (self.web1.pk, "", "disk:sda:used", 95),
            (self.web1.pk, "", "disk:sdb:used", 96),
            (self.web1.pk, "rack", "disk:sda:used", 97),
            (self.new1.pk, "", "disk:sda:used", 98),
        ]
        self.say({"disk": {"sda": {"used": 5}, "sdb": {"used": 96}}}, at_s=1)
        assert Alert.objects.filter(resolved_at=None).count() == 3

    def test_arrays_bare_numbers_and_the_older_form(self) -> None:
        self.rule("load")
        self.rule("value")
        self.say({"load": [5, 95]}, at_s=0)
        self.say(96, at_s=1)
        assert [alert.value for alert in Alert.objects.order_by("pk")] == [95, 96]
        self.say({"load": [5, 6]}, at_s=2)
        self.send("web-1", "v=7&v2=99")
        assert self.alerts() == ["recovered", "recovered"]

    def test_another_level_for_recovery(self) -> None:
        self.rule(clear_threshold="80")
        for at_s, value in enumerate((95, 85, 91, 81)):
            self.say({"cpu": value}, at_s=at_s)
        assert self.alerts() == ["firing"]
        self.say({"cpu": 80}, at_s=9)
        assert self.alerts() == ["recovered"]

    def test_recovery_before_its_time_is_no_alert(self) -> None:
        self.rule(for_s=30)
        self.say({"cpu": 95}, at_s=0)
        assert self.standing() == [("cpu", "pending")]
        self.say({"cpu": 95}, at_s=20)
        self.say({"cpu": 50}, at_s=29)
        self.say({"cpu": 95}, at_s=31)
        assert (self.alerts(), self.notified()) == ([], [])
        self.say({"cpu": 95}, at_s=61)
        assert Alert.objects.get().since == self.at(31)

    def test_a_value_that_vanishes_proves_no_recovery(self) -> None:
        self.rule()
        self.say({"cpu": 95, "load": 1}, at_s=0)
        self.say({"load": 1}, at_s=1)
        self.say({"cpu": None, "load": 1}, at_s=2)
        assert self.alerts() == ["firing"]
        self.say({"cpu": 5, "load": 1}, at_s=3)
        assert Alert.objects.get().resolved_at == self.at(3)

    def test_an_alert_that_goes_on_knows_its_newest_value_of_each_minute(self) -> None:
        self.rule()
        for at_s in (-40, -10, 20, 21):
            self.say({"cpu": 140 + at_s}, at_s=at_s)
        alert = Alert.objects.get()
        assert (alert.value, alert.last_value, alert.last_at) == (100, 160, self.at(20))

    def test_many_rules_on_one_key_path_each_decide_for_themselves(self) -> None:
        for threshold in range(0, 200, 10):
            self.rule(threshold=str(threshold))
        self.say({"cpu": 95}, at_s=0)
        self.say({"cpu": 50}, at_s=1)
        assert Alert.objects.filter(resolved_at=None).count() == 5
        assert self.alerts().count("recovered") == 5

    def test_long_texts_are_cut_and_strange_keys_are_kept(self) -> None:
        key = "ключ:" * 50 + "☃" * 200
        self.rule("*", "!=", "ok")
        self.say({key: "x" * 100_000}, at_s=0)
        alert = Alert.objects.get()
        assert (alert.value, alert.key) == ("x" * 256, key.replace(":", "\\:"))
        assert len(records()) == 1

    def test_records_that_an_application_writes_are_held_against_rules_too(self) -> None:
        self.rule()
        parsed = [self.message({"cpu": value}, at_s=at_s) for at_s, value in enumerate((95, 96, 5))]
        prepared, _ = self.street._prepare(parsed)
        rows = [(-self.servers.pk, item.parsed[0]) for item in prepared]  # type: ignore[union-attr]
        write = RestWrite(self.owner.pk, self.servers.pk, rows[:2], datetime.now(UTC))  # type: ignore[arg-type]
        self.street.process([write])
        assert Alert.objects.get().device_key == -self.servers.pk
        self.street.process([write._replace(rows=rows[2:])])  # type: ignore[arg-type]
        assert self.alerts() == ["recovered"]


class TimeTest(AlertsTestCase):
    def test_a_duplicate_message_changes_nothing(self) -> None:
        self.rule()
        beyond, within = self.message({"cpu": 95}, at_s=0), self.message({"cpu": 5}, at_s=1)
        self.street.process([beyond])
        self.street.process([beyond, beyond])
        assert self.notified() == ["firing"]
        self.street.process([within])
        for batch in ([beyond], [within], [beyond, within], [within, beyond]):
            self.street.process(batch)
        assert self.alerts() == ["recovered"]
        assert self.notified() == ["firing", "resolved"]

    def test_a_duplicate_beside_a_new_message_changes_nothing(self) -> None:
        self.rule()
        beyond, within = self.message({"cpu": 95}, at_s=0), self.message({"cpu": 5}, at_s=2)
        self.street.process([beyond])
        self.street.process([within])
        self.street.process([beyond, within, self.message({"cpu": 6}, at_s=3)])
        self.street.process([within, self.message({"cpu": 96}, at_s=1)])
        assert self.notified() == ["firing", "resolved"]

    def test_two_values_of_one_moment_the_later_written_counts(self) -> None:
        self.rule()
        beyond, within = self.message({"cpu": 95}, at_s=0), self.message({"cpu": 5}, at_s=0)
        self.street.process([beyond])
        self.street.process([within])
        assert self.alerts() == ["recovered"]
        self.street.process([beyond])
        assert self.notified() == ["firing", "resolved"]

    def test_a_late_message_neither_fires_nor_resolves(self) -> None:
        self.rule()
        self.say({"cpu": 5}, at_s=10)
        self.say({"cpu": 95}, at_s=5)
        assert (self.alerts(), self.standing()) == ([], [])
        self.say({"cpu": 95}, at_s=20)
        self.say({"cpu": 5}, at_s=15)
        assert self.alerts() == ["firing"]
        self.say({"cpu": 5}, at_s=30)
        self.street.process([self.message({"cpu": 95}, at_s=25), self.message({"cpu": 6}, at_s=31)])
        assert self.alerts() == ["recovered"]
        assert self.notified() == ["firing", "resolved"]

    def test_late_is_told_by_key_path_and_not_by_message(self) -> None:
        """Newer messages without the key path make nothing late, of whatever shape they are."""
        self.rule("disk:*:used")
        self.say({"cpu": 5}, at_s=10)
        self.say({"disk": {"sdb": {"used": 5}}}, at_s=11)
        self.say({"disk": {"sda": {"used": 95}}}, at_s=5)
        assert self.alerts() == ["firing"]
        self.say({"disk": {"sda": {"used": 5}}, "cpu": 6}, at_s=6)
        assert self.alerts() == ["recovered"]
        self.say({"disk": {"sda": {"used": 96}}}, at_s=5.5)
        assert self.alerts() == ["recovered"]

    def test_late_behind_more_records_than_are_looked_at_begins_nothing(self) -> None:
        self.rule("disk:*:used")
        others = [self.message({"disk": {"sdb": {"used": n / 10}}}, at_s=20 + n / 10) for n in range(60)]
        self.street.process([self.message({"disk": {"sda": {"used": 5}}}, at_s=10), *others])
        self.say({"disk": {"sda": {"used": 95}}}, at_s=5)
        assert self.alerts() == []

    def test_a_late_message_within_the_waiting_time_starts_it_again(self) -> None:
        self.rule(for_s=30)
        self.say({"cpu": 95}, at_s=0)
        self.say({"cpu": 95}, at_s=20)
        self.say({"cpu": 5}, at_s=10)
        self.say({"cpu": 95}, at_s=30)
        assert self.alerts() == []
        self.say({"cpu": 95}, at_s=50)
        assert Alert.objects.get().since == self.at(20)

    def test_what_is_sent_after_an_outage_fires_only_if_it_still_holds(self) -> None:
        self.rule()
        self.say({"cpu": 5}, at_s=-7200)
        self.street.process([self.message({"cpu": 95}, at_s=at_s) for at_s in range(-3600, -300, 60)])
        assert (self.alerts(), self.standing()) == ([], [("cpu", "pending")])
        self.say({"cpu": 5}, at_s=-299)
        assert self.standing() == []
        self.say({"cpu": 96}, at_s=-250)
        self.say({"cpu": 97}, at_s=0)
        alert = Alert.objects.get()
        assert (alert.since, alert.fired_at, alert.value) == (self.at(-250), self.at(0), 97)

    def test_what_is_sent_after_an_outage_ends_an_open_alert_at_its_own_time(self) -> None:
        self.rule()
        self.say({"cpu": 95}, at_s=0)
        with patch.object(evaluation, "PATIENCE", timedelta(seconds=-1)):
            self.say({"cpu": 5}, at_s=1)
        assert Alert.objects.get().resolved_at == self.at(1)

    def test_a_device_that_always_takes_longer_is_given_three_of_its_intervals(self) -> None:
        self.rule()
        self.say({"cpu": 95}, at_s=-1000)
        assert self.alerts() == []
        with self.writer.transaction() as cursor:
            cursor.execute(
                "UPDATE devices_devicetraffic SET usual_interval_s = 400 WHERE device_key = %s",
                [self.web1.pk],
            )
        self.say({"cpu": 96}, at_s=-999)
        assert self.alerts() == ["firing"]

    def test_clock_jumps_do_not_make_a_device_deaf(self) -> None:
        self.rule()
        self.say({"cpu": 95}, at_s=3000)  # ahead of the time of receipt
        assert self.alerts() == ["firing"]
        self.say({"cpu": 5}, at_s=0)
        assert self.alerts() == ["recovered"]
        self.say({"cpu": 95}, at_s=1)
        assert self.alerts() == ["recovered", "firing"]

    def test_a_replayed_message_fires_nothing_and_may_end_what_is_open(self) -> None:
        self.rule()
        device_update(self.web1, changes={"enabled": False}, now=NOW)
        self.say({"cpu": 95}, at_s=0)
        device_update(self.web1, changes={"enabled": True}, now=NOW)
        refused_replay(self.owner, ids=None, now=datetime.now(UTC))
        assert (self.alerts(), len(records())) == ([], 1)
        self.say({"cpu": 96}, at_s=1)
        assert self.alerts() == ["firing"]
        device_update(self.web1, changes={"enabled": False}, now=NOW)
        self.say({"cpu": 5}, at_s=2)
        device_update(self.web1, changes={"enabled": True}, now=NOW)
        refused_replay(self.owner, ids=None, now=datetime.now(UTC))
        assert self.alerts() == ["recovered"]


class RestartTest(AlertsTestCase):
    def test_a_restart_in_every_state_loses_and_repeats_nothing(self) -> None:
        self.rule(for_s=10)
        steps = ((5, ""), (95, "pending"), (95, "firing"), (95, "firing"), (5, ""))
        for number, (value, phase) in enumerate(steps):
            writer = Writer(name="restarted")
            Street(writer).process([self.message({"cpu": value}, at_s=10 * number)])
            writer.close()
            assert self.standing() == ([("cpu", phase)] if phase else [])
        assert self.alerts() == ["recovered"]
        assert self.notified() == ["firing", "resolved"]
        alert = Alert.objects.get()
        assert (alert.since, alert.fired_at, alert.resolved_at) == (self.at(10), self.at(20), self.at(40))

    def test_what_the_transaction_does_not_commit_never_happened(self) -> None:
        self.rule()
        message = self.message({"cpu": 95}, at_s=0)
        with (
            patch.object(self.writer, "_counters", side_effect=RuntimeError("killed")),
            self.assertRaises(RuntimeError),
        ):
            self.street.process([message])
        assert (self.alerts(), self.notified(), records()) == ([], [], [])
        self.street.process([message])
        assert self.alerts() == ["firing"]

    def test_a_fault_of_ours_costs_alerts_and_no_data(self) -> None:
        self.rule()
        for place in ("find", "_Settling.run"):
            target = self.writer.evaluator.rules if place == "find" else evaluation._Settling
            with (
                patch.object(target, place.split(".")[-1], side_effect=ZeroDivisionError),
                self.assertLogs("events.evaluation", "ERROR"),
            ):
                self.say({"cpu": 95}, at_s=0 if place == "find" else 1)
        assert (len(records()), self.alerts()) == (2, [])

    def test_an_alert_that_cannot_be_written_makes_no_culprit_of_its_message(self) -> None:
        self.rule()
        with self.writer.transaction() as cursor:
            cursor.execute("ALTER TABLE events_alert ADD CONSTRAINT no_95 CHECK (value <> '95'::jsonb)")
        try:
            with self.assertLogs("events.evaluation", "ERROR"):
                self.say({"cpu": 95}, at_s=0)
        finally:
            with self.writer.transaction() as cursor:
                cursor.execute("ALTER TABLE events_alert DROP CONSTRAINT no_95")
        assert (len(records()), self.alerts(), self.standing()) == (1, [], [])
        self.say({"cpu": 96}, at_s=1)
        assert self.alerts() == ["firing"]


class ChangesTest(AlertsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.high = self.rule()
        self.say({"cpu": 95}, at_s=0)
        assert self.alerts() == ["firing"]

    def reason(self) -> str:
        alert = Alert.objects.order_by("pk")[0]
        assert alert.resolved_at is not None and AlertState.objects.count() == 0
        return alert.resolution

    def test_a_rule_edited_while_firing_ends_its_alert_and_is_judged_anew(self) -> None:
        rule_update(self.high, changes={"threshold": "94"}, now=NOW)
        assert self.reason() == "rule_changed"
        assert self.notified() == ["firing", "resolved"]
        self.say({"cpu": 95}, at_s=1)
        assert self.alerts() == ["rule_changed", "firing"]
        rule_update(self.high, changes={"threshold": "99"}, now=NOW)
        self.say({"cpu": 95}, at_s=2)
        assert self.alerts() == ["rule_changed", "rule_changed"]

    def test_a_description_or_severity_is_no_condition(self) -> None:
        rule_update(
            self.high, changes={"description": "hot", "severity": "critical", "threshold": "90"}, now=NOW
        )
        self.say({"cpu": 95}, at_s=1)
        assert self.alerts() == ["firing"]

    def test_a_rule_disabled_or_deleted_while_firing_ends_its_alert(self) -> None:
        rule_update(self.high, changes={"enabled": False}, now=NOW)
        assert self.reason() == "rule_disabled"
        self.say({"cpu": 95}, at_s=1)
        rule_update(self.high, changes={"enabled": True}, now=NOW)
        self.say({"cpu": 95}, at_s=2)
        rule_delete(self.high, now=NOW)
        self.say({"cpu": 95}, at_s=3)
        assert self.alerts() == ["rule_disabled", "rule_deleted"]
        assert self.standing() == []

    def test_a_writer_that_did_not_know_of_the_change_leaves_no_ghost(self) -> None:
        """What a batch opened by the old condition, while the rule was edited, ends with the next word of it."""
        rule_update(self.high, changes={"threshold": "99"}, now=NOW)
        alert = Alert.objects.get()
        Alert.objects.filter(pk=alert.pk).update(resolved_at=None, resolution="")
        old = {"phase": "firing", "since": self.at(0), "last_at": self.at(0), "config_version": 0}
        row = {"rule": self.high, "device_key": self.web1.pk, "key": "cpu", "key_digest": 0}
        AlertState.objects.create(alert=alert, **row, **old)
        self.say({"cpu": 5}, at_s=1)
        assert self.reason() == "rule_changed"

    def test_a_device_deleted_disabled_or_moved_while_firing_ends_its_alert(self) -> None:
        for changes, reason in (
            ({"enabled": False}, "device_disabled"),
            ({"channel": self.backups}, "device_moved"),
            ({"channel": None}, "device_moved"),
        ):
            Alert.objects.all().delete()
            device_update(self.web1, changes={"enabled": True, "channel": self.servers}, now=NOW)
            self.say({"cpu": 96}, at_s=Alert.objects.count() + 1 + len(records()))
            assert self.alerts() == ["firing"]
            device_update(self.web1, changes=changes, now=NOW)
            assert alerts_end(now=NOW) == 1
            assert self.reason() == reason
        device_update(self.web1, changes={"channel": self.servers}, now=NOW)
        self.say({"cpu": 96}, at_s=30)
        device_delete(self.web1, now=NOW)
        alerts_end(now=NOW)
        assert self.alerts() == ["device_moved", "device_deleted"]
        assert Notification.objects.order_by("-pk")[0].kind == "resolved"

    def test_a_deleted_tag_ends_its_alerts(self) -> None:
        self.say({"cpu": 96}, at_s=1, tag="rack")
        assert self.alerts() == ["firing", "firing"]
        tag_delete(self.servers, "rack")
        assert alerts_end(now=NOW) == 1
        assert self.alerts() == ["firing", "tag_deleted"]

    def test_the_workers_job_ends_what_no_batch_ends(self) -> None:
        device_delete(self.web1, now=NOW)
        tasks.alerts_end(timestamp=0)
        assert self.reason() == "device_deleted"

    def test_a_change_of_the_device_that_moves_nothing_ends_nothing(self) -> None:
        device_update(self.web1, changes={"description": "front"}, now=NOW)
        assert alerts_end(now=NOW) == 0
        assert self.alerts() == ["firing"]

    def test_a_deleted_channel_ends_its_alerts_and_disables_its_rules(self) -> None:
        channel_delete(self.servers, now=NOW)
        alerts_end(now=NOW)
        assert self.reason() == "channel_deleted"
        self.say({"cpu": 96}, at_s=1)
        assert len(records()) == 1

    def test_a_new_rule_holds_from_the_next_batch(self) -> None:
        rule_create(
            self.owner, changes={"channel": self.servers, "source": "load", "operator": ">", "threshold": "1"}
        )
        self.say({"load": 2}, at_s=1)
        assert self.alerts() == ["firing", "firing"]

    def test_deleting_a_channel_ends_what_its_rules_find(self) -> None:
        device_update(self.web1, changes={"channel": self.backups}, now=NOW)
        rule = self.rule(channel=self.backups)
        self.say({"cpu": 96}, at_s=1)
        assert Alert.objects.filter(rule=rule, resolved_at=None).exists()
        channel_delete(self.backups, now=NOW)
        body = json.dumps({"at": self.at(2).isoformat(), "value": {"cpu": 97}})
        assert self.send("json/web-1", body).reason == "NO_MAPPED_CH"
