"""The HTTP connector: POST /post_v2/ with one record a request, and with a thousand.

    .venv/bin/python -m bench.connector --seconds 5 --repeat 3

One record: requests a second with 1, 8 and 32 connections kept alive, beside a bare asynchronous view that reads the
body and answers 200: in the same web process, whose middleware both pass, and in one without any middleware. Then
once more with each device's requests counted. A thousand records (an array of `{"at": ..., "value": ...}`, as many as
fit into 256 KiB): records a second beside COPY of prepared rows into the same table. At the end acknowledged must be
stored, and the account's counters must add up.
"""

import argparse
import sys
import time
from datetime import UTC, datetime, timedelta

import orjson

from bench.history import COLUMNS, DEVICES, VALUE, devices_create, lines
from bench.http_load import Load, load, request_bytes
from bench.site import COUNTED, Site, Web

CONNECTIONS = (1, 8, 32)
ARRAY_CONNECTIONS = (1, 4)
PAYLOAD_LIMIT = 256 * 1024
COPY_ROWS = 200_000


class Sender:
    """Makes requests that are never the same twice, and counts what was acknowledged."""

    def __init__(self, site: Site) -> None:
        self._token = site.account["device_token"]
        self._number = 0
        self._at = datetime.now(UTC) - timedelta(days=1)
        self.acknowledged = 0

    def single(self, _number: int) -> bytes:
        self._number += 1
        device = f"load-{self._number % DEVICES}"
        headers = {"X-DEVICETOKEN": self._token, "X-DEVICEID": device}
        return request_bytes("/post_v2/", headers=headers, body=(VALUE % self._number).encode())

    def arrays(self, count: int, *, records: int = 1_000) -> tuple[list[bytes], int]:
        """So many requests, and how many records each of them holds."""
        made: list[bytes] = []
        for _ in range(count):
            parts: list[bytes] = []
            size = 2
            while len(parts) < records:
                self._at += timedelta(milliseconds=1)
                self._number += 1
                part = b'{"at":"%b","value":%b}' % (
                    self._at.isoformat(timespec="milliseconds").encode(),
                    (VALUE % self._number).encode(),
                )
                if size + len(part) + 1 > PAYLOAD_LIMIT:
                    records = len(parts)
                    break
                parts.append(part)
                size += len(part) + 1
            headers = {"X-DEVICETOKEN": self._token, "X-DEVICEID": f"load-{len(made) % DEVICES}"}
            made.append(request_bytes("/post_v2/", headers=headers, body=b"[" + b",".join(parts) + b"]"))
        return made, records


def bare(number: int) -> bytes:
    return request_bytes("/bare/connector", body=(VALUE % number).encode())


def run(*, seconds: float, repeat: int) -> bool:
    with Site() as site:
        first = devices_create(site)
        web, slim = site.web(), site.web(middleware=False)
        print(f"web process {web.process.pid}, without middleware {slim.process.pid}", file=sys.stderr)
        sender = Sender(site)
        _stored(sender, load(web.port, sender.single, connections=8, seconds=1))
        for of in (web, slim):
            load(of.port, bare, connections=8, seconds=1).require(200)
        for limit in (0, COUNTED):
            site.limits(limit)
            for connections in CONNECTIONS:
                for _ in range(repeat):
                    _single(sender, web, slim, connections=connections, seconds=seconds, counted=bool(limit))
        site.limits(0)
        for connections in ARRAY_CONNECTIONS:
            for _ in range(repeat):
                _arrays(site, sender, web, connections=connections, first_device=first)
        return _adds_up(site, sender)


def _single(sender: Sender, web: Web, slim: Web, *, connections: int, seconds: float, counted: bool) -> None:
    before = web.cpu_s
    found = _stored(sender, load(web.port, sender.single, connections=connections, seconds=seconds))
    cpu_us = 1e6 * (web.cpu_s - before) / found.count
    beside = load(web.port, bare, connections=connections, seconds=seconds).require(200)
    least = load(slim.port, bare, connections=connections, seconds=seconds).require(200)
    print(
        f"one record, {connections} connections, {'counted' if counted else 'no limit'}: {found.rate:.0f}/s  "
        f"bare view {beside.rate:.0f}/s  ratio {found.rate / beside.rate:.2f}  "
        f"without middleware {least.rate:.0f}/s  ratio {found.rate / least.rate:.2f}  "
        f"median {found.median_ms:.2f} ms, {cpu_us:.0f} us of the web process",
        flush=True,
    )


def _arrays(site: Site, sender: Sender, web: Web, *, connections: int, first_device: int) -> None:
    requests, records = sender.arrays(100)
    size = len(requests[0])
    before = web.cpu_s
    found = load(web.port, requests.__getitem__, connections=connections, most=len(requests)).require(200)
    sent = records * found.count
    cpu_us = 1e6 * (web.cpu_s - before) / sent
    counts = {orjson.loads(body.partition(b"\r\n\r\n")[2])["count"] for body in found.bodies}
    if counts != {records}:
        raise RuntimeError(f"arrays of {records} were answered by {counts}")
    sender.acknowledged += sent
    rate = sent / found.seconds
    copied = _copy(site, first_device)
    print(
        f"{records} records a request ({size} bytes), {connections} connections: {rate:.0f} records/s  "
        f"COPY {copied:.0f}/s  ratio {rate / copied:.2f}  median {found.median_ms:.1f} ms, "
        f"{cpu_us:.1f} us of the web process a record",
        flush=True,
    )


def _stored(sender: Sender, found: Load) -> Load:
    sender.acknowledged += found.require(200).count
    return found


def _copy(site: Site, first_device: int) -> float:
    """Records a second of prepared rows into the records' own table, which has their days already; taken out again."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    texts = list(
        lines(
            first_device=first_device, channel_key=-1, begin=begin, count=COPY_ROWS
        )  # nobody's channel: not counted below
    )
    with site.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")
        began = time.perf_counter()
        with cursor.copy(f"COPY streams_record {COLUMNS} FROM STDIN") as copy:
            for text in texts:
                copy.write(text)
        took_s = time.perf_counter() - began
        cursor.execute("DELETE FROM streams_record WHERE channel_key = -1")
        cursor.execute("VACUUM streams_record")
    return COPY_ROWS / took_s


def _adds_up(site: Site, sender: Sender) -> bool:
    ((stored,),) = site.query("SELECT count(*) FROM streams_record")
    ((received, kept, duplicate, refused, limited),) = site.query(
        "SELECT sum(received)::bigint, sum(stored)::bigint, sum(duplicate)::bigint, sum(refused)::bigint,"
        " sum(limited)::bigint FROM tokens_accounttraffic"
    )
    right = sender.acknowledged == stored == kept and received == kept + duplicate + refused + limited
    print(
        f"acknowledged {sender.acknowledged}  stored {stored}  counted: received {received} = stored {kept} + "
        f"duplicate {duplicate} + refused {refused} + limited {limited}: {'yes' if right else 'NO'}"
    )
    return bool(right)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each load of single records")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    return 0 if run(seconds=arguments.seconds, repeat=arguments.repeat) else 1


if __name__ == "__main__":
    sys.exit(main())
