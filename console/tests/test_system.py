"""What pages say of the listeners: honest when they are behind, gone, or never were."""

from datetime import timedelta

from django.test import override_settings
from django.utils import timezone

from console.tests.test_pages import ConsoleTestCase
from streams.models import BrokerLoad, ListenerSlot


class SystemTest(ConsoleTestCase):
    def state(self) -> str:
        return self.text("/system/?fragment=state")

    def slot(self, number: int = 0, *, age_s: float = 0, **fields: object) -> None:
        row = {"connected": True, "lag_s": 0.1, "served_by": "host-1:4711", **fields}
        ListenerSlot.objects.create(slot=number, reported_at=timezone.now() - timedelta(seconds=age_s), **row)

    def test_it_says_that_everything_is_stored(self) -> None:
        self.slot()
        assert "Up to date" in self.state()
        assert "Up to date" in self.text("/")
        page = self.text("/system/")
        assert "host-1:4711" in page
        assert "PostgreSQL" in page

    def test_it_says_how_far_listeners_are_behind(self) -> None:
        self.slot(lag_s=14.2, queued=20)
        BrokerLoad.objects.create(
            messages=1210, message_bytes=1000, retained=10, dropped=0, at=timezone.now()
        )
        assert "1200 messages behind, 14 s" in self.state()
        BrokerLoad.objects.update(at=timezone.now() - timedelta(minutes=5))
        assert "20 messages behind, 14 s" in self.state()

    def test_a_slot_without_a_listener_counts_from_its_last_report(self) -> None:
        self.slot()
        self.slot(1, age_s=60, lag_s=None)
        assert "behind" in self.state()
        assert "no listener" in self.text("/system/")

    def test_it_says_since_when_no_listener_runs(self) -> None:
        assert "No listener has run yet" in self.state()
        self.slot(age_s=120)
        assert "No listener is running since" in self.state()
        assert "waits with the broker" in self.text("/?fragment=fleet")

    def test_it_says_when_the_broker_is_out_of_reach(self) -> None:
        self.slot(connected=False)
        assert "No connection to the broker" in self.state()

    def test_it_warns_when_the_broker_is_half_full(self) -> None:
        self.slot(lag_s=40)
        BrokerLoad.objects.create(messages=9, message_bytes=600, retained=0, dropped=0, at=timezone.now())
        with override_settings(BROKER_QUEUE_BYTES=1000):
            assert "it drops what devices publish" in self.text("/")
        with override_settings(BROKER_QUEUE_BYTES=2000):
            assert "it drops what devices publish" not in self.text("/")

    def test_only_people_who_are_signed_in_see_it(self) -> None:
        self.client.logout()
        assert self.client.get("/system/").status_code == 302
