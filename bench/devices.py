"""Devices that never give up, and keep a log of their own: what they sent, and what was acknowledged to them.

MQTT 3.1.1 at QoS 1 and HTTP (`/post_v2/`), one thread, few connections, a fixed rate. After a lost connection a device
connects again and sends what has no acknowledgement once more: over MQTT with DUP set, over HTTP under the same
Idempotency-Key. Only for loopback; ends when it is told to, and everything is acknowledged.
"""

import re
import selectors
import socket
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

DEVICES = 50  # on each of the two ways
MQTT_LINES, HTTP_LINES = 10, 4
WINDOW = 200  # unacknowledged messages of one MQTT connection
PERIOD = 23  # after so many messages their kinds begin again
HTTP_EVERY = 20  # one message in so many goes by HTTP
RETRY_S = 0.1
ANSWER_S = 15.0  # an HTTP request without an answer is sent again
CHUNK_BYTES = 64 * 1024
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")


class Message(NamedTuple):
    """`original`: the number of the message whose exact repetition this is, else its own.

    `timed`: it carries its own time, by which the platform knows a repetition. `good`: it can be stored.
    """

    number: int
    original: int
    by_http: bool
    device_id: str
    payload: bytes
    timed: bool
    good: bool


def message(number: int, *, base_us: int) -> Message:
    """The message with this number. Of 23 one is malformed, nine have their own time, and one repeats the one before.

    `base_us`: microseconds since the epoch, where own times begin.
    """
    place = number % PERIOD
    if place == 6:
        return message(number - 1, base_us=base_us)._replace(number=number)
    by_http = number % HTTP_EVERY == HTTP_EVERY - 1
    device_id = f"{'http' if by_http else 'mqtt'}-{number % DEVICES}"
    value = b'{"n":%d,"cpu":{"idle":93.1},"load1":0.4}' % number
    if place == 0:
        return Message(number, number, by_http, device_id, value[:-1], timed=False, good=False)
    timed = 5 <= place <= 14
    payload = b'{"at":%d,"value":%b}' % (base_us + number, value) if timed else value
    return Message(number, number, by_http, device_id, payload, timed=timed, good=True)


def beginning(number: int) -> int:
    """The first number from this one on at which devices may begin: what is repeated must be theirs, too."""
    return number + -number % PERIOD


