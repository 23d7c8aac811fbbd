"""gmqtt as the listener needs it: the packet id of each message, acknowledgement by hand, and a brake.

gmqtt gives on_message no packet id, starts a task for every message, and on protocol 3.1.1 acknowledges before
anybody has seen the message. So its handler of PUBLISH packets is replaced, on the instance, by one of ours that
parses the packet and keeps order; and once connected, its reading of packets by one that takes all PUBLISH packets of
a read at once, which is four times faster, and its reading itself by one that waits while the brake is on. The exact
pin in requirements.txt and tests hold the seams.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gmqtt import Client, Subscription
from gmqtt.mqtt.constants import MQTTCommands, MQTTv50
from gmqtt.mqtt.package import Package
from gmqtt.mqtt.protocol import MQTTProtocol

logger = logging.getLogger(__name__)

NEVER_EXPIRES = 0xFFFFFFFF
_NO_RECONNECT = -2  # below the number of failures in any case, and not gmqtt's mark for "without limit"
_quiet = logging.getLogger("streams.connectors.gmqtt")
for _name in ("streams.connectors.gmqtt", "gmqtt"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what matters of it is said in our words
# A broker that has gone without a word is missed after some 20 seconds: gmqtt looks every half of this time, asks after
# eight tenths of it without a word, and gives up after twice as long.
KEEPALIVE_S = 10
# The system's own probes, for a connection on which nothing is under way. What was sent and not taken may take long: in
# a flood of publishers the broker reads our acknowledgements so slowly that its window stays shut for half a minute.
_PROBES = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2), ("TCP_USER_TIMEOUT", 120_000))
_CLOSE_S = 2.0
_REFUSAL_S = 0.2
_BRAKED_S = 5.0  # how often gmqtt is told that nothing is missed while the brake is on


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


def packets_read(
    data: bytes, *, version: int, other: Callable[[int, bytes], None] = lambda _header, _body: None
) -> tuple[list[Packet], int]:
    """The whole PUBLISH packets at the beginning of `data`, and how many bytes all whole packets take.

    `other(header, body)` gets packets of other types. Raises BadPacket. Source: MQTT 3.1.1 and 5.0, section 2.
    """
    found: list[Packet] = []
    position, size = 0, len(data)
    while size - position >= 2:
        header, length, start = data[position], data[position + 1], position + 2
        if length & 0x80:
            more = _variable_integer(data, position + 1)
            if more is None:
                break
            length, digits = more
            start += digits - 1
        end = start + length
        if end > size:
            break
        if header & 0xF0 == 0x30:
            found.append(publish_parse(header, data[start:end], version=version))
        else:
            other(header, data[start:end])
        position = end
    return found, position


def publish_parse(header: int, body: bytes, *, version: int) -> Packet:
    """Read a PUBLISH packet's body. Raises BadPacket. Source: MQTT 3.1.1 and 5.0, section 3.3."""
    try:
        qos = header >> 1 & 3
        end = 2 + (body[0] << 8 | body[1])
        topic = body[2:end].decode("utf-8", "replace")
        packet_id = 0
        if qos:
            packet_id = body[end] << 8 | body[end + 1]
            end += 2
        if version >= MQTTv50:
            properties = _variable_integer(body, end)
            if properties is None:
                raise BadPacket("properties that are cut off")
            end += sum(properties)
    except IndexError:
        raise BadPacket("a PUBLISH packet that is too short") from None
    if qos == 3 or end > len(body):
        raise BadPacket("a PUBLISH packet that is too short or has QoS 3")
    return Packet(topic, body[end:], packet_id, qos, header & 8 != 0, header & 1 != 0)


def _variable_integer(data: bytes, start: int) -> tuple[int, int] | None:
    """The number and how many bytes it takes; None where it is not all there yet. Raises BadPacket."""
    number = 0
    for place, byte in enumerate(data[start : start + 4]):
        number |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return number, place + 1
    if len(data) - start >= 4:
        raise BadPacket("a length that does not end")
    return None


