"""A listener that dies between commit and acknowledgement: the hardest moment, made on purpose."""

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

from devices.broker import broker_accounts, listener_login
from devices.broker_address import BrokerAddress
from devices.selectors import device_traffic
from servwatch_site.tests.broker import MqttClient, RunningBroker
from servwatch_site.tests.street import StreetTestCase
from servwatch_site.tests.waiting import wait_until
from streams.connectors.mqtt import Listener
from streams.connectors.mqtt_client import ListenerClient
from streams.pipeline import Street
from streams.tests.test_pipeline import records
from streams.writer import Writer
from tokens.selectors import Traffic


def swallowed(_client: ListenerClient, _packet_ids: Sequence[int]) -> bool:
    """The process died just before it could send the acknowledgements."""
    return False


class RedeliveryTest(StreetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.broker = self.enterContext(RunningBroker(broker_accounts))

    def listen(self, *, until: int, version: int = 4) -> None:
        """Run a listener of our own until the device's messages received reach `until`."""

        async def session() -> None:
            listener = Listener(
                Street(Writer(name="mqtt-0", slot=0)),
                address=BrokerAddress("127.0.0.1", self.broker.port, tls=False),
                login=listener_login(0),
                slot=0,
                version=version,
            )
            running = asyncio.create_task(listener.run())

            def enough() -> bool:
                return running.done() or (listener.connections > 0 and listener.committed >= until)

            await asyncio.to_thread(wait_until, enough, what=f"a session and {until} messages")
            listener.stop()
            await running

        asyncio.run(session())

    def publish(self, numbers: range) -> None:
        with MqttClient(self.broker.port, user=self.owner.user_id, password=self.device_token) as device:
            for number in numbers:
                device.deliver(f"{self.device_token}/json/web-1", str(number))

    def check_nothing_twice(self, *, version: int) -> None:
        self.listen(until=0, version=version)  # makes the session
        self.publish(range(30))
        with patch.object(ListenerClient, "acknowledge", swallowed):
            self.listen(until=30, version=version)
        assert device_traffic(self.web1) == Traffic(received=30, stored=30)
        self.publish(range(30, 40))
        self.listen(until=40, version=version)
        assert [row[5] for row in records()] == list(range(40))
        assert device_traffic(self.web1) == Traffic(received=70, stored=40, duplicate=30)

    def test_what_was_committed_but_not_acknowledged_is_told_apart(self) -> None:
        self.check_nothing_twice(version=4)

    def test_the_same_with_mqtt_5(self) -> None:
        self.check_nothing_twice(version=5)

    def test_after_a_clean_restart_of_the_broker_too(self) -> None:
        self.listen(until=0)
        self.publish(range(30))
        with patch.object(ListenerClient, "acknowledge", swallowed):
            self.listen(until=30)
        self.broker.restart()
        self.listen(until=30)
        assert [row[5] for row in records()] == list(range(30))
        assert device_traffic(self.web1) == Traffic(received=60, stored=30, duplicate=30)

    def test_equal_payloads_from_a_device_are_not_taken_for_redeliveries(self) -> None:
        self.listen(until=0)
        with MqttClient(self.broker.port, user=self.owner.user_id, password=self.device_token) as device:
            for _ in range(20):
                device.deliver(f"{self.device_token}/json/web-1", "1")
        self.listen(until=20)
        assert len(records()) == 20
