"""Zabbix's trapper protocol, as zabbix_sender speaks it: one connection a request, one answer."""

import re
import socket
import struct
import time
from collections.abc import Iterable

from bench.peers.data import DEVICES, FIELDS, values_of

HEAD = b"ZBXD\x01"
ANSWER_MAX_BYTES = 1 << 20
TIMEOUT_S = 30.0
_ANSWERED = re.compile(rb"processed: (\d+); failed: (\d+)")
_ITEM = '{"host":"%s","key":"%s","value":"%s","clock":%d,"ns":%d}'


class TrapperError(Exception):
    """The server answered something else than that it took every value."""


def host_of(number: int) -> str:
    return f"dev{number % DEVICES:04d}"


def key_of(place: int) -> str:
    return f"m{place}"


def item(host: str, key: str, value: str, *, clock: int, ns: int) -> str:
    return _ITEM % (host, key, value, clock, ns)


def report_items(number: int, *, clock: int) -> list[str]:
    """A report as eleven values. `ns` is its number, so that a row of the history tells which report it is of."""
    host = host_of(number)
    return [
        item(host, key_of(place), value, clock=clock, ns=number)
        for place, value in zip(range(len(FIELDS)), values_of(number), strict=True)
    ]


def frame(body: bytes) -> bytes:
    return HEAD + struct.pack("<Q", len(body)) + body


def sender_data(items: Iterable[str], *, clock: int) -> bytes:
    """A whole request that hands values over."""
    return frame(b'{"request":"sender data","data":[%b],"clock":%d}' % (",".join(items).encode(), clock))


def ask(port: int, request: bytes) -> bytes:
    """One request on a connection of its own; the answer's body. Raises OSError, also for a broken-off answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as client:
        client.sendall(request)
        held = b""
        while len(held) < 13 or len(held) < 13 + _length(held):
            got = client.recv(65_536)
            if not got:
                raise ConnectionError("the server closed the connection before its answer")
            held += got
    return held[13:]


def hand_over(port: int, items: list[str]) -> None:
    """Send values; returns when the server has acknowledged all. Raises OSError or TrapperError."""
    answer = ask(port, sender_data(items, clock=int(time.time())))
    found = _ANSWERED.search(answer)
    if found is None or int(found[1]) != len(items):
        raise TrapperError(f"the server did not take all of {len(items)} values: {answer[:200]!r}")


def _length(held: bytes) -> int:
    if not held.startswith(HEAD):
        raise ConnectionError(f"this is no answer of a trapper: {held[:20]!r}")
    (length,) = struct.unpack_from("<Q", held, len(HEAD))
    if length > ANSWER_MAX_BYTES:
        raise ConnectionError(f"an answer of {length} bytes")
    return int(length)
