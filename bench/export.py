"""A long range over HTTP: records a second, memory of the web process, and what is left when the client goes away.

    .venv/bin/python -m bench.export --records 5000000 --repeat 3

One channel with 1,000 devices, 11 numbers and about 200 bytes a record. The client counts records and throws them
away. Reference of the same run: COPY of the same rows in the same order to a client that throws them away. Then a
client closes after 10 MB: within two seconds no query of it may run, and its memory must be free.
"""

import argparse
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from bench.history import history_load
from bench.http_load import request_bytes
from bench.site import Site, Web

CHUNK = 256 * 1024
CUT_BYTES = 10_000_000
MARK = b'{"_id":'
FORMS = ("json", "ndjson", "csv")


@dataclass
class Memory:
    """`with Memory(web) as memory:`; samples the resident memory of a web process in MB."""

    web: Web
    before: float = 0.0
    samples: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.before = self.web.memory_mb
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        third = max(1, len(self.samples) // 3)
        first, last = self.samples[:third], self.samples[-third:]
        return (
            f"memory before {self.before:.0f}, peak {max(self.samples):.0f}, at the end {self.samples[-1]:.0f} MB "
            f"(mean of the first third {sum(first) / third:.0f}, of the last {sum(last) / third:.0f})"
        )

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            self.samples.append(self.web.memory_mb)
        self.samples.append(self.web.memory_mb)


def run(*, records: int, repeat: int, form: str) -> bool:
    with Site() as site:
        begin, end, loaded = history_load(site, count=records)
        print(f"{records} records from {begin} to {end}, loaded with {loaded:.0f}/s", file=sys.stderr)
        web = site.web()
        print(f"web process {web.process.pid}", file=sys.stderr)
        _read(
            site, web, begin, end, form=form, most_bytes=CUT_BYTES
        )  # the first answers of a process load code
        whole = True
        for _ in range(repeat):
            cpu_s = web.cpu_s
            with Memory(web) as memory:
                took_s, size, count = _read(site, web, begin, end, form=form)
            whole = whole and (form == "csv" or count == records)
            cpu_us = 1e6 * (web.cpu_s - cpu_s) / records
            copied_s = _copy(site, begin, end)
            print(
                f"export {form}: {count} records, {size / 1e6:.0f} MB in {took_s:.1f} s = {records / took_s:.0f}/s  "
                f"COPY {records / copied_s:.0f}/s  ratio {copied_s / took_s:.2f}  "
                f"{cpu_us:.1f} us of the web process a record; {memory}",
                flush=True,
            )
        for _ in range(repeat):
            _cut_off(site, web, begin, end, form=form)
        return whole


def _read(
    site: Site, web: Web, begin: datetime, end: datetime, *, form: str, most_bytes: int | None = None
) -> tuple[float, int, int]:
    """Seconds, bytes, and records of one answer, as far as it is read."""
    query = urlencode({"start": begin.isoformat(), "end": end.isoformat(), "format": form})
    request = request_bytes(f"/v2/stream/0?{query}", headers={"X-APITOKEN": site.account["api_token"]})
    size = count = 0
    tail = b""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as client:
        client.sendall(request)
        while most_bytes is None or size < most_bytes:
            got = client.recv_into(view)
            if got == 0:
                raise RuntimeError("the answer broke off")
            size += got
            count += buffer.count(MARK, 0, got) + (tail + buffer[: len(MARK) - 1][:got]).count(MARK)
            tail = bytes(buffer[max(0, got - len(MARK) + 1) : got])
            if tail.endswith(b"0\r\n\r\n"):
                break
    return time.perf_counter() - began, size, count


def _copy(site: Site, begin: datetime, end: datetime) -> float:
    sql = (
        "COPY (SELECT r.at, r.digest, d.device_id, r.tag, r.form, r.value FROM streams_record r"
        " LEFT JOIN devices_device d ON d.id = r.device_key"
        f" WHERE r.channel_key = {int(site.account['channel_key'])} AND r.at >= '{begin}' AND r.at < '{end}'"
        " ORDER BY r.at, r.device_key, r.digest) TO STDOUT"
    )
    began = time.perf_counter()
    with site.connect() as connection, connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
        for _data in copy:
            pass
    return time.perf_counter() - began


def _cut_off(site: Site, web: Web, begin: datetime, end: datetime, *, form: str) -> None:
    idle = web.memory_mb
    seen: list[float] = []  # when a query of an answer was running
    over = threading.Event()
    watch = threading.Thread(target=_watch_queries, args=(site, seen, over))
    watch.start()
    _, size, _ = _read(site, web, begin, end, form=form, most_bytes=CUT_BYTES)
    closed = time.perf_counter()
    peak = 0.0
    while time.perf_counter() - closed < 2:
        peak = max(peak, web.memory_mb)
        time.sleep(0.01)
    over.set()
    watch.join()
    cpu_s = web.cpu_s
    time.sleep(1)
    after = [moment - closed for moment in seen if moment > closed]
    print(
        f"cut off after {size / 1e6:.1f} MB: its query was seen {len(seen) - len(after)} times before and "
        f"{len(after)} times after, last {max(after, default=0.0):.3f} s after; memory before {idle:.0f}, "
        f"peak {peak:.0f}, 2 s later {web.memory_mb:.0f} MB; "
        f"the process then used {web.cpu_s - cpu_s:.2f} s of a second",
        flush=True,
    )


def _watch_queries(site: Site, seen: list[float], over: threading.Event) -> None:
    """Some hundred looks a second."""
    with site.connect() as connection:
        while not over.wait(0.003):
            rows = connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                " AND state <> 'idle' AND query LIKE '%streams_record%'"
            ).fetchall()
            if rows:
                seen.append(time.perf_counter())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--format", choices=FORMS, default="json")
    arguments = parser.parse_args()
    whole = run(records=arguments.records, repeat=arguments.repeat, form=arguments.format)
    print("every record came" if whole else "RECORDS ARE MISSING")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
