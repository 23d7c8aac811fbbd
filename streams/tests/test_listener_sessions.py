"""Sessions on a broker that is not ours: the listener reads its log from the topic."""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from devices.models import BrokerFollowed, Session
from devices.sessions import device_listens, session_list
from servwatch_site.tests.broker import MqttClient
from servwatch_site.tests.listening import ListeningTestCase
from servwatch_site.tests.waiting import wait_until


class ListenerSessionsTest(ListeningTestCase):
    def live(self) -> list[str]:
        return [row.client_id for row in session_list(self.owner) if not row.client_id.startswith("auto-")]

    def wait_for(self, *clients: str, timeout_s: float = 20) -> None:
        wait_until(
            lambda: self.live() == sorted(clients), timeout_s=timeout_s, what=f"the sessions {clients}"
        )

    def test_it_shows_who_is_connected_and_who_takes_commands(self) -> None:
        topic = f"{self.device_token}/web-1/subscribe"
        with self.device(client_id="any name") as client:
            self.wait_for("any name")
            client.subscribe(topic)
            wait_until(lambda: device_listens(self.owner.pk, "web-1"), what="the subscription")
            client.unsubscribe(topic)
            wait_until(lambda: not device_listens(self.owner.pk, "web-1"), what="its end")
        self.wait_for()

    def test_an_unsubscription_imitates_nothing(self) -> None:
        with self.device(client_id="victim"), self.device(client_id="Client") as attacker:
            self.wait_for("Client", "victim")
            attacker.unsubscribe("victim disconnected.")
            with self.device(client_id="later"):
                self.wait_for("Client", "later", "victim")

    def test_a_short_absence_of_the_listener_misses_nothing(self) -> None:
        with self.device(client_id="stays"):
            with self.device(client_id="leaves"):
                self.wait_for("leaves", "stays")
                self.listener.kill()
            with self.device(client_id="comes"):
                self.listener.start()
                self.wait_for("comes", "stays")
            self.wait_for("stays")

    def test_after_a_long_absence_nobody_counts_until_the_log_says_so(self) -> None:
        with self.device(client_id="stays") as client:
            self.wait_for("stays")
            wait_until(BrokerFollowed.objects.exists, what="the mark of what was read")
            self.listener.stop()
            BrokerFollowed.objects.update(until=timezone.now() - timedelta(minutes=1))
            self.listener.start()
            self.wait_for()
            client.subscribe(f"{self.device_token}/web-1/subscribe")
            with self.device(client_id="comes"):
                self.wait_for("comes")
        self.wait_for()

    def test_a_restart_of_the_broker_ends_the_sessions_of_before(self) -> None:
        def client(client_id: str) -> Any:
            return self.device(client_id=client_id)

        gone: MqttClient = client("gone")
        with gone:
            self.wait_for("gone")
            gone._client.reconnect_delay_set(min_delay=60, max_delay=60)
            self.broker.restart()
            self.wait_for_listener()  # who comes before it counts only with the next line about them
            with client("comes"):
                self.wait_for("comes", timeout_s=40)  # the broker tells its uptime every two seconds
        assert Session.objects.filter(connected=True, account=self.stranger).count() == 0
