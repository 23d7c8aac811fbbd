"""What both MQTT targets are driven by: the same generator, and the same kind of probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench.peers import data
from bench.publisher import Publisher

CONNECTIONS = 50
PROBE_DEVICE = "probe"


def publisher(*, port: int, user: str, password: str, topics: Sequence[str], first: int) -> Publisher:
    """QoS 1; `topics` are the devices', in their order."""

    def message(number: int) -> tuple[str, bytes]:
        number += first
        return topics[number % data.DEVICES], data.json_report(number)

    return Publisher(port=port, user=user, password=password, connections=CONNECTIONS, message=message)


class Newest(Protocol):
    """A reader of the platform's store; it goes to the probe's process before `open`."""

    def open(self) -> None: ...

    def newest(self) -> int:
        """The probe's highest number, 0 for none."""


@dataclass
class MqttProbe:
    """Publishes at QoS 1 and asks the store."""

    port: int
    user: str
    password: str
    topic: str
    reader: Newest

    def open(self) -> None:
        self.reader.open()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="probe")
        self._client.username_pw_set(self.user, self.password)
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()

    def send(self, number: int) -> None:
        self._client.publish(self.topic, data.json_report(number), qos=1)

    def newest(self) -> int:
        return self.reader.newest()
