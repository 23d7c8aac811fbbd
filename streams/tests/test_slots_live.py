"""Several slots with a real broker: dealt out, taken over, made and ended under load; nothing lost, nothing twice."""

import asyncio
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Self
from unittest.mock import patch

import paho.mqtt.client as paho
from django.db import connection
from django.utils import timezone

from devices.broker import broker_accounts, listener_login, listener_mark_topic
from devices.broker_address import BrokerAddress
from servwatch_site.tests import listening
from servwatch_site.tests.broker import MqttClient, RunningBroker
from servwatch_site.tests.listening import ListenerProcess
from servwatch_site.tests.street import CommittedTestCase
from servwatch_site.tests.waiting import wait_until
from streams.connectors.mqtt import Listener
from streams.connectors.mqtt_client import ListenerClient
from streams.connectors.slot_keeper import SlotKeeper
from streams.models import DeliveryBatch, ListenerSlot
from streams.pipeline import Street
from streams.slots import Mark, topic_share
from streams.writer import Writer
from tokens.models import Account, AccountTraffic

DEVICES = 12
TWO_SLOTS = {"SERVWATCH_LISTENER_SLOTS": "2"}


class Load:
    """Devices that publish numbers without a time of their own, one after the other, until the block ends."""

    def __init__(self, port: int, *, user: str, token: str) -> None:
        self._client = MqttClient(port, user=user, password=token)
        self._token = token
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def __enter__(self) -> Self:
        self._client.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=20)
        self._client.__exit__(None, None, None)

    def _run(self) -> None:
        while not self._ended.is_set():
            waiting = [self._publish() for _ in range(50)]
            for message in waiting:
                message.wait_for_publish(timeout=20)

    def _publish(self) -> paho.MQTTMessageInfo:
        topic = f"{self._token}/json/web-{self.sent % DEVICES}"
        self.sent += 1
        return self._client.publish(topic, str(self.sent - 1))


def waited(condition: Callable[[], bool], *, what: str) -> None:
    """In a thread that may ask the database: its connection ends with the waiting."""
    try:
        wait_until(condition, what=what)
    finally:
        connection.close()


