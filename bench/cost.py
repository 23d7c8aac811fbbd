"""What a message costs on the write street, part by part: reading the packet, parse, route, evaluate, write.

    .venv/bin/python -m bench.cost --messages 200000 --batch 2000 --repeat 3

Everything runs in this process, one message after the other, against a durable database of its own. Each part is
given in microseconds of CPU a message, the database's own work beside it; the floor is what cannot be left out: orjson
reading the payload, and COPY of prepared rows into the same table. 1,000 devices, 11 numbers, about 200 bytes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import psutil

from bench.history import VALUE, devices_create
from bench.rules_of_load import rules_create
from bench.site import Site

DEVICES = 1_000
COPY_ROWS = 100_000
PARTS = ("read", "parse", "route", "evaluate", "write")


class Parts:
    """CPU microseconds by part; a part within another is taken out of the outer one."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._inner.append(0.0)
        began = time.thread_time()
        try:
            yield
        finally:
            took = time.thread_time() - began
            inside = self._inner.pop()
            self.spent[name] = self.spent.get(name, 0.0) + took - inside
            if self._inner:
                self._inner[-1] += took

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Count every call of a method under `name`."""
        inner = getattr(owner, attribute)

        def outer(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return inner(*arguments, **named)

        setattr(owner, attribute, outer)


def run(*, messages: int, batch: int, devices: int, rules: int, repeat: int) -> None:
    with Site() as site:
        first = devices_create(site, devices)
        site.django()
        from servwatch_site.loop import collect_less
        from streams.upkeep import days_maintain

        collect_less()  # as the listener does
        days_maintain(now=datetime.now(UTC))  # around midnight records are of two days
        rules_create(site, rules)
        for number in range(repeat):
            _measure(site, messages=messages, batch=batch, devices=devices, first=first, number=number)


def _measure(site: Site, *, messages: int, batch: int, devices: int, first: int, number: int) -> None:
    from streams.pipeline import Clock, Street
    from streams.writer import Writer

    street, clock = Street(Writer(name="cost", slot=0)), Clock()
    packets = packets_of(site, count=messages + batch, devices=devices, begin=messages * number)
    parts = Parts()
    send(street, clock, packets[:batch])  # the first batch learns devices and structures
    server = psutil.Process(street.writer.connection.info.backend_pid)
    parts.wrap(street.writer, "days_ensure", "write")
    parts.wrap(street.writer, "write", "write")
    parts.wrap(street.writer.evaluator, "find", "evaluate")
    parts.wrap(street.writer.evaluator, "settle", "evaluate")
    before, began = server.cpu_times(), time.perf_counter()
    for start in range(batch, messages + batch, batch):
        send(street, clock, packets[start : start + batch], parts=parts)
    took_s = time.perf_counter() - began
    after = server.cpu_times()
    street.writer.close()
    database_us = 1e6 * (after.user + after.system - before.user - before.system) / messages
    own = {name: 1e6 * spent / messages for name, spent in parts.spent.items()}
    print(
        f"batch {batch}, {devices} devices: {messages / took_s:.0f} messages/s one after the other; "
        + "  ".join(f"{name} {own.get(name, 0.0):.1f}" for name in PARTS)
        + f"  sum {sum(own.values()):.1f} us;  database {database_us:.1f} us;  "
        + f"floor: orjson {_orjson_us(messages):.1f} us, COPY {_copy_us(site, first):.1f} us",
        flush=True,
    )


def packets_of(site: Site, *, count: int, devices: int, begin: int = 0) -> list[bytes]:
    """PUBLISH packets of QoS 1, as the broker sends them, of devices in turns."""
    token = site.account["device_token"]
    return [
        _packet(f"{token}/json/load-{number % devices}", (VALUE % (begin + number)).encode(), number)
        for number in range(count)
    ]


def _packet(topic: str, payload: bytes, number: int) -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (number % 65_535 + 1).to_bytes(2, "big") + payload
    digits = bytearray()
    size = len(body)
    while True:
        size, digit = divmod(size, 128)
        digits.append(digit | (0x80 if size else 0))
        if not size:
            return b"\x32" + bytes(digits) + body


def send(street: Any, clock: Any, packets: list[bytes], *, parts: Parts | None = None) -> None:
    """Take one batch down the street as the listener does."""
    from streams.connectors.mqtt import incoming
    from streams.connectors.mqtt_client import packets_read

    parts = parts or Parts()
    with parts.part("read"):
        found, _ = packets_read(b"".join(packets), version=4)
        stamps = clock.stamps(len(found))
    with parts.part("parse"):
        early = [street.parse_early(packet.topic, packet.payload) for packet in found]
    with parts.part("read"):
        messages = [incoming(packet, at, held) for packet, at, held in zip(found, stamps, early, strict=True)]
    with parts.part("route"):
        street.process(messages)


def _orjson_us(messages: int) -> float:
    texts = [(VALUE % n).encode() for n in range(min(messages, 20_000))]
    return _us(lambda: [orjson.loads(text) for text in texts], len(texts))


def _us(call: Callable[[], Any], count: int) -> float:
    found = []
    for _ in range(5):
        began = time.thread_time()
        call()
        found.append(1e6 * (time.thread_time() - began) / count)
    return statistics.median(found)


def _copy_us(site: Site, first: int) -> float:
    """Wall time of COPY for each of prepared rows into the records' own table; taken out again."""
    from bench.history import COLUMNS, lines

    texts = list(
        lines(
            first_device=first,
            channel_key=site.account["channel_key"],
            begin=datetime.now(UTC),
            count=COPY_ROWS,
        )
    )
    with site.connect(autocommit=False) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        with cursor.copy(f"COPY streams_record {COLUMNS} FROM STDIN") as copy:
            for text in texts:
                copy.write(text)
        took_s = time.perf_counter() - began
        connection.rollback()
    return 1e6 * took_s / COPY_ROWS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=2_000)
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--rules", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    run(**vars(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
