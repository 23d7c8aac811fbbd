"""A real Mosquitto for tests, with the accounts of the test database, and a real client."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from devices.broker import BrokerLogin
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.mosquitto import Broker, Listener
from servwatch_site.embedded.mosquitto_programs import Program, find_broker
from servwatch_site.tests.waiting import wait_until

SECRET = "salt-of-the-test-broker"


def mosquitto() -> Program:
    """The Mosquitto that `make run` would use; skips where none can be had."""
    try:
        return find_broker(
            Path(tempfile.gettempdir()) / "servwatch-test-packages", say=lambda _sentence: None
        )
    except EmbeddedError as error:
        pytest.skip(f"no Mosquitto: {error}")


def mosquitto_on_path(folder: Path) -> None:
    """Where Mosquitto had to be unpacked privately, let it be found on PATH like an installed one."""
    if shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists():
        return
    program = mosquitto()
    script = folder / "mosquitto"
    script.write_text(f'#!/bin/sh\nexec env {program.shell_words()} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class RunningBroker:
    """`with RunningBroker(accounts) as broker:`, then `broker.port`."""

    def __init__(self, accounts: Callable[[], Iterable[BrokerLogin]]) -> None:
        self._accounts = accounts
        self._folder = tempfile.TemporaryDirectory(prefix="servwatch-broker-", ignore_cleanup_errors=True)
        self.port = free_port()
        self._broker = Broker(
            mosquitto(), directory=Path(self._folder.name), listeners=(Listener("127.0.0.1", self.port),)
        )

    @property
    def pid(self) -> int:
        return self._broker.pid

    def __enter__(self) -> Self:
        self._broker.write_accounts(self._accounts(), secret=SECRET)
        self._broker.start(say=lambda _sentence: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broker.stop()
        self._folder.cleanup()

    def reload(self) -> None:
        """Put changed accounts in force."""
        self._broker.write_accounts(self._accounts(), secret=SECRET)
        wait_until(self._broker.reload_if_due, what="the reload of the broker")

    def restart(self) -> None:
        self._broker.stop()
        self._broker.start(say=lambda _sentence: None)


class MqttClient:
    """A device, or an attacker: connects, publishes at QoS 1, and remembers what it was sent."""

    def __init__(
        self,
        port: int,
        *,
        user: str,
        password: str,
        client_id: str = "",
        version: int = 4,
        clean: bool = True,
        websockets: bool = False,
    ) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.granted: list[int] = []
        self.refused: str | None = None
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion(version),
            clean_session=None if version == 5 else clean,
            transport="websockets" if websockets else "tcp",
        )
        self._client.username_pw_set(user, password)
        self._client.max_inflight_messages_set(200)
        self._client.on_connect = self._connected
        self._client.on_message = self._message
        self._client.on_subscribe = self._subscribed
        self._client.on_unsubscribe = self._unsubscribed
        self._unsubscriptions = 0
        self._port = port
        self._answered = False

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        wait_until(lambda: self._answered, what="the broker's answer to CONNECT")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # paho closes its own pair of sockets only when it is collected, and warns when that comes too late.
        for end in (self._client._sockpairR, self._client._sockpairW):
            if end is not None:
                end.close()

    def publish(
        self, topic: str, payload: str | bytes, *, qos: int = 1, retain: bool = False
    ) -> paho.MQTTMessageInfo:
        return self._client.publish(topic, payload, qos=qos, retain=retain)

    def deliver(self, topic: str, payload: str | bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish and wait for the broker's acknowledgement."""
        self.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(timeout=20)

    def subscribe(self, topic: str) -> int:
        """The granted QoS, 128 when refused."""
        self.granted.clear()
        self._client.subscribe(topic, qos=1)
        wait_until(lambda: self.granted, what="the broker's answer to SUBSCRIBE")
        return self.granted[0]

    def unsubscribe(self, topic: str) -> None:
        before = self._unsubscriptions
        self._client.unsubscribe(topic)
        wait_until(lambda: self._unsubscriptions > before, what="the broker's answer to UNSUBSCRIBE")

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.refused = str(reason) if reason.is_failure else None
        self._answered = True

    def _message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def _subscribed(self, _client: Any, _data: Any, _mid: Any, codes: Any, _properties: Any) -> None:
        self.granted.extend(code.value for code in codes)

    def _unsubscribed(self, _client: Any, _data: Any, _mid: Any, _codes: Any, _properties: Any) -> None:
        self._unsubscriptions += 1
