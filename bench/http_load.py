"""A small HTTP client on one event loop: N connections kept alive, each with one request on the way at a time."""

import asyncio
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import uvloop

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
TIMEOUT_S = 60.0


@dataclass
class Load:
    """What a load measured. `bodies` are the first few answers, to look at."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.statuses.total()

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def median_ms(self) -> float:
        return statistics.median(self.latencies_ms)

    def require(self, *statuses: int) -> "Load":
        """Raises RuntimeError when the server answered anything else."""
        if set(self.statuses) - set(statuses):
            raise RuntimeError(f"unexpected answers {dict(self.statuses)}: {self.bodies[-1][:500]!r}")
        return self


def request_bytes(
    path: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None, port: int = 80
) -> bytes:
    """A whole request, made before the clock runs."""
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


def load(
    port: int,
    request: Callable[[int], bytes],
    *,
    connections: int,
    seconds: float = 0.0,
    most: int | None = None,
) -> Load:
    """Send request(0), request(1), ... for so many seconds, or at most so many; ends when all are answered."""
    return uvloop.run(_load(port, request, connections=connections, seconds=seconds, most=most))


async def _load(
    port: int, request: Callable[[int], bytes], *, connections: int, seconds: float, most: int | None
) -> Load:
    found = Load()
    began = time.perf_counter()
    until = began + (seconds or TIMEOUT_S)
    most = sys.maxsize if most is None else most
    clients = [
        _Client(found, request, until=until, most=most, step=connections, first=number)
        for number in range(connections)
    ]
    loop = asyncio.get_running_loop()
    for client in clients:
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
    await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), seconds + TIMEOUT_S)
    found.seconds = time.perf_counter() - began
    return found


def _same(client: "_Client") -> "_Client":
    return client


class _Client(asyncio.Protocol):
    """One connection; takes every `step`-th request from `first` on."""

    def __init__(
        self,
        found: Load,
        request: Callable[[int], bytes],
        *,
        until: float,
        most: int,
        step: int,
        first: int,
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._found = found
        self._request = request
        self._until = until
        self._most = most
        self._step = step
        self._number = first
        self._held = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._send()

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        status = int(self._held[9:12])
        length = _LENGTH.search(self._held, 0, end)
        if length is not None:
            if len(self._held) < end + 4 + int(length[1]):
                return
        elif status != 204 and not self._held.endswith(b"0\r\n\r\n"):
            return  # chunked, and not at its end
        self._found.latencies_ms.append((time.perf_counter() - self._sent) * 1000)
        self._found.statuses[status] += 1
        if status >= 300 or len(self._found.bodies) < 3:
            self._found.bodies = [*self._found.bodies[:20], self._held]
        self._held = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        number, self._number = self._number, self._number + self._step
        over = time.perf_counter() >= self._until or number >= self._most
        if self._transport is None or over:
            if not self.done.done():
                self.done.set_result(None)
            if self._transport is not None:
                self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(self._request(number))
