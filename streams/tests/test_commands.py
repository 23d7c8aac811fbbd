"""Commands over a real broker, with the listener that tells sessions and acknowledgements."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import paho.mqtt.client as paho
from django.test import override_settings
from django.utils import timezone
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from devices.command_sender import sender
from devices.commands import commands_due_send, commands_forget
from devices.models import Command
from devices.sessions import device_listens
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.broker import MqttClient
from servwatch_site.tests.browser import WebProcess
from servwatch_site.tests.listening import ListeningTestCase
from servwatch_site.tests.waiting import wait_until
from tokens.selectors import device_token_reveal


class CommandTestCase(ListeningTestCase):
    call: Any = ApiTestCase.call
    get: Any = ApiTestCase.get
    assert_error: Any = ApiTestCase.assert_error

    def setUp(self) -> None:
        super().setUp()
        self.mqtt_url = f"mqtt://127.0.0.1:{self.broker.port}"
        self.enterContext(override_settings(MQTT_URL=self.mqtt_url))
        self.addCleanup(sender.close)
        self.topic = f"{self.device_token}/web-1/subscribe"

    def publish(self, body: Any, *, device: str = "web-1", token: str | None = None) -> Any:
        return self.call("POST", f"/v2/publish/{device}", body, token=token)

    def publish_ok(self, body: Any, status: int = 200) -> dict[str, Any]:
        answer = self.publish(body)
        assert answer.status_code == status, answer.content
        found: dict[str, Any] = json.loads(answer.content)
        return found

    def state(self, command_id: int) -> str:
        path = f"/v2/publish/web-1/{command_id}"
        return str(self.get(path)["state"])

    def refused(self, answer: Any, status: int, code: str, **more: Any) -> None:
        self.assert_error(answer, status, code, **more)

    def listens(self) -> Callable[[], bool]:
        return lambda: device_listens(self.owner.pk, "web-1")


class OnlineTest(CommandTestCase):
    def test_a_command_to_a_device_that_listens_arrives_untouched(self) -> None:
        with self.device(client_id="web-1") as device:
            device.subscribe(self.topic)
            for qos, payload, expected in (
                (1, "reboot", b"reboot"),
                (0, "ünïcode \n", "ünïcode \n".encode()),
                (1, {"set": {"level": 3}}, b'{"set":{"level":3}}'),
                (1, "", b""),
                (1, [1, None], b"[1,null]"),
            ):
                device.received.clear()
                made = self.publish_ok({"qos": qos, "payload": payload})
                wait_until(lambda: device.received, what="the command")
                assert device.received == [(self.topic, expected)]
                assert (made["state"], made["qos"]) == ("sent", qos)
                assert made["sent_at"] is not None and made["delivered_at"] is None

    def test_nobody_there_and_not_to_be_kept_is_never_called_sent(self) -> None:
        made = self.publish_ok({"qos": 1, "payload": "reboot"})
        assert (made["state"], made["sent_at"]) == ("expired", None)

    def test_another_account_hears_nothing_of_it(self) -> None:
        their_token = device_token_reveal(self.stranger)
        with (
            MqttClient(self.broker.port, user=self.stranger.user_id, password=their_token) as spy,
            self.device(client_id="web-1") as device,
        ):
            for topic in ("+/web-1/subscribe", "#", f"{self.device_token}/#", self.topic):
                spy.subscribe(topic)
            device.subscribe(self.topic)
            self.publish_ok({"qos": 1, "payload": "reboot"})
            wait_until(lambda: device.received, what="the command")
            assert spy.received == []
        self.refused(self.publish({"payload": "x"}, token=self.strange_token), 404, "NO_DEVICE")

    def test_a_device_over_mqtt_5_acknowledges_and_only_then_it_is_delivered(self) -> None:
        properties: list[Any] = []
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="web-1", protocol=MQTTProtocolVersion.MQTTv5
        )
        client.username_pw_set(self.owner.user_id, self.device_token)

        def subscribe(*_: Any) -> None:
            client.subscribe(self.topic, qos=1)

        client.on_connect = subscribe
        client.on_message = lambda _client, _data, message: properties.append(message.properties)
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        try:
            wait_until(self.listens(), what="the subscription being known")
            made = self.publish_ok({"qos": 1, "payload": "reboot"})
            wait_until(lambda: properties, what="the command")
            assert self.state(made["command_id"]) == "sent"
            topic, correlation = properties[0].ResponseTopic, properties[0].CorrelationData
            assert topic == f"{self.device_token}/ack/web-1"
            # Another device's acknowledgement, or one of another command, says nothing of this one.
            client.publish(f"{self.device_token}/ack/new-1", correlation, qos=1)
            client.publish(topic, b"999999", qos=1).wait_for_publish(10)
            client.publish(topic, correlation, qos=1)
            wait_until(lambda: self.state(made["command_id"]) == "delivered", what="the acknowledgement")
        finally:
            client.disconnect()
            client.loop_stop()
            for end in (client._sockpairR, client._sockpairW):
                if end is not None:
                    end.close()
        traffic = self.get("/v2/publish/web-1")
        assert [row["state"] for row in traffic["commands"]] == ["delivered"]
        assert Command.objects.get().delivered_at is not None


class OfflineTest(CommandTestCase):
    def test_it_is_kept_and_sent_in_order_when_the_device_returns(self) -> None:
        with self.device(client_id="web-1") as device:
            device.subscribe(self.topic)
            wait_until(self.listens(), what="the subscription being known")
        wait_until(lambda: not device_listens(self.owner.pk, "web-1"), what="the disconnect being known")
        made = [self.publish_ok({"qos": 1, "payload": f"c{n}", "keep_s": 600}, 202) for n in range(5)]
        assert {row["state"] for row in made} == {"queued"}
        assert commands_due_send(now=timezone.now()) == 0
        with self.device(client_id="web-1") as device:
            device.subscribe(self.topic)
            wait_until(self.listens(), what="the subscription being known")
            assert commands_due_send(now=timezone.now()) == 5
            wait_until(lambda: len(device.received) == 5, what="the commands")
            assert [payload for _topic, payload in device.received] == [b"c0", b"c1", b"c2", b"c3", b"c4"]
        assert [self.state(row["command_id"]) for row in made] == ["sent"] * 5

    def test_a_web_process_sends_it_by_itself(self) -> None:
        made = self.publish_ok({"qos": 1, "payload": "wake up", "keep_s": 600}, 202)
        with patch.dict("os.environ", {"MQTT_URL": self.mqtt_url}), WebProcess():
            with self.device(client_id="web-1") as device:
                device.subscribe(self.topic)
                wait_until(lambda: device.received, what="the kept command")
                assert device.received == [(self.topic, b"wake up")]
            wait_until(lambda: self.state(made["command_id"]) == "sent", what="the state")

    def test_it_expires_and_is_not_sent_after_its_time(self) -> None:
        made = self.publish_ok({"qos": 1, "payload": "late", "keep_s": 60}, 202)
        later = timezone.now() + timedelta(seconds=61)
        with patch("django.utils.timezone.now", return_value=later):
            assert self.state(made["command_id"]) == "expired"
        with self.device(client_id="web-1") as device:
            device.subscribe(self.topic)
            wait_until(self.listens(), what="the subscription being known")
            assert commands_due_send(now=later) == 0
            assert self.state(made["command_id"]) == "expired"
            assert self.publish_ok({"qos": 1, "payload": "mark"})["state"] == "sent"
            wait_until(lambda: device.received, what="the mark")
            assert device.received == [(self.topic, b"mark")]
        assert commands_forget(now=later + timedelta(days=31)) == 2

    def test_a_stranger_who_subscribes_in_vain_does_not_make_it_sent(self) -> None:
        their_token = device_token_reveal(self.stranger)
        with MqttClient(self.broker.port, user=self.stranger.user_id, password=their_token) as spy:
            spy.subscribe("+/web-1/subscribe")
            made = self.publish_ok({"qos": 1, "payload": "x", "keep_s": 600}, 202)
            assert commands_due_send(now=timezone.now()) == 0
            assert self.state(made["command_id"]) == "queued"

    def test_a_broker_that_is_away_is_503_and_a_kept_command_waits(self) -> None:
        with (
            override_settings(MQTT_URL="mqtt://127.0.0.1:1"),
            patch("devices.command_sender.ANSWER_S", 0.2),
        ):
            sender.close()
            answer = self.publish({"qos": 1, "payload": "x"})
            self.refused(answer, 503, "BROKER_UNAVAILABLE")
            assert int(answer["Retry-After"]) >= 1
            assert not Command.objects.exists()
            assert self.publish_ok({"payload": "y", "keep_s": 600}, 202)["state"] == "queued"


class BadInputTest(CommandTestCase):
    def test_bad_fields_are_named(self) -> None:
        for body, field in (
            ({"qos": 2, "payload": "x"}, "qos"),
            ({"qos": True, "payload": "x"}, "qos"),
            ({"qos": "1", "payload": "x"}, "qos"),
            ({"payload": "x", "keep_s": -1}, "keep_s"),
            ({"payload": "x", "keep_s": 1.5}, "keep_s"),
            ({"qos": 1}, "payload"),
            ({"qos": 1, "payload": None}, "payload"),
        ):
            self.refused(self.publish(body), 400, "INVALID_VALUE", fields={field})
        self.refused(self.publish([]), 400, "INVALID_VALUE")
        self.refused(self.publish(b"{"), 400, "BAD_JSON_FORMAT")
        self.refused(self.publish({"payload": "x" * 300_000}), 413, "PAYLOAD_TOO_LARGE")
        self.refused(self.publish({"payload": "x"}, device="none"), 404, "NO_DEVICE")
        self.refused(self.publish({"payload": "x"}, token=self.read_token), 403, "FORBIDDEN")
        for number in ("0", "x", "9" * 30):
            answer = self.call("GET", f"/v2/publish/web-1/{number}")
            self.refused(answer, 404, "NOT_FOUND")
