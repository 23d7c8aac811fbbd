import json
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from devices.models import RefusedSignIn
from devices.selectors import device_traffic
from servwatch_site.tests import listening
from servwatch_site.tests.broker import MqttClient
from servwatch_site.tests.listening import ListenerProcess, ListeningTestCase
from servwatch_site.tests.waiting import wait_until
from streams.connectors.mqtt import delivery_digest
from streams.connectors.mqtt_client import Packet
from streams.models import DeliveryBatch, RefusedMessage
from tokens.selectors import Traffic, device_token_reveal
from tokens.services import device_token_issue


def values(device_id: str) -> list[Any]:
    """The values stored for a device, by time."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.value FROM streams_record r JOIN devices_device d ON d.id = r.device_key"
            " WHERE d.device_id = %s AND d.deleted_at IS NULL ORDER BY r.at",
            [device_id],
        )
        return [json.loads(row[0]) for row in cursor.fetchall()]


class ListenerTest(ListeningTestCase):
    def test_it_stores_what_devices_publish_on_all_topics(self) -> None:
        with self.device() as device:
            device.deliver(f"{self.device_token}/json/web-1", '{"cpu":{"idle":93.1}}')
            device.deliver(f"{self.device_token}/json/web-1/rack", "5", qos=2)
            device.deliver(f"{self.device_token}/json/web-1", "6", qos=0)
            device.deliver(f"{self.device_token}/binary/web-1", b"\x01\xff")
            device.deliver(f"{self.device_token}/web-1", "v=11.1&v2=47.9")
            device.deliver(f"{self.device_token}/state/web-1", "fw=9")
            wait_until(lambda: device_traffic(self.web1).received == 6, what="six messages")
        assert values("web-1") == [{"cpu": {"idle": 93.1}}, 5, 6, "01ff", {"value": 11.1, "value2": 47.9}]
        self.web1.refresh_from_db()
        assert self.web1.state is not None and self.web1.state["fw"] == 9

    def test_a_retained_message_is_stored_once(self) -> None:
        with self.device() as device:
            device.deliver(f"{self.device_token}/json/web-1", "1", retain=True)
            wait_until(lambda: values("web-1") == [1], what="the message")
        self.listener.kill()
        self.listener.start()
        self.wait_for_listener()
        assert values("web-1") == [1]

    def test_what_arrives_while_it_is_away_is_stored_when_it_is_back(self) -> None:
        assert self.listener.stop() == 0
        with self.device() as device:
            for number in range(50):
                device.deliver(f"{self.device_token}/json/web-1", str(number))
        self.listener.start()
        wait_until(lambda: len(values("web-1")) == 50, what="the messages of the outage")
        assert values("web-1") == list(range(50))
        assert device_traffic(self.web1) == Traffic(received=50, stored=50)

    def test_it_survives_a_restart_of_the_broker(self) -> None:
        with self.device() as device:
            device.deliver(f"{self.device_token}/json/web-1", "1")
        wait_until(lambda: values("web-1") == [1], what="the first message")
        self.broker.restart()
        with self.device() as device:
            device.deliver(f"{self.device_token}/json/web-1", "2")
        wait_until(lambda: values("web-1") == [1, 2], what="the second message")

    def test_bad_messages_do_not_stop_it(self) -> None:
        with self.device() as device:
            for payload in (b"{", b'{"a":1e400}', b"\xff", b"x" * 300_000, b'{"a":"\\u0000"}', b""):
                device.deliver(f"{self.device_token}/json/web-1", payload)
            device.deliver(f"{self.device_token}/json/web-1", "1")
            wait_until(lambda: values("web-1") == [1], what="the good message")
        assert RefusedMessage.objects.filter(device_key=self.web1.pk).count() == 6

    def test_it_keeps_the_delivery_log(self) -> None:
        with self.device() as device:
            device.deliver(f"{self.device_token}/json/web-1", "1")
            wait_until(lambda: values("web-1") == [1], what="the message")
        newest = DeliveryBatch.objects.order_by("-pk")[0]
        assert newest.slot == 0
        topic = f"{self.device_token}/json/web-1"
        assert newest.digests[-1] == delivery_digest(Packet(topic, b"1", 0, 1, False, False))
        assert len(newest.packet_ids) == len(newest.digests)
        assert newest.packet_ids[-1] > 0
        assert (datetime.now(UTC) - newest.received_at).total_seconds() < 60


class TwoListenersTest(ListeningTestCase):
    def test_a_second_listener_of_the_slot_waits_and_takes_over_when_the_first_dies(self) -> None:
        with ListenerProcess(
            mqtt_port=self.broker.port, database_url=listening.test_database_url()
        ) as second:
            with self.device() as device:
                for number in range(20):
                    device.deliver(f"{self.device_token}/json/web-1", str(number))
                wait_until(lambda: len(values("web-1")) == 20, what="messages with two listeners")
                self.listener.kill()
                for number in range(20, 40):
                    device.deliver(f"{self.device_token}/json/web-1", str(number))
                wait_until(lambda: len(values("web-1")) == 40, what="messages through the second")
            assert values("web-1") == list(range(40))
            assert second.running.poll() is None
            # The kill may fall between a commit and its acknowledgement: then the survivor knows what comes again.
            again = device_traffic(self.web1).duplicate
            assert device_traffic(self.web1) == Traffic(received=40 + again, stored=40, duplicate=again)
        self.listener.start()  # so that the end of the test finds one to stop


class BrokerAccessTest(ListeningTestCase):
    def test_a_wrong_password_is_refused_at_connect_and_the_operator_sees_it(self) -> None:
        with MqttClient(
            self.broker.port, user=self.owner.user_id, password="wrong", client_id="web-1"
        ) as client:
            assert client.refused is not None
        wait_until(RefusedSignIn.objects.exists, what="the refused sign-in")
        refused = RefusedSignIn.objects.get()
        assert refused.address == "127.0.0.1"
        assert refused.client_id in ("", "web-1")  # this broker's version decides whether it names the client

    def test_a_foreign_topic_is_stored_for_nobody(self) -> None:
        foreign = device_token_reveal(self.stranger)
        for version in (4, 5):
            with self.device(version=version) as attacker:
                attacker.publish(f"{foreign}/json/web-1", "666")
                attacker.publish(
                    f"{self.device_token}/json/web-1", "0", qos=0
                )  # in order: both have been judged
        with self.device() as device:
            device.deliver(f"{self.device_token}/json/web-1", "1")
            wait_until(lambda: 1 in values("web-1"), what="the message to the own topic")
        assert 666 not in values("web-1")
        assert not RefusedMessage.objects.filter(payload=b"666").exists()

    def test_subscriptions_outside_the_own_token_deliver_nothing_and_steal_nothing(self) -> None:
        spied = device_token_reveal(self.stranger)
        filters = ["#", "+/json/#", "+/+", f"{spied}/#", "$share/servwatch/+/json/#", "$share/x/#", "$SYS/#"]
        with (
            self.device(client_id="spy") as spy,
            MqttClient(self.broker.port, user=self.stranger.user_id, password=spied) as victim,
        ):
            for topic in filters:
                spy.subscribe(topic)
            for number in range(40):
                victim.deliver(f"{spied}/json/db-1", str(number))
            spy.deliver(f"{self.device_token}/json/web-1", "1")
            wait_until(lambda: values("web-1") == [1], what="the spy's own message")

            def stored() -> int:
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT coalesce(sum(received), 0) FROM tokens_accounttraffic WHERE account_key = %s",
                        [self.stranger.pk],
                    )
                    return int(cursor.fetchone()[0])

            wait_until(lambda: stored() == 40, what="all of the victim's messages")
            assert [topic for topic, _ in spy.received if not topic.startswith(self.device_token)] == []

    def test_nobody_can_take_the_listeners_session_by_guessing(self) -> None:
        for guess in ("servwatch-listener", "sw-0", "listener"):
            with self.device(client_id=guess) as device:
                device.deliver(f"{self.device_token}/json/web-1", "1")
        wait_until(lambda: len(values("web-1")) == 3, what="three messages")

    def test_a_new_token_is_in_force_after_the_reload_and_the_old_one_is_not(self) -> None:
        old = self.device_token
        new = device_token_issue(self.owner)
        self.broker.reload()

        def refused(password: str) -> bool:
            with MqttClient(self.broker.port, user=self.owner.user_id, password=password) as client:
                return client.refused is not None

        wait_until(lambda: refused(old), what="the refusal of the old token")
        assert not refused(new)
        with MqttClient(self.broker.port, user=self.owner.user_id, password=new) as device:
            device.deliver(f"{new}/json/web-1", "7")
            wait_until(lambda: values("web-1") == [7], what="a message under the new token")
