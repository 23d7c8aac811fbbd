"""gmqtt as the listener needs it: the packet id of each message, acknowledgement by hand, and a brake.

gmqtt gives on_message no packet id, starts a task for every message, and on protocol 3.1.1 acknowledges before
anybody has seen the message. So its handler of PUBLISH packets is replaced, on the instance, by one of ours that
parses the packet and keeps order. The exact pin in requirements.txt and a test hold the seam.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gmqtt import Client, Subscription
from gmqtt.mqtt.constants import MQTTCommands, MQTTv50

logger = logging.getLogger(__name__)

NEVER_EXPIRES = 0xFFFFFFFF
_NO_RECONNECT = -2  # below the number of failures in any case, and not gmqtt's mark for "without limit"
_quiet = logging.getLogger("streams.connectors.gmqtt")
_quiet.setLevel(logging.CRITICAL)  # what matters of it is said in our words


class Packet(NamedTuple):
    """One PUBLISH packet. `packet_id` 0: QoS 0, nothing to acknowledge."""

    topic: str
    payload: bytes
    packet_id: int
    qos: int
    dup: bool
    retain: bool


class BadPacket(ValueError):
    """The broker sent what is no PUBLISH packet."""


def publish_parse(header: int, body: bytes, *, version: int) -> Packet:
    """Read a PUBLISH packet's body. Raises BadPacket. Source: MQTT 3.1.1 and 5.0, section 3.3."""
    qos = (header >> 1) & 3
    end = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:end].decode("utf-8", "replace")
    packet_id = 0
    if qos:
        packet_id = int.from_bytes(body[end : end + 2], "big")
        end += 2
    if version >= MQTTv50:
        length, size = _variable_integer(body, end)
        end += size + length
    if qos == 3 or end > len(body):
        raise BadPacket("a PUBLISH packet that is too short or has QoS 3")
    return Packet(topic, body[end:], packet_id, qos, bool(header & 8), bool(header & 1))


def _variable_integer(body: bytes, start: int) -> tuple[int, int]:
    """The number and how many bytes it takes."""
    number = 0
    for place, byte in enumerate(body[start : start + 4]):
        number |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return number, place + 1
    raise BadPacket("a length that does not end")


class ListenerClient:
    """One connection to the broker with the listener's durable session; a new one is made for each attempt.

    `on_packet` gets every message in order of receipt, `on_connected(session_present)` comes before the first.
    gmqtt's own reconnecting is off: it gives up for good after some refusals, and ours must not.
    """

    def __init__(
        self,
        *,
        client_id: str,
        user: str,
        password: str,
        version: int,
        subscriptions: Sequence[tuple[str, int]],
        on_packet: Callable[["ListenerClient", Packet], None],
        on_connected: Callable[["ListenerClient", bool], None],
    ) -> None:
        properties = {"session_expiry_interval": NEVER_EXPIRES} if version >= MQTTv50 else {}
        self._client: Any = Client(client_id, clean_session=False, logger=_quiet, **properties)
        self._client.set_config({"reconnect_retries": _NO_RECONNECT})
        self._client.set_auth_credentials(user, password)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = self._subscribed
        self._version = version
        self._subscriptions = subscriptions
        self._on_packet = on_packet
        self._on_connected = on_connected
        self._paused = False
        self.lost = asyncio.Event()
        self.subscribed = asyncio.Event()
        self.refused_subscription: str | None = None
        handler = self._client._package_handler
        if not callable(getattr(handler, "_handle_publish_packet", None)):
            raise RuntimeError(
                "This gmqtt has another handler of PUBLISH packets; see requirements.txt for the pin."
            )
        handler._handler_cache[MQTTCommands.PUBLISH] = self._publish

    async def connect(self, host: str, port: int, *, tls: bool, timeout_s: float) -> None:
        """Raises OSError (a time-out too), or gmqtt's MQTTConnectError when the broker refuses."""
        async with asyncio.timeout(timeout_s):
            await self._client.connect(host, port, ssl=tls, keepalive=30, version=self._version)

    async def close(self) -> None:
        """Leave; the session stays, with everything that was not acknowledged."""
        self.lost.set()
        with contextlib.suppress(OSError):
            if self._client._connection is not None:
                await self._client.disconnect()

    def acknowledge(self, packet_ids: Sequence[int]) -> bool:
        """PUBACK these, in this order, in one write. False when the connection is gone: they come again."""
        if self.lost.is_set() or not packet_ids:
            return False
        packets = b"".join(b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids)
        self._client._connection.send_package(packets)
        return True

    def brake(self, on: bool) -> None:
        """Read no more from the broker, or read on; the broker keeps what is not read."""
        if on == self._paused or self.lost.is_set():
            return
        transport = self._client._connection._transport
        if transport.is_closing():
            return
        if on:
            transport.pause_reading()
        else:
            transport.resume_reading()
        self._paused = on

    def _publish(self, header: int, body: bytes) -> None:
        try:
            packet = publish_parse(header, body, version=self._client._connection_state.protocol_version)
        except BadPacket as error:
            # Going on would leave it unacknowledged for ever, so start again from the last acknowledgement.
            logger.error("The broker sent %s; connecting anew.", error)
            self._client._connection._transport.close()
            return
        self._on_packet(self, packet)

    def _connected(self, _client: Any, session_present: int, _code: int, _properties: Any) -> None:
        self._on_connected(self, bool(session_present))
        retain_handling = 2 if self._version >= MQTTv50 else 0  # 2: send no retained messages
        self._client.subscribe(
            [
                Subscription(topic, qos=qos, retain_handling_options=retain_handling)
                for topic, qos in self._subscriptions
            ]
        )

    def _subscribed(self, _client: Any, _packet_id: int, granted: Sequence[int], _properties: Any) -> None:
        for (topic, _), code in zip(self._subscriptions, granted, strict=False):
            if code >= 128:
                self.refused_subscription = topic
                self.lost.set()
        self.subscribed.set()

    def _disconnected(self, _client: Any, _packet: Any, exc: Any = None) -> None:
        self.lost.set()
        self.subscribed.set()  # nobody waits for an answer that cannot come
