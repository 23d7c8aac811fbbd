"""A load generator that keeps its own log: MQTT 3.1.1, QoS 1, one thread, many connections, a fixed rate.

It talks to the socket itself, so that it is never the limit and knows exactly what the broker has acknowledged.
Only for loopback addresses; bounded in count.
"""

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from struct import unpack

WINDOW = 500  # unacknowledged messages a connection may have
BLOCK = 50  # messages for one connection before the next one has its turn


@dataclass
class Log:
    """What was sent and what the broker has acknowledged, by the number each message carries."""

    sent: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)


@dataclass
class _Connection:
    sock: socket.socket
    outgoing: bytearray = field(default_factory=bytearray)
    incoming: bytearray = field(default_factory=bytearray)
    waiting: dict[int, int] = field(default_factory=dict)  # packet id -> number of the message
    next_id: int = 1


class Publisher:
    """`message(number)` gives topic and payload of the message with that number, counted from 0."""

    def __init__(
        self,
        *,
        port: int,
        user: str,
        password: str,
        connections: int,
        message: Callable[[int], tuple[str, bytes]],
        name: str = "load",
    ) -> None:
        self._message = message
        self._selector = selectors.DefaultSelector()
        self._connections = [_connect(port, user, password, f"{name}-{n}") for n in range(connections)]
        for connection in self._connections:
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        self._names: dict[str, bytes] = {}
        self._turn = 0
        self.log = Log()

    def run(
        self,
        *,
        rate: float,
        count: int,
        each_second: Callable[[float], None] = lambda _elapsed: None,
        at_most_s: float | None = None,
        first: int = 0,
    ) -> float:
        """Send up to `count` messages at `rate` a second and wait for their acknowledgements, two minutes at most.

        With `at_most_s` it stops sending after that time and waits for what is on the way. Whoever sends again with
        the same publisher goes on at `first`, the number of the next message; `count` then includes those before.

        `each_second(elapsed_s)` is called about once a second. Returns how long it took, in seconds.
        """
        began = told = time.monotonic()
        number = first
        patience_s = 120 + (count / rate if at_most_s is None else at_most_s)
        while len(self.log.acknowledged) < count and time.monotonic() - began < patience_s:
            now = time.monotonic()
            if now - told >= 1:
                told = now
                each_second(now - began)
            if at_most_s is not None and now - began > at_most_s:
                count = number
            else:
                number = self._send_until(number, min(count, first + int((now - began) * rate) + 1))
            self._exchange(timeout_s=0.002)
        return time.monotonic() - began

    def close(self) -> None:
        for connection in self._connections:
            connection.sock.close()
        self._selector.close()

    def _send_until(self, number: int, due: int) -> int:
        """Queue messages, some for each connection in turn; a full window lets the next one go first."""
        full = 0
        while number < due and full < len(self._connections):
            connection = self._connections[self._turn % len(self._connections)]
            self._turn += 1
            room = min(due - number, WINDOW - len(connection.waiting), BLOCK)
            if room <= 0:
                full += 1
                continue
            full = 0
            self._queue(connection, range(number, number + room))
            number += room
        return number

    def _queue(self, connection: _Connection, numbers: range) -> None:
        packet_id, waiting = connection.next_id, connection.waiting
        packets: list[bytes] = []
        for number in numbers:
            topic, payload = self._message(number)
            name = self._names.get(topic)
            if name is None:
                encoded = topic.encode()
                name = self._names[topic] = len(encoded).to_bytes(2, "big") + encoded
            waiting[packet_id] = number
            size = len(name) + 2 + len(payload)
            packets += (b"\x32", _length(size), name, packet_id.to_bytes(2, "big"), payload)
            packet_id = packet_id % 65_535 + 1
        connection.next_id = packet_id
        connection.outgoing += b"".join(packets)
        self.log.sent.update(numbers)

    def _exchange(self, *, timeout_s: float) -> None:
        for connection in self._connections:
            if connection.outgoing:
                try:
                    done = connection.sock.send(connection.outgoing)
                    del connection.outgoing[:done]
                except BlockingIOError:
                    pass
        for key, _ in self._selector.select(timeout_s):
            self._read(key.data)

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(65_536)
        if not data:
            raise ConnectionError("the broker has closed the connection")
        data = bytes(connection.incoming) + data
        whole = len(data) // 4 * 4
        connection.incoming[:] = data[whole:]
        if data[0:whole:4].strip(b"\x40"):
            raise ConnectionError("the broker sent something other than PUBACK")
        pop = connection.waiting.pop
        ids = unpack(f">{whole // 2}H", data[:whole])[1::2]
        self.log.acknowledged.update([pop(packet_id) for packet_id in ids])


def _connect(port: int, user: str, password: str, client_id: str) -> _Connection:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    fields = b"".join(len(text).to_bytes(2, "big") + text.encode() for text in (client_id, user, password))
    body = b"\x00\x04MQTT\x04\xc2\x00\x00" + fields
    sock.sendall(b"\x10" + _length(len(body)) + body)
    answer = sock.recv(4)
    if answer != b"\x20\x02\x00\x00":
        raise ConnectionError(f"the broker refused the connection: {answer.hex()}")
    sock.setblocking(False)
    return _Connection(sock)


@cache
def _length(size: int) -> bytes:
    """The remaining length of a packet, as MQTT writes it."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)
