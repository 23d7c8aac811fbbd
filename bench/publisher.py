"""A load generator that keeps its own log: MQTT 3.1.1, QoS 1, one thread, many connections, a fixed rate.

It talks to the socket itself, so that it is never the limit and knows exactly what the broker has acknowledged.
Only for loopback addresses; bounded in count.
"""

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW = 500  # unacknowledged messages a connection may have


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
    ) -> None:
        self._message = message
        self._selector = selectors.DefaultSelector()
        self._connections = [_connect(port, user, password, f"load-{n}") for n in range(connections)]
        for connection in self._connections:
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        self.log = Log()

    def run(
        self, *, rate: float, count: int, each_second: Callable[[float], None] = lambda _elapsed: None
    ) -> float:
        """Send `count` messages at `rate` a second and wait for their acknowledgements, two minutes at most.

        `each_second(elapsed_s)` is called about once a second. Returns how long it took, in seconds.
        """
        began = told = time.monotonic()
        number = 0
        while len(self.log.acknowledged) < count:
            now = time.monotonic()
            if now - began > count / rate + 120:
                break
            if now - told >= 1:
                told = now
                each_second(now - began)
            due = min(count, int((now - began) * rate) + 1)
            number = self._send_until(number, due)
            self._exchange(timeout_s=0.002)
        return time.monotonic() - began

    def close(self) -> None:
        for connection in self._connections:
            connection.sock.close()
        self._selector.close()

    def _send_until(self, number: int, due: int) -> int:
        """Queue messages round-robin; a connection whose window is full lets the next one go first."""
        skipped = 0
        while number < due and skipped < len(self._connections):
            connection = self._connections[(number + skipped) % len(self._connections)]
            if len(connection.waiting) >= WINDOW:
                skipped += 1
                continue
            skipped = 0
            self._queue(connection, number)
            number += 1
        return number

    def _queue(self, connection: _Connection, number: int) -> None:
        topic, payload = self._message(number)
        packet_id = connection.next_id
        connection.next_id = packet_id % 65_535 + 1
        connection.waiting[packet_id] = number
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + packet_id.to_bytes(2, "big") + payload
        connection.outgoing += b"\x32" + _length(len(body)) + body
        self.log.sent.add(number)

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
        connection.incoming += data
        while len(connection.incoming) >= 4:
            if connection.incoming[0] != 0x40:
                raise ConnectionError("the broker sent something other than PUBACK")
            packet_id = int.from_bytes(connection.incoming[2:4], "big")
            del connection.incoming[:4]
            self.log.acknowledged.add(connection.waiting.pop(packet_id))


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


def _length(size: int) -> bytes:
    """The remaining length of a packet, as MQTT writes it."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)
