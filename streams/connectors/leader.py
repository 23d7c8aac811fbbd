"""The connection of the listener that leads: it gives the marks, and hears from the broker how full its queues are."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from gmqtt.mqtt.handler import MQTTConnectError

from devices.broker import (
    BROKER_DROPPED_TOPIC,
    BROKER_LOAD_TOPICS,
    BROKER_RETAINED_TOPIC,
    BROKER_STORED_BYTES_TOPIC,
    BROKER_STORED_TOPIC,
    leader_login,
    listener_mark_topic,
)
from devices.broker_address import BrokerAddress
from streams.connectors.mqtt_client import ListenerClient, Packet
from streams.listener_reports import BrokerNumbers
from streams.slots import Mark

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MQTT_3_1_1 = 4  # with it the broker always begins with the last value of each number


_FIELDS = {
    BROKER_STORED_TOPIC: "messages",
    BROKER_STORED_BYTES_TOPIC: "message_bytes",
    BROKER_RETAINED_TOPIC: "retained",
    BROKER_DROPPED_TOPIC: "dropped",
}


class Leader:
    """Connects when the first mark is to be given, and again after a loss. From the event loop only."""

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self._topic = listener_mark_topic()
        self._client: ListenerClient | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._numbers = BrokerNumbers()

    def give(self, mark: Mark) -> bool:
        """Give a mark to all slots. False without a connection, which is then made for the next one."""
        client = self._client
        if client is not None and not client.lost.is_set():
            client.publish(self._topic, mark.encode())
            return True
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        return False

    def numbers_now(self) -> BrokerNumbers:
        """What the broker said last: it is silent while nothing changes. Nothing of it without a connection."""
        connected = self._client is not None and not self._client.lost.is_set()
        return self._numbers._replace(at=datetime.now(UTC)) if connected else BrokerNumbers()

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connect(self) -> None:
        if self._client is not None:
            await self._client.close()
        login = leader_login()
        self._numbers = BrokerNumbers()
        client = ListenerClient(
            client_id=login.client_id,
            user=login.username,
            password=login.password,
            version=MQTT_3_1_1,
            subscriptions=[(topic, 0) for topic in BROKER_LOAD_TOPICS],
            on_packets=self._packets,
            on_connected=lambda _client, _present: None,
            durable=False,
        )
        address = self._address
        try:
            await client.connect(address.host, address.port, tls=address.tls, timeout_s=CONNECT_TIMEOUT_S)
        except (OSError, MQTTConnectError):
            await client.close()  # the listener of a slot says so already
        else:
            self._client = client

    def _packets(self, _client: ListenerClient, packets: Sequence[Packet]) -> None:
        for packet in packets:
            field = _FIELDS.get(packet.topic)
            if field is not None and packet.payload.isdigit():
                self._numbers = BrokerNumbers(**{**self._numbers._asdict(), field: int(packet.payload[:18])})