class ListenerClient:
    """One connection to the broker with the listener's durable session; a new one is made for each attempt.

    Without `durable` the session begins anew and ends with the connection. `on_packets` gets all messages in order of
    receipt, some at once; `on_connected(session_present)` comes before the first.
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
        on_packets: Callable[["ListenerClient", Sequence[Packet]], None],
        on_connected: Callable[["ListenerClient", bool], None],
        durable: bool = True,
    ) -> None:
        properties = {"session_expiry_interval": NEVER_EXPIRES} if durable and version >= MQTTv50 else {}
        self._client: Any = Client(client_id, clean_session=not durable, logger=_quiet, **properties)
        self._client.set_config({"reconnect_retries": _NO_RECONNECT})
        self._client.set_auth_credentials(user, password)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = self._subscribed
        self._version = version
        self._subscriptions = subscriptions
        self._on_packets = on_packets
        self._on_connected = on_connected
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.present = False  # the session was there before
        self.lost = asyncio.Event()
        self.subscribed = asyncio.Event()
        self.refused_subscription: str | None = None
        handler = self._client._package_handler
        seams = (handler, "_handle_publish_packet"), (MQTTProtocol, "_read_packet"), (MQTTProtocol, "read")
        if not all(callable(getattr(owner, name, None)) for owner, name in seams):
            raise RuntimeError("This gmqtt reads packets in another way; see requirements.txt for the pin.")
        handler._handler_cache[MQTTCommands.PUBLISH] = self._publish

    async def connect(self, host: str, port: int, *, tls: bool, timeout_s: float) -> None:
        """Raises OSError (a time-out too), or gmqtt's MQTTConnectError when the broker refuses."""
        connecting = asyncio.ensure_future(
            self._client.connect(host, port, ssl=tls, keepalive=KEEPALIVE_S, version=self._version)
        )
        losing = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait({connecting, losing}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if losing.done():  # a refusal closes the connection, too, and is told next
                await asyncio.wait({connecting}, timeout=_REFUSAL_S)
            if connecting.done():
                await connecting
                self._probe()
            elif losing.done():
                raise ConnectionResetError("it closed the connection without an answer")
            else:
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
        finally:
            connecting.cancel()
            losing.cancel()

    async def close(self) -> None:
        """Leave; the session stays, with everything that was not acknowledged."""
        self.lost.set()
        if self._client._connection is None:
            return
        with contextlib.suppress(OSError):
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._client.disconnect()
            except TimeoutError:  # the other end does not even take what was sent before
                self._client._connection._transport.abort()

    def _probe(self) -> None:
        """Let the system find out whether the broker is there while nothing is sent."""
        sock = self._client._connection._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES:
            if hasattr(socket, name):  # not every system has them all
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def acknowledge(self, packet_ids: Sequence[int]) -> bool:
        """PUBACK these, in this order, in one write. False when the connection is gone: they come again."""
        if self.lost.is_set() or not packet_ids:
            return False
        packets = b"".join(b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids)
        self._client._connection.send_package(packets)
        return True

    def ask(self, topic: str) -> None:
        """Subscribe once more: `subscribed` is set when the broker has read everything sent so far."""
        if self.lost.is_set():
            return
        self.subscribed.clear()
        self._client.subscribe(self._subscription(topic, 1))

    def publish(self, topic: str, payload: bytes) -> None:
        """At QoS 1; nobody waits for the answer."""
        if not self.lost.is_set():
            self._client.publish(topic, payload, qos=1)

    def brake(self, on: bool) -> None:
        """Read no more from the broker, or read on; the broker keeps what is not read."""
        if on:
            self._may_read.clear()
        else:
            self._may_read.set()

    async def _read(self, size: int) -> bytes:
        """In the place of gmqtt's method: with the brake on nothing is read, and the broker is not missed for it.

        Pausing the transport itself would not do: the stream reader in front of it resumes it whenever its own buffer
        has room again. Not read, it fills that buffer and pauses the transport itself.
        """
        connection = self._client._connection
        while not self._may_read.is_set():
            connection._last_data_in = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._may_read.wait(), _BRAKED_S)
        connection._last_data_in = time.monotonic()
        found: bytes = await MQTTProtocol.read(connection._protocol, size)
        return found

    def _publish(self, header: int, body: bytes) -> None:
        """One PUBLISH packet, as gmqtt's own reading hands them over: those that came with the CONNACK."""
        try:
            packet = publish_parse(header, body, version=self._client._connection_state.protocol_version)
        except BadPacket as error:
            self.begin_anew(str(error))
            return
        self._on_packets(self, [packet])

    def _read_packets(self, data: bytes) -> int:
        """In the place of gmqtt's method: how many bytes were read, -1 to end the connection."""
        connection = self._client._connection
        try:
            packets, size = packets_read(
                data,
                version=self._client._connection_state.protocol_version,
                other=lambda header, body: connection.put_package(Package(header, body)),
            )
        except BadPacket as error:
            self.begin_anew(str(error))
            return -1
        if packets:
            connection._last_data_in = time.monotonic()
            self._on_packets(self, packets)
        return size

    def begin_anew(self, what: str) -> None:
        """Going on could lose a message: end this connection and start again from the last acknowledgement."""
        logger.error("The broker sent %s; connecting anew.", what)
        self._client._connection._transport.close()

    def _connected(self, _client: Any, session_present: int, _code: int, _properties: Any) -> None:
        self.present = bool(session_present)
        self._on_connected(self, self.present)
        protocol = self._client._connection._protocol
        protocol._read_packet, protocol.read = self._read_packets, self._read
        if self._subscriptions:
            self._client.subscribe([self._subscription(topic, qos) for topic, qos in self._subscriptions])

    def _subscription(self, topic: str, qos: int) -> Any:
        retain_handling = 2 if self._version >= MQTTv50 else 0  # 2: send no retained messages
        return Subscription(topic, qos=qos, retain_handling_options=retain_handling)

    def _subscribed(self, _client: Any, _packet_id: int, granted: Sequence[int], _properties: Any) -> None:
        for (topic, _), code in zip(self._subscriptions, granted, strict=False):
            if code >= 128:
                self.refused_subscription = topic
                self.lost.set()
        self.subscribed.set()

    def _disconnected(self, _client: Any, _packet: Any, exc: Any = None) -> None:
        self.lost.set()
        self.subscribed.set()  # nobody waits for an answer that cannot come
