"""`/metrics`: who may read it, and that it says what is so."""

from datetime import timedelta

from django.test import Client, override_settings
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from devices.selectors import DeviceFilter, device_count, devices_of_all
from events.models import Delivery, Notifier
from events.notifiers_store import notifier_create
from servwatch_site.tests.street import StreetTestCase
from streams.lag import BATCH_SECONDS, BATCH_SIZES
from streams.models import BrokerLoad, ListenerSlot

ELSEWHERE = "192.0.2.7"
TOKEN = "metrics-token-of-the-tests"


class MetricsTest(StreetTestCase):
    def status(self, *, address: str = "127.0.0.1", **headers: str) -> int:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return Client(REMOTE_ADDR=address).get("/metrics", headers=names).status_code

    def samples(self) -> dict[tuple[str, str], float]:
        """(name, label values in the order of the labels) -> value."""
        text = Client().get("/metrics").content.decode()
        return {
            (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def test_this_machine_may_read_it_and_no_other_without_the_token(self) -> None:
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            assert self.status(address=address) == 200
        assert self.status(address=ELSEWHERE) == 401
        assert self.status(address=ELSEWHERE, Authorization="Bearer ") == 401
        assert self.status(X_Forwarded_For=ELSEWHERE) == 401
        with override_settings(METRICS_TOKEN=TOKEN):
            assert self.status(address=ELSEWHERE, Authorization=f"Bearer {TOKEN}") == 200
            assert self.status(address=ELSEWHERE, Authorization=f"Bearer {TOKEN}x") == 401
            assert self.status(address=ELSEWHERE, Authorization=f"Basic {TOKEN}") == 401
        with override_settings(BEHIND_PROXY=True):
            assert self.status(X_Forwarded_For=f"127.0.0.1, {ELSEWHERE}") == 401

    def test_its_counters_add_up(self) -> None:
        self.send("json/web-1", "1")
        self.send("json/web-1", "{")
        self.send("json/new-1", "1")
        found = self.samples()
        refused = sum(value for (name, _), value in found.items() if name == "servwatch_refused_total")
        parts = [found[f"servwatch_{name}_total", ""] for name in ("stored", "duplicate", "limited")]
        assert found["servwatch_received_total", ""] == sum(parts) + refused == 3
        assert found["servwatch_refused_total", "BAD_JSON_FORMAT"] == 1

    def test_it_tells_how_far_listeners_are(self) -> None:
        now = timezone.now()
        ListenerSlot.objects.create(
            slot=0,
            reported_at=now,
            connected=True,
            lag_s=0.5,
            queued=7,
            committed=30,
            batch_sizes=[2, 1, *[0] * (len(BATCH_SIZES) - 1)],
            batch_durations=[3, *[0] * len(BATCH_SECONDS)],
            batch_seconds=0.25,
        )
        ListenerSlot.objects.create(slot=1, reported_at=now - timedelta(minutes=1))
        BrokerLoad.objects.create(messages=120, message_bytes=5000, retained=20, dropped=3, at=now)
        found = self.samples()
        assert found["servwatch_lag_seconds", "0"] == 0.5
        assert found["servwatch_lag_seconds", "1"] >= 60
        assert found["servwatch_slot_connected", "0"] == 1
        assert found["servwatch_slot_connected", "1"] == 0
        assert found["servwatch_lag_messages", ""] == found["servwatch_broker_messages", ""] == 100
        assert found["servwatch_broker_bytes", ""] == 5000
        assert found["servwatch_broker_dropped_total", ""] == 3
        assert found["servwatch_batch_messages_bucket", "1.0,0"] == 2
        assert found["servwatch_batch_messages_bucket", "+Inf,0"] == 3
        assert found["servwatch_batch_messages_sum", "0"] == 30
        assert found["servwatch_batch_seconds_sum", "0"] == 0.25
        assert found["servwatch_database_bytes", ""] > 0
        assert found["servwatch_record_days", ""] >= 0

    def test_it_tells_what_waits_to_be_delivered(self) -> None:
        made = timezone.now() - timedelta(minutes=5)
        address = {"url": "https://x.example.org/secret-4711"}
        hook = notifier_create(self.owner, kind="webhook", settings=address)
        for status in ("pending", "expired", "delivered"):
            Delivery.objects.create(
                account=self.owner, notifier=hook, status=status, created_at=made, expires_at=made
            )
        Notifier.objects.update(failures=3)
        found = self.samples()
        assert found["servwatch_deliveries_pending", ""] == found["servwatch_deliveries_failed", ""] == 1
        assert found["servwatch_deliveries_oldest_seconds", ""] >= 300
        assert found["servwatch_receivers_failing", ""] == 1

    def test_it_names_no_account_and_no_secret(self) -> None:
        self.send("json/web-1", "1")
        text = Client().get("/metrics").content.decode()
        for secret in (self.owner.user_id, self.device_token, "alice", "web-1"):
            assert secret not in text

    def test_it_judges_who_is_online_as_the_console_does(self) -> None:
        self.send("json/web-1", "1")
        now = timezone.now()
        there, online = devices_of_all(now=now)
        assert there == sum(device_count(account, now=now) for account in (self.owner, self.stranger))
        narrow = DeviceFilter(online=True)
        assert online == device_count(self.owner, narrow=narrow, now=now) == 1
