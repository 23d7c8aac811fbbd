"""Silence of devices and streams, message by message and second by second."""

from datetime import timedelta
from threading import Thread
from typing import Any

from django.db import connection, connections

from devices.models import DeviceTraffic
from devices.services import device_delete, device_update
from events.models import Alert, HeardStream
from events.services import rule_delete, rule_update
from events.silence import Ingest, SilenceCheck, Way, learned_limit_s, vanished_end
from events.stock import stock_enable
from events.tests.silent import SilenceTestCase
from servwatch_site.tests.cast import NOW
from streams.newest import records_newest
from streams.pipeline import Street
from streams.writer import Writer


class DeviceTest(SilenceTestCase):
    def test_a_device_is_silent_after_its_time_and_not_before_and_once(self) -> None:
        rule = self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        assert self.look(59.9) == 0
        assert self.look(60) == 1
        assert self.look(61) == 0
        alert = Alert.objects.get()
        assert (alert.rule_id, alert.device_key, alert.key, alert.cause) == (
            rule.pk,
            self.web1.pk,
            "",
            "silence",
        )
        assert (alert.since, alert.fired_at, alert.value, alert.threshold) == (
            self.at(0),
            self.at(60),
            None,
            "60",
        )
        assert self.notified() == ["firing"]

    def test_the_next_message_ends_it_in_its_own_batch(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        self.look(60)
        self.hear({"load": 1}, at_s=75, tag="rack")
        alert = Alert.objects.get()
        assert (alert.resolution, alert.resolved_at, alert.last_value) == ("recovered", self.at(75), None)
        assert self.notified() == ["firing", "resolved"]
        assert self.look(134) == 0
        assert self.look(135) == 1

    def test_the_time_of_receipt_counts_and_not_that_of_measurement(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=-3_000, received_s=0)
        assert self.look(59) == 0
        assert self.look(60) == 1
        self.hear({"cpu": 5}, at_s=-2_000, received_s=70)
        assert self.told() == [("silence", "", "recovered")]

    def test_a_rule_of_one_device_says_nothing_of_others(self) -> None:
        device_update(self.new1, changes={"enabled": True, "channel": self.servers}, now=NOW)
        self.silence_rule(60, device=self.new1)
        self.hear({"cpu": 5}, at_s=0)
        assert self.look(100) == 0
        self.hear({"cpu": 5}, at_s=100, device="new-1")
        assert self.look(160) == 1
        assert Alert.objects.get().device_key == self.new1.pk

    def test_who_was_never_heard_or_is_disabled_deleted_or_unmapped_is_not_silent(self) -> None:
        self.silence_rule(60)
        assert self.look(1_000) == 0
        self.hear({"cpu": 5}, at_s=0)
        for changes in ({"enabled": False}, {"enabled": True, "channel": None}, {"channel": self.backups}):
            device_update(self.web1, changes=changes, now=NOW)
            assert self.look(1_000) == 0
        device_update(self.web1, changes={"channel": self.servers}, now=NOW)
        assert self.look(1_000) == 1
        device_delete(self.web1, now=NOW)
        assert self.look(1_001) == 1  # its end
        assert self.told() == [("silence", "", "device_deleted")]
        assert self.look(1_002) == 0

    def test_a_device_that_is_moved_or_disabled_is_no_longer_silent_within_the_loop_s_second(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        self.look(60)
        device_update(self.web1, changes={"channel": self.backups}, now=NOW)
        assert self.look(61) == 1
        assert self.told() == [("silence", "", "device_moved")]

    def test_a_rule_made_or_changed_counts_from_the_next_look_on(self) -> None:
        self.hear({"cpu": 5}, at_s=0)
        assert self.look(100) == 0
        rule = self.silence_rule(60)
        assert self.look(101) == 1
        rule_update(rule, changes={"absent_s": 200}, now=self.at(101.5))
        assert self.told() == [("silence", "", "rule_changed")]
        assert self.look(102) == 0
        assert self.look(200) == 1
        rule_delete(rule, now=self.at(201))
        assert self.look(202) == 0
        assert [what for _, _, what in self.told()] == ["rule_changed", "rule_deleted"]

    def test_the_ready_made_rule_for_what_is_offline_fires_and_clears(self) -> None:
        for at_s in range(-570, 30, 10):
            self.hear({"cpu": {"total": 5}}, at_s=at_s)
        stock_enable(self.owner, self.servers, "offline")
        assert self.look(79) == 0  # five times the usual ten seconds are less than a minute
        assert self.look(81) == 1
        assert self.told() == [("silence", "", "firing")]
        self.hear({"cpu": {"total": 5}}, at_s=90)
        assert self.told() == [("silence", "", "recovered")]

    def test_a_learned_cadence_is_five_times_the_usual_and_a_minute_at_least(self) -> None:
        self.silence_rule(0)
        for at_s in range(-120, 0, 30):
            self.hear({"cpu": 5}, at_s=at_s)
        assert self.look(10_000) == 0  # nothing is usual yet
        self.hear({"cpu": 5}, at_s=0)
        usual_s = DeviceTraffic.objects.get(device_key=self.web1.pk).usual_interval_s
        assert usual_s == 30
        assert self.look(149) == 0
        assert self.look(150) == 1
        assert Alert.objects.get().threshold == str(round(5 * usual_s))
        assert learned_limit_s(2) == 60
        assert learned_limit_s(None) is None

    def test_short_distances_need_twenty_messages_since_the_first_may_come_in_twos(self) -> None:
        self.silence_rule(0)
        for at_s in range(0, 38, 2):
            self.hear({"cpu": 5}, at_s=at_s)
        assert self.look(10_000) == 0
        self.hear({"cpu": 5}, at_s=38)
        assert self.look(97) == 0
        assert self.look(98) == 1

    def test_signs_of_life_that_no_batch_takes_for_one_end_it_as_well(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        self.look(60)
        self.street.process([self.incoming("json/web-1", "no json")])
        assert self.look(70) == 1
        assert self.told() == [("silence", "", "recovered")]

    def test_a_restarted_worker_neither_repeats_nor_forgets(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        self.look(60)
        assert self.look(61, check=SilenceCheck()) == 0
        self.hear({"cpu": 5}, at_s=70)
        assert self.look(129, check=SilenceCheck()) == 0
        assert self.look(130, check=SilenceCheck()) == 1

    def test_two_workers_fire_once(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        told: list[int] = []

        def work() -> None:
            told.append(self.look(60, check=SilenceCheck()))
            connections.close_all()

        workers = [Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(told) == [0, 1]
        assert self.notified() == ["firing"]

    def test_a_message_that_is_being_committed_is_waited_for(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        told: list[int] = []

        def work() -> None:
            told.append(self.look(60, check=SilenceCheck()))
            connections.close_all()

        worker = Thread(target=work)
        counters = self.writer._counters

        def meanwhile(cursor: Any, ledger: Any) -> None:
            """The batch holds its channel; the worker has to wait for it."""
            worker.start()
            worker.join(timeout=0.5)
            assert worker.is_alive()
            counters(cursor, ledger)

        self.writer._counters = meanwhile  # type: ignore[method-assign]
        self.hear({"cpu": 5}, at_s=59.9)
        worker.join(timeout=20)
        assert (told, self.told()) == ([0], [])

    def test_many_devices_fall_silent_together(self) -> None:
        self.silence_rule(60)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO devices_device (account_id, device_id, channel_id, enabled, created_at, description,"
                " pending, device_type, location, manufacturer, replay_when_mapped, config_version)"
                " SELECT account_id, 'many-' || n, channel_id, true, now(), '', false, '', '', '', false, 0"
                " FROM devices_device, generate_series(1, 500) AS n WHERE id = %s",
                [self.web1.pk],
            )
            cursor.execute(
                "INSERT INTO devices_devicetraffic (device_key, writer, received, stored, duplicate, refused, limited,"
                " last_seen) SELECT id, 'mqtt-0', 0, 0, 0, 0, 0, %s FROM devices_device WHERE device_id LIKE 'many-%%'",
                [self.at(0)],
            )
        assert self.look(1) == 0
        assert self.look(60) == 500
        assert self.look(61) == 0
        assert Alert.objects.count() == 500


class IngestTest(SilenceTestCase):
    def test_nobody_is_silent_while_the_intake_is_interrupted(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        away = Way(None)
        assert self.check.check(now=self.at(500), ingest=Ingest(away, away, records_newest)) == 0

    def test_what_is_not_stored_yet_is_not_judged(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        assert self.look(100, until_s=59) == 0
        assert self.look(101, until_s=60) == 1

    def test_the_time_of_an_interruption_does_not_count(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        self.pause(50, 80)
        assert self.look(89) == 0
        assert self.look(90) == 1

    def test_each_way_is_judged_by_itself(self) -> None:
        self.silence_rule(60)
        self.hear({"cpu": 5}, at_s=0)
        mqtt, http = Way(self.at(100)), Way(None)
        DeviceTraffic.objects.update(writer="http-2")
        assert self.check.check(now=self.at(100), ingest=Ingest(mqtt, http, records_newest)) == 0
        DeviceTraffic.objects.update(writer="mqtt-0")
        assert SilenceCheck().check(now=self.at(100), ingest=Ingest(mqtt, http, records_newest)) == 1


class StreamTest(SilenceTestCase):
    def test_a_stream_that_stops_while_others_go_on_is_silent(self) -> None:
        self.silence_rule(60, source="gpu:temp")
        self.hear({"cpu": 1, "gpu": {"temp": 50}}, at_s=0)
        for at_s in range(10, 60, 10):
            self.hear({"cpu": 1}, at_s=at_s)
        assert self.look(59) == 0
        assert self.look(60) == 1
        assert self.silent() == [("", "gpu:temp")]
        self.hear({"cpu": 1}, at_s=61)
        assert self.silent() == [("", "gpu:temp")]
        self.hear({"gpu": {"temp": 40}}, at_s=70)
        assert self.told() == [("silence", "gpu:temp", "recovered")]

    def test_each_key_of_a_pattern_and_each_tag_is_silent_on_its_own(self) -> None:
        self.silence_rule(60, source="disk:*:used")
        self.hear({"disk": {"sda": {"used": 1}, "sdb": {"used": 1}}}, at_s=0)
        self.hear({"disk": {"sda": {"used": 1}}}, at_s=0, tag="rack")
        self.hear({"disk": {"sda": {"used": 1}}}, at_s=50)
        assert self.look(60) == 2
        assert self.silent() == [("", "disk:sdb:used"), ("rack", "disk:sda:used")]
        assert self.look(110) == 1
        assert len(self.silent()) == 3

    def test_values_that_come_in_turns_within_one_shape_are_not_silent(self) -> None:
        self.silence_rule(60, source="disk:*:used")
        for at_s in range(0, 100, 10):
            name = "sda" if at_s % 20 else "sdb"
            self.hear({"disk": {name: {"used": 1}}}, at_s=at_s)
            assert self.look(at_s) == 0
        assert self.look(139) == 0
        assert self.look(140) == 1
        assert self.silent() == [("", "disk:sdb:used")]
        assert self.look(150) == 1

    def test_a_device_that_sends_old_data_has_no_silent_streams(self) -> None:
        self.silence_rule(60, source="cpu")
        self.hear({"cpu": 1}, at_s=0)
        for at_s in range(10, 300, 10):
            self.hear({"cpu": 1}, at_s=at_s - 5_000, received_s=at_s)
            assert self.look(at_s) == 0
        assert self.look(349) == 0
        assert self.look(350) == 1

    def test_a_late_value_ends_the_silence_and_it_has_its_full_time_again(self) -> None:
        self.silence_rule(60, source="gpu")
        self.hear({"cpu": 1, "gpu": 1}, at_s=0)
        for at_s in range(10, 200, 10):
            self.hear({"cpu": 1}, at_s=at_s)
        assert self.look(190) == 1
        self.hear({"gpu": 1}, at_s=100, received_s=195)
        assert self.silent() == []
        for at_s in range(200, 255, 10):
            self.hear({"cpu": 1}, at_s=at_s)
            assert self.look(at_s) == 0
        assert self.look(255) == 1

    def test_a_device_whose_clock_was_ahead_is_not_silent_when_it_is_set_back(self) -> None:
        self.silence_rule(60, source="cpu")
        self.hear({"cpu": 1}, at_s=3_000, received_s=0)
        for at_s in range(10, 100, 10):
            self.hear({"cpu": 1, "load": 1}, at_s=at_s)
            assert self.look(at_s) == 0

    def test_without_a_source_a_tag_is_watched(self) -> None:
        self.silence_rule(60, tag="rack")
        self.hear({"cpu": 1}, at_s=0, tag="rack")
        for at_s in range(10, 60, 10):
            self.hear({"cpu": 1}, at_s=at_s)
        assert self.look(60) == 1
        assert self.silent() == [("rack", "")]
        self.hear({"load": 1}, at_s=65)
        assert self.silent() == [("rack", "")]
        self.hear({"load": 1}, at_s=66, tag="rack")
        assert self.told() == [("silence", "", "recovered")]

    def test_a_rule_may_watch_the_value_and_its_silence(self) -> None:
        self.silence_rule(60, source="cpu", operator=">", threshold="90")
        self.hear({"cpu": 95, "load": 1}, at_s=0)
        assert self.look(60) == 1
        assert self.told() == [("value", "cpu", "firing"), ("silence", "cpu", "firing")]
        self.hear({"cpu": 5}, at_s=65)
        assert [what for _, _, what in self.told()] == ["recovered", "recovered"]

    def test_the_cadence_of_a_stream_is_learned_from_its_own_distances(self) -> None:
        self.silence_rule(0, source="smart")
        for at_s in range(-6_000, 1, 60):
            value = {"cpu": 1} if at_s % 600 else {"cpu": 1, "smart": 1}
            self.hear(value, at_s=at_s, received_s=at_s)
        usual_s = HeardStream.objects.get().usual_s
        assert usual_s == 600
        for at_s in range(60, 2_990, 60):
            self.hear({"cpu": 1}, at_s=at_s)
        assert self.look(2_999) == 0
        assert self.look(3_000) == 1

    def test_a_restarted_writer_and_worker_go_on(self) -> None:
        self.silence_rule(60, source="cpu")
        self.hear({"cpu": 1, "load": 1}, at_s=0)
        self.look(60)
        self.street = Street(Writer(name="restarted"))
        self.addCleanup(self.street.writer.close)
        self.hear({"load": 1}, at_s=61)
        assert self.look(62, check=SilenceCheck()) == 0
        self.hear({"cpu": 1}, at_s=63)
        assert self.told() == [("silence", "cpu", "recovered")]
        assert self.look(122, check=SilenceCheck()) == 0
        assert self.look(123, check=SilenceCheck()) == 1

    def test_an_edited_rule_watches_anew_and_forgets_what_it_watched(self) -> None:
        rule = self.silence_rule(60, source="cpu")
        self.hear({"cpu": 1, "load": 1}, at_s=0)
        rule_update(rule, changes={"source": "load"}, now=self.at(1))
        self.hear({"cpu": 1, "load": 1}, at_s=2)
        assert self.look(62) == 1
        assert self.silent() == [("", "load")]
        assert list(HeardStream.objects.values_list("key", flat=True)) == ["load"]

    def test_what_a_failed_batch_heard_is_noted_again(self) -> None:
        self.silence_rule(60, source="cpu")
        message = self.heard({"cpu": 1}, at_s=0)
        counters = self.writer._counters

        def failing(cursor: Any, ledger: Any) -> None:
            raise ZeroDivisionError

        self.writer._counters = failing  # type: ignore[method-assign]
        with self.assertRaises(ZeroDivisionError):
            self.street.process([message])
        self.writer._counters = counters  # type: ignore[method-assign]
        self.street.process([message])
        assert self.look(60) == 1


class VanishedTest(SilenceTestCase):
    def test_an_alert_whose_value_came_no_more_for_a_day_ends(self) -> None:
        self.rule("disk:sdb")
        self.hear({"disk": {"sda": 1, "sdb": 95}}, at_s=0)
        day = timedelta(days=1).total_seconds()
        self.hear({"disk": {"sda": 1}}, at_s=day - 1)
        assert vanished_end(now=self.at(day)) == 0
        self.hear({"disk": {"sda": 1}}, at_s=day)
        assert vanished_end(now=self.at(day + 1)) == 1
        assert self.told() == [("value", "disk:sdb", "vanished")]
        assert self.standing() == []
        assert self.notified() == ["firing", "resolved"]

    def test_not_if_the_device_itself_is_silent(self) -> None:
        self.rule("cpu")
        self.hear({"cpu": 95}, at_s=0)
        assert vanished_end(now=self.at(timedelta(days=9).total_seconds())) == 0

    def test_not_before_ten_usual_intervals(self) -> None:
        self.rule("cpu")
        self.hear({"cpu": 95}, at_s=0)
        day = timedelta(days=1).total_seconds()
        self.hear({"load": 1}, at_s=day)
        usual = {"usual_interval_s": day / 5, "received": 20, "stored": 20}
        DeviceTraffic.objects.update(**usual)
        assert vanished_end(now=self.at(day + 1)) == 0
        self.hear({"load": 1}, at_s=2 * day)
        DeviceTraffic.objects.update(**usual)
        assert vanished_end(now=self.at(2 * day + 1)) == 1