class SlotsTest(CommittedTestCase):
    def setUp(self) -> None:
        super().setUp()
        Account.objects.filter(pk=self.owner.pk).update(default_channel=self.servers.number)
        self.broker = self.enterContext(RunningBroker(broker_accounts))

    def load(self) -> Load:
        return Load(self.broker.port, user=self.owner.user_id, token=self.device_token)

    def slots(self) -> dict[int, int]:
        """Slot -> among how many slots it knows the devices to be dealt out."""
        return dict(ListenerSlot.objects.order_by("slot").values_list("slot", "parts"))

    def numbers(self) -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT value::int FROM streams_record ORDER BY 1")
            return [number for (number,) in cursor.fetchall()]

    def keep(self, wanted: int, until: Callable[[SlotKeeper], bool], *, what: str) -> None:
        """Run one listener process's work here, until the condition holds."""

        async def run() -> None:
            keeper = SlotKeeper(
                address=BrokerAddress("127.0.0.1", self.broker.port, tls=False),
                version=4,
                wanted=wanted,
                follows_log=False,
                settle=timedelta(0),
            )
            running = asyncio.create_task(keeper.run())
            await asyncio.to_thread(waited, lambda: running.done() or until(keeper), what=what)
            keeper.stop()
            await running

        asyncio.run(run())

    def serve(self, *, slot: int = 1, until: int, also: Callable[[], bool] = lambda: True) -> None:
        """Run a slot's listener here until it has committed so many messages, duplicates included."""

        async def run() -> None:
            listener = Listener(
                Street(Writer(name=f"mqtt-{slot}", slot=slot)),
                address=BrokerAddress("127.0.0.1", self.broker.port, tls=False),
                login=listener_login(slot),
                slot=slot,
                version=4,
            )
            running = asyncio.create_task(listener.run())

            def enough() -> bool:
                return running.done() or (listener.connections > 0 and listener.committed >= until and also())

            await asyncio.to_thread(waited, enough, what=f"{until} messages")
            listener.stop()
            await running

        asyncio.run(run())

    def publish(self, numbers: range) -> None:
        with MqttClient(self.broker.port, user=self.owner.user_id, password=self.device_token) as device:
            for number in numbers:
                device.deliver(f"{self.device_token}/json/web-{number % DEVICES}", str(number))

    def mark(self, mark: Mark) -> None:
        login = listener_login(9)
        with MqttClient(self.broker.port, user=login.username, password=login.password) as leader:
            leader.deliver(listener_mark_topic(), mark.encode())

    def slot_of(self, number: int) -> int:
        return topic_share(f"{self.device_token}/json/web-{number % DEVICES}") % 2

    def test_slots_are_made_and_ended_under_load(self) -> None:
        self.keep(1, lambda keeper: keeper.slots == [0], what="the first slot")
        with self.load() as load:
            self.keep(2, lambda keeper: self.slots() == {0: 2, 1: 2}, what="a second slot")
            self.keep(3, lambda keeper: self.slots() == {0: 3, 1: 3, 2: 3}, what="a third slot")
            self.keep(1, lambda keeper: self.slots() == {0: 1}, what="the end of two slots")
            sent = load.sent
            wait_until(lambda: load.sent > sent + 500, what="more messages")
        self.keep(1, lambda keeper: len(self.numbers()) >= load.sent, what="the rest")
        assert self.numbers() == list(range(load.sent))
        assert not DeliveryBatch.objects.exclude(slot=0).exists()
        assert AccountTraffic.objects.filter(writer="mqtt-1", stored__gt=0).exists()

    def test_what_is_published_after_a_restart_of_the_broker_waits_for_every_slot(self) -> None:
        ListenerSlot.objects.bulk_create(ListenerSlot(slot=slot, parts=2, epoch=1) for slot in (0, 1))
        self.keep(2, lambda keeper: keeper.slots == [0, 1], what="two slots")
        self.broker.restart()
        self.publish(range(60))  # no listener has subscribed again yet
        self.keep(2, lambda keeper: len(self.numbers()) >= 60, what="everything")
        assert self.numbers() == list(range(60))

    def process(self) -> ListenerProcess:
        return ListenerProcess(
            mqtt_port=self.broker.port, database_url=listening.test_database_url(), environment=TWO_SLOTS
        )

    def served_by(self) -> list[str]:
        """By whom the slots are served and were connected in the last seconds; empty until all are."""
        rows = ListenerSlot.objects.filter(
            connected=True, reported_at__gt=timezone.now() - timedelta(seconds=5)
        )
        served = list(rows.order_by("slot").values_list("served_by", flat=True))
        return served if len(served) == 2 else []

    def test_a_survivor_takes_over_the_slot_of_a_dead_listener_and_gives_one_back(self) -> None:
        ListenerSlot.objects.bulk_create(ListenerSlot(slot=slot, parts=2, epoch=1) for slot in (0, 1))
        with self.process() as first, self.process() as second:
            wait_until(lambda: len(set(self.served_by())) == 2, what="two listeners with a slot each")
            with self.load() as load:
                wait_until(lambda: len(self.numbers()) > 1000, what="messages through both")
                shared = set(AccountTraffic.objects.filter(stored__gt=300).values_list("writer", flat=True))
                assert shared == {"mqtt-0", "mqtt-1"}
                second.kill()
                survivor = f"{socket.gethostname()}:{first.running.pid}"
                wait_until(lambda: self.served_by() == [survivor] * 2, what="the take-over")
                second.start()
                wait_until(lambda: len(set(self.served_by())) == 2, timeout_s=30, what="an even share again")
            wait_until(lambda: len(self.numbers()) >= load.sent, what="everything")
        assert self.numbers() == list(range(load.sent))

    def test_what_a_dead_listener_had_not_acknowledged_is_known_to_the_survivor(self) -> None:
        ListenerSlot.objects.bulk_create(ListenerSlot(slot=slot, parts=2, epoch=1) for slot in (0, 1))
        self.serve(until=0)
        self.publish(range(40))
        with patch.object(ListenerClient, "acknowledge", lambda *_: False):
            self.serve(until=1)
        committed = self.numbers()
        self.publish(range(40, 60))
        self.serve(until=len(committed) + 1)
        assert self.numbers() == sorted({*committed, *(n for n in range(60) if self.slot_of(n) == 1)})
        traffic = AccountTraffic.objects.get(writer="mqtt-1", account_key=self.owner.pk)
        assert traffic.duplicate == len(committed) > 0

    def test_a_listener_that_dies_at_a_mark_judges_what_comes_again_by_the_old_deal(self) -> None:
        ListenerSlot.objects.bulk_create(ListenerSlot(slot=slot, parts=2, epoch=1) for slot in (0, 1))
        self.serve(slot=0, until=0)
        self.publish(range(40))
        self.mark(Mark(2, 1, 0.0))
        self.publish(range(40, 60))
        no_answer = patch.object(ListenerClient, "ask", lambda client, _topic: client.subscribed.clear())
        with patch.object(ListenerClient, "acknowledge", lambda *_: False), no_answer:
            self.serve(slot=0, until=20 + sum(self.slot_of(n) == 0 for n in range(40)))
        expected = [n for n in range(60) if n >= 40 or self.slot_of(n) == 0]
        assert self.numbers() == expected
        assert self.slots()[0] == 2
        self.serve(slot=0, until=len(expected), also=lambda: self.slots()[0] == 1)
        assert self.numbers() == expected
