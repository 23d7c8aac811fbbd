"""Silence with a real broker and a real listener."""

import json
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from devices.models import DeviceTraffic
from events.models import Alert
from events.services import rule_create
from events.silence import SilenceCheck
from servwatch_site.tests.listening import ListeningTestCase
from servwatch_site.tests.waiting import wait_until
from streams.ingest_progress import ingest_progress
from streams.models import IngestPause

ABSENT_S = 2


class ListenerAwayTest(ListeningTestCase):
    def setUp(self) -> None:
        super().setUp()
        changes = {"channel": self.servers, "absent_s": ABSENT_S}
        rule_create(self.owner, changes=changes)
        self.check = SilenceCheck()

    def look(self) -> int:
        now = timezone.now()
        return self.check.check(now=now, ingest=ingest_progress(now=now))

    def is_live(self) -> bool:
        return ingest_progress(now=timezone.now()).mqtt.until is not None

    def last_seen_s(self) -> float:
        """How long ago the device was heard."""
        rows = DeviceTraffic.objects.filter(device_key=self.web1.pk).order_by("-last_seen")
        last_seen = rows.values_list("last_seen", flat=True).first()
        assert last_seen is not None
        return (timezone.now() - last_seen).total_seconds()

    def say(self, value: int) -> None:
        with self.device() as device:
            device.deliver(f"{self.device_token}/json/web-1", json.dumps({"cpu": value}))

    def stored(self) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM streams_record WHERE device_key = %s", [self.web1.pk])
            return int(cursor.fetchone()[0])

    def test_a_listener_away_makes_nobody_silent_and_then_the_silent_are_found(self) -> None:
        wait_until(self.is_live, what="a listener that tells how far it is")
        self.say(1)
        wait_until(lambda: self.stored() == 1, what="the first message")
        self.listener.kill()
        wait_until(lambda: self.last_seen_s() > 2 * ABSENT_S, what="more than the time of silence")
        self.say(2)  # the broker keeps it
        assert self.look() == 0
        self.listener.start()
        # Whatever the loop sees meanwhile, nobody is silent before the listener has what was kept for it.
        wait_until(lambda: self.look() == 0 and self.stored() == 2, what="the message that was kept")
        assert Alert.objects.count() == 0
        assert self.look() == 0
        wait_until(lambda: self.look() == 1, what="the silence of a device that sends no more")
        alert = Alert.objects.get()
        assert (alert.cause, alert.device_key) == ("silence", self.web1.pk)
        assert alert.fired_at - alert.since >= timedelta(seconds=ABSENT_S)
        assert IngestPause.objects.filter(way="mqtt").exists()
        self.say(3)
        wait_until(lambda: Alert.objects.get().resolution == "recovered", what="its end")
