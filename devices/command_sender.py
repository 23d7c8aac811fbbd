"""Publishes commands: one connection to the broker for a process, made when the first command is sent."""

import logging
import secrets
import threading
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from django.conf import settings
from django.utils.translation import gettext as _
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from devices.broker import commands_login
from devices.broker_address import BrokerAddress
from servwatch_site.errors import Code, ServwatchError

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
NO_MATCHING_SUBSCRIBERS = 0x10


class Message(NamedTuple):
    """What is published. `expires_s`: so long the broker may keep it for a session that is away; None without end.

    `response_topic` and `correlation` reach clients of MQTT 5 only: there they can acknowledge.
    """

    topic: str
    payload: bytes
    qos: int
    expires_s: int | None = None
    response_topic: str = ""
    correlation: bytes = b""


class CommandSender:
    """Not connected until it is used; connects again by itself. For many threads at once."""

    def __init__(self) -> None:
        self._client: paho.Client | None = None
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._answers: dict[int, int] = {}
        self._answered = threading.Condition()

    def send(self, message: Message) -> bool:
        """Whether the broker has, as far as it says, a subscriber for the message it took.

        Raises BROKER_UNAVAILABLE when it did not take it. With QoS 0 there is no answer: taken is what an open
        connection took.
        """
        client = self._open()
        if not self._connected.wait(ANSWER_S):
            self.close()  # the next one begins anew, perhaps with another password or address
            raise _away()
        info = client.publish(
            message.topic, message.payload, qos=message.qos, properties=self._properties(message)
        )
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise _away()
        if message.qos == 0:
            return True
        with self._answered:
            found = self._answered.wait_for(lambda: info.mid in self._answers, ANSWER_S)
            code = self._answers.pop(info.mid, 0) if found else 0
        if not found:
            self.close()  # it must not go out later on its own, when nobody knows of it any more
            raise _away()
        if code >= 0x80:
            logger.error("The broker refuses commands with code %d: look at its access list.", code)
            raise _away()
        return code != NO_MATCHING_SUBSCRIBERS

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            self._connected.clear()
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _open(self) -> paho.Client:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> paho.Client:
        login = commands_login()
        address = BrokerAddress.from_url(settings.MQTT_URL)
        version = MQTTProtocolVersion(settings.MQTT_COMMANDS_PROTOCOL)
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"sw-commands-{secrets.token_hex(8)}", protocol=version
        )
        client.username_pw_set(login.username, login.password)
        if address.tls:
            client.tls_set()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.reconnect_delay_set(min_delay=1, max_delay=10)
        client.connect_async(address.host, address.port, keepalive=30)
        client.loop_start()
        return client

    def _properties(self, message: Message) -> Properties | None:
        if settings.MQTT_COMMANDS_PROTOCOL == 4:
            return None
        found = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # the library's own gap
        if message.expires_s is not None:
            found.MessageExpiryInterval = message.expires_s
        if message.response_topic:
            found.ResponseTopic = message.response_topic
            found.CorrelationData = message.correlation
        return found

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            logger.warning("The broker does not let the sender of commands in: %s.", reason)
            return
        with self._lock:  # it may be there before _open() has noted whose connection it is
            if client is self._client:
                self._connected.set()

    def _on_disconnect(
        self, client: paho.Client, _data: Any, _flags: Any, _reason: Any, _properties: Any
    ) -> None:
        if client is self._client:
            self._connected.clear()

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        with self._answered:
            if len(self._answers) > 1_000:  # of QoS 0, which nobody waits for
                self._answers.clear()
            self._answers[mid] = int(reason.value)
            self._answered.notify_all()


def _away() -> ServwatchError:
    return ServwatchError(
        Code.BROKER_UNAVAILABLE, _("The broker does not take the command at the moment. Try again shortly.")
    )


sender = CommandSender()
