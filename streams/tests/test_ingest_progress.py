"""How far the intake has come, as its reports and the worker's looks tell."""

from datetime import datetime, timedelta

from django.db import connection

from devices.models import DeviceTraffic
from events.services import rule_create
from events.silence import Ingest, Pause
from servwatch_site.tests.cast import NOW, BaseTestCase
from streams.ingest_progress import (
    HTTP_GAP,
    HTTP_ON_THE_WAY,
    MOST_GRACE,
    Live,
    http_live,
    http_tell,
    ingest_progress,
    judged_until,
    mqtt_live,
    silence_step,
)
from streams.lag import SlotReport
from streams.listener_reports import slots_report
from streams.models import IngestPause, ListenerSlot


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_without_a_report_or_with_one_that_is_old_or_knows_nothing_nobody_is_judged() -> None:
    assert mqtt_live([], now=at(0)) is None
    for slot in (
        (None, 0.1, at(-10)),
        (at(-4), 0.1, at(-10)),
        (at(-1), None, at(-10)),
        (at(-1), 0.1, None),
    ):
        assert mqtt_live([(at(-1), 0.1, at(-10)), slot], now=at(0)) is None


def test_the_slot_that_is_farthest_behind_and_began_last_counts() -> None:
    slots = [(at(-1), 0.5, at(-100)), (at(-2), 1.5, at(-10))]
    assert mqtt_live(slots, now=at(0)) == Live(at(-10), at(-3.5))


def test_after_a_longer_interruption_nobody_is_judged_for_a_while() -> None:
    short, long = Pause(at(0), at(4)), Pause(at(0), at(1_000))
    assert judged_until(Live(at(4), at(7.9)), [short]) is None
    assert judged_until(Live(at(4), at(8)), [short]) == at(8)
    grace_s = MOST_GRACE.total_seconds()
    assert judged_until(Live(at(1_000), at(1_000 + grace_s - 1)), [long]) is None
    assert judged_until(Live(at(1_000), at(1_000 + grace_s)), [long]) == at(1_000 + grace_s)
    assert judged_until(Live(at(0), at(5)), []) == at(5)


def test_web_processes_are_there_while_one_says_so() -> None:
    assert http_live(reported_at=None, since=None, now=at(0)) is None
    assert http_live(reported_at=at(0), since=at(-50), now=at(0) + HTTP_GAP * 2) is None
    assert http_live(reported_at=at(0), since=at(-50), now=at(2)) == Live(at(-50), at(0) - HTTP_ON_THE_WAY)


class ProgressTest(BaseTestCase):
    def setUp(self) -> None:
        super().setUp()
        ListenerSlot.objects.create(slot=0)

    def report(self, seconds: float, *, connected: bool = True, lag_s: float | None = 0.0) -> None:
        report = SlotReport(0, connected, lag_s, 0, 0, [], [], 0.0)
        with connection.cursor() as cursor:
            slots_report(cursor, [report], served_by="test", now=at(seconds))  # type: ignore[arg-type]

    def reports(self, first: int, last: int) -> Ingest:
        """One each second, both included, and what the worker found each time; the last of it."""
        for seconds in range(first, last + 1):
            self.report(seconds)
            found = ingest_progress(now=at(seconds + 0.5))
        return found

    def test_it_follows_the_listener(self) -> None:
        assert ingest_progress(now=at(0)).mqtt.until is None
        assert self.reports(0, 5).mqtt.until == at(5)
        self.report(6, lag_s=1.5)
        assert ingest_progress(now=at(6.5)).mqtt.until == at(4.5)
        assert IngestPause.objects.count() == 0

    def test_a_lag_or_a_lost_broker_is_a_pause_when_it_is_over(self) -> None:
        self.reports(0, 5)
        for seconds in range(6, 20):
            self.report(seconds, connected=seconds > 12, lag_s=6.0)
            assert ingest_progress(now=at(seconds + 0.5)).mqtt.until is None
        found = self.reports(20, 40)
        assert found.mqtt.pauses == [Pause(at(5), at(20))]
        assert found.mqtt.until == at(40)

    def test_a_restart_of_the_listener_is_a_short_pause(self) -> None:
        self.reports(0, 5)
        self.report(10, connected=False, lag_s=None)
        found = self.reports(11, 16)
        assert (found.mqtt.until, found.mqtt.pauses) == (None, [Pause(at(5), at(11))])
        assert self.reports(17, 17).mqtt.until == at(17)

    def test_a_worker_that_was_away_learns_what_went_on_meanwhile(self) -> None:
        self.reports(0, 5)
        for seconds in range(6, 100):
            self.report(seconds)
        found = ingest_progress(now=at(99.5))
        assert (found.mqtt.until, found.mqtt.pauses) == (at(99), [])

    def test_everything_was_away(self) -> None:
        self.reports(0, 5)
        found = self.reports(3_600, 3_600 + 60)
        assert found.mqtt.pauses == [Pause(at(5), at(3_600))]
        assert found.mqtt.until == at(3_660)

    def test_a_slot_that_takes_no_devices_yet_does_not_count(self) -> None:
        self.reports(0, 5)
        ListenerSlot.objects.create(slot=1)
        assert self.reports(6, 6).mqtt.until == at(6)
        ListenerSlot.objects.update(parts=2)
        assert self.reports(7, 7).mqtt.until is None

    def test_web_processes_tell_of_themselves_and_their_absence_is_a_pause(self) -> None:
        for seconds in range(0, 11, 2):
            http_tell(now=at(seconds))
            http_tell(now=at(seconds + 0.2))  # another one
        found = ingest_progress(now=at(11))
        assert (found.http.until, found.http.pauses) == (at(8), [])
        assert ingest_progress(now=at(30)).http.until is None
        http_tell(now=at(40))
        found = ingest_progress(now=at(40.5))
        assert found.http.pauses == []  # not before it is sure that what came is stored
        for seconds in range(42, 100, 2):
            http_tell(now=at(seconds))
        found = ingest_progress(now=at(98.5))
        assert found.http.pauses == [Pause(at(8), at(40))]
        assert found.http.until == at(96)

    def test_the_worker_s_step_finds_the_silent(self) -> None:
        rule_create(self.owner, changes={"channel": self.servers, "absent_s": 60})
        DeviceTraffic.objects.create(device_key=self.web1.pk, writer="mqtt-0", last_seen=at(0))
        self.reports(0, 1)
        assert silence_step(now=at(1.5)) == 0
        self.reports(59, 60)  # a pause of 58 s, and as much grace
        self.report(119)
        assert silence_step(now=at(119.5)) == 0
        for seconds in range(120, 180):
            self.report(seconds)
        assert silence_step(now=at(179.5)) == 1

    def test_old_pauses_go(self) -> None:
        self.reports(0, 1)
        self.reports(100, 100)
        self.reports(50 * 86_400, 50 * 86_400)
        assert [pause.ended_at for pause in IngestPause.objects.all()] == [at(50 * 86_400)]