@dataclass
class Log:
    """By number of the message: how often it was put on the way, when (since the epoch) its acknowledgement was read,
    and since when the connection was there on which that came.
    """

    times_sent: Counter[int] = field(default_factory=Counter)
    acknowledged: dict[int, float] = field(default_factory=dict)
    connected: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Where the devices send, and as whom."""

    mqtt_port: int
    http_port: int
    user: str
    token: str


class Devices:
    """They send while the `with` block lasts, until `rest()`. `made` grows; numbers begin at `first`."""

    def __init__(self, target: Target, *, rate: int, first: int) -> None:
        self.base_us = time.time_ns() // 1_000 - 1_800_000_000
        self.first = self.made = first
        self.log = Log()
        self._rate = rate
        self._began = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._pending: dict[bool, deque[Message]] = {False: deque(), True: deque()}
        self._lines: list[_Line] = [
            *(_MqttLine(target, self.log, self._selector, f"load-{n}") for n in range(MQTT_LINES)),
            *(_HttpLine(target, self.log, self._selector) for _ in range(HTTP_LINES)),
        ]
        self._resting = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="devices", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raises what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def rest(self, *, patience_s: float = 120.0) -> bool:
        """Make no more messages; whether everything that was made is acknowledged."""
        self._resting.set()
        deadline = time.monotonic() + patience_s
        while (
            missing := self.made - self.first - len(self.log.acknowledged)
        ) and time.monotonic() < deadline:
            self.check()
            time.sleep(0.01)
        return not missing

    def make(self, count: int) -> None:
        """So many more, while at rest."""
        self._make(until=self.made + count)

    def message(self, number: int) -> Message:
        return message(number, base_us=self.base_us)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                now = time.monotonic()
                if not self._resting.is_set():
                    self._make(until=self.first + int((now - self._began) * self._rate))
                self._hand_out(now)
                for key, _ in self._selector.select(0.002):
                    key.data.readable()
        except BaseException as error:
            self._error = error
        finally:
            for line in self._lines:
                line.lose()
            self._selector.close()

    def _make(self, *, until: int) -> None:
        for number in range(self.made, until):
            made = self.message(number)
            self._pending[made.by_http].append(made)
        self.made = max(self.made, until)

    def _hand_out(self, now: float) -> None:
        for line in self._lines:
            line.tend(now)
        for by_http, waiting in self._pending.items():
            lines = [line for line in self._lines if line.by_http is by_http]
            while waiting and (free := [line for line in lines if line.has_room]):
                for line in free[: len(waiting)]:
                    line.take(waiting.popleft())
        for line in self._lines:
            line.flush()


class _Line:
    """One connection, made again when it is lost. Subclasses know the protocol."""

    by_http = False

    def __init__(self, target: Target, log: Log, selector: selectors.BaseSelector) -> None:
        self.target = target
        self.log = log
        self.outgoing = bytearray()
        self.incoming = bytearray()
        self.open = False  # the other side is ready for messages
        self._selector = selector
        self._sock: socket.socket | None = None
        self._retry_at = 0.0

    @property
    def has_room(self) -> bool:
        raise NotImplementedError

    @property
    def port(self) -> int:
        raise NotImplementedError

    def take(self, made: Message) -> None:
        raise NotImplementedError

    def connected(self) -> None:
        raise NotImplementedError

    def received(self) -> None:
        raise NotImplementedError

    def tend(self, now: float) -> None:
        if self._sock is None and now >= self._retry_at:
            self._connect()

    def lose(self, *, wait_s: float = RETRY_S) -> None:
        """Close; what was not acknowledged is sent on the next connection."""
        self.open = False
        self.outgoing.clear()
        self.incoming.clear()
        self._retry_at = time.monotonic() + wait_s
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None

    def flush(self) -> None:
        if self._sock is None or not self.outgoing:
            return
        try:
            done = self._sock.send(self.outgoing)
        except BlockingIOError:
            return
        except OSError:
            self.lose()
            return
        del self.outgoing[:done]

    def readable(self) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        self.incoming += data
        self.received()

    def _connect(self) -> None:
        try:
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=1)
        except OSError:
            self._retry_at = time.monotonic() + RETRY_S
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._sock = sock
        self._selector.register(sock, selectors.EVENT_READ, self)
        self.connected()


class _MqttLine(_Line):
    def __init__(self, target: Target, log: Log, selector: selectors.BaseSelector, client_id: str) -> None:
        super().__init__(target, log, selector)
        self._client_id = client_id
        self._waiting: dict[int, Message] = {}  # by packet id, in the order of sending
        self._connected_at = 0.0
        self._next_id = 1

    @property
    def port(self) -> int:
        return self.target.mqtt_port

    @property
    def has_room(self) -> bool:
        return self.open and len(self._waiting) < WINDOW

    def take(self, made: Message) -> None:
        packet_id = self._next_id
        self._next_id = packet_id % 65_535 + 1
        self._waiting[packet_id] = made
        self._publish(packet_id, made, dup=False)

    def connected(self) -> None:
        self._connected_at = time.time()
        texts = (self._client_id, self.target.user, self.target.token)
        fields = b"".join(len(text).to_bytes(2, "big") + text.encode() for text in texts)
        body = b"\x00\x04MQTT\x04\xc2\x00\x00" + fields
        self.outgoing += b"\x10" + _length(len(body)) + body

    def received(self) -> None:
        while len(self.incoming) >= 4:
            head, packet_id = self.incoming[0], int.from_bytes(self.incoming[2:4], "big")
            del self.incoming[:4]
            if head == 0x20:
                self._admitted(packet_id & 0xFF)
            elif head == 0x40:
                number = self._waiting.pop(packet_id).number
                self.log.acknowledged.setdefault(number, time.time())
                self.log.connected.setdefault(number, self._connected_at)
            else:
                raise ConnectionError(f"the broker sent a packet of kind {head:#x}")

    def _admitted(self, code: int) -> None:
        if code:
            self.lose(wait_s=0.5)  # a broker that has just started may not know the accounts yet
            return
        self.open = True
        for packet_id, made in self._waiting.items():
            self._publish(packet_id, made, dup=True)

    def _publish(self, packet_id: int, made: Message, *, dup: bool) -> None:
        topic = f"{self.target.token}/json/{made.device_id}".encode()
        body = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + made.payload
        self.outgoing += (b"\x3a" if dup else b"\x32") + _length(len(body)) + body
        self.log.times_sent[made.number] += 1


class _HttpLine(_Line):
    """One request at a time. A malformed message is answered 400, a good one 2xx; anything else is tried again."""

    by_http = True

    def __init__(self, target: Target, log: Log, selector: selectors.BaseSelector) -> None:
        super().__init__(target, log, selector)
        self._waiting: Message | None = None
        self._sent_at = 0.0

    @property
    def port(self) -> int:
        return self.target.http_port

    @property
    def has_room(self) -> bool:
        return self.open and self._waiting is None

    def take(self, made: Message) -> None:
        self._waiting = made
        self._post(made)

    def connected(self) -> None:
        self.open = True
        if self._waiting is not None:
            self._post(self._waiting)

    def tend(self, now: float) -> None:
        if self.open and self._waiting is not None and now - self._sent_at > ANSWER_S:
            self.lose()
        super().tend(now)

    def received(self) -> None:
        end = self.incoming.find(b"\r\n\r\n")
        length = _LENGTH.search(self.incoming, 0, end) if end >= 0 else None
        if length is None or len(self.incoming) < end + 4 + int(length[1]):
            return
        status = int(self.incoming[9:12])
        made, self._waiting = self._waiting, None
        self.incoming.clear()
        if made is None:
            raise ConnectionError(f"an answer {status} that nobody asked for")
        if 200 <= status < 300 or (status == 400 and not made.good):
            self.log.acknowledged[made.number] = time.time()
            return
        if status < 500:
            raise ConnectionError(f"a good message was answered {status}")
        self._waiting = made
        self.lose(wait_s=0.5)

    def _post(self, made: Message) -> None:
        self._sent_at = time.monotonic()
        head = (
            f"POST /post_v2/ HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nX-DEVICETOKEN: {self.target.token}\r\n"
            f"X-DEVICEID: {made.device_id}\r\nIdempotency-Key: ledger-{made.number}\r\n"
            f"Content-Length: {len(made.payload)}\r\n\r\n"
        )
        self.outgoing += head.encode() + made.payload
        self.log.times_sent[made.number] += 1


def _length(size: int) -> bytes:
    """The remaining length of a packet, as MQTT writes it."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)
