"""What grows with the number of devices, and with the number of records.

    .venv/bin/python -m bench.growth devices --counts 100,1000,10000,100000
    .venv/bin/python -m bench.growth records --counts 1000000,10000000,30000000
    .venv/bin/python -m bench.growth records --counts 100000000 --database-url postgresql://...  (TimescaleDB)

devices  with so many devices in one channel: what a message costs on the write street (devices in turns, the worst case
         for every cache), the memory of what the writing process remembers, the first batch after a start, reading the
         latest values of a hundred and a thousand devices and of all, the first byte of the console's fleet page.
records  with so many records in a channel of 1,000 devices: the newest record of the channel and of a device, pages 1
         and 100 of a thousand, a device's first page, an hour of a device as chart. Days are compressed as they are
         filled where the server has a columnstore.

Medians in milliseconds of warm repeats, in this process, through the same functions that pages and API call.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
from django.db import connection

from bench.cost import packets_of, send
from bench.history import devices_create, records_fill
from bench.pages import first_byte_ms, session_cookie
from bench.site import Site
from bench.stack import run_python

MESSAGES = 50_000
BATCH = 5_000
REPEATS = 15


def median_ms(call: Callable[[], Any], *, repeats: int = REPEATS) -> float:
    found = []
    for number in range(repeats + 2):
        began = time.perf_counter()
        call()
        if number >= 2:
            found.append(1000 * (time.perf_counter() - began))
    return statistics.median(found)


# --- devices ---


def devices(counts: Sequence[int]) -> None:
    """Each count in a process of its own, since Django stays with the database it was set up for."""
    costs = "us a message", "database us", "first batch", "remembered"
    _head(("devices", *costs, "latest of 100", "of 1,000", "of all", "fleet"))
    for count in counts:
        subprocess.run([sys.executable, "-m", "bench.growth", "one", "--counts", str(count)], check=True)


def _head(columns: Sequence[str]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("| --- " * len(columns) + "|", flush=True)


def _devices(site: Site, count: int) -> None:
    first = devices_create(site, count)
    site.django()
    from servwatch_site.loop import collect_less
    from streams.pipeline import Clock, Street
    from streams.writer import Writer

    collect_less()
    whole = max(MESSAGES, count)
    packets = packets_of(site, count=whole + MESSAGES, devices=count)
    before_mb = _memory_mb()
    street, clock = Street(Writer(name="growth", slot=0)), Clock()
    began = time.perf_counter()
    send(street, clock, packets[:BATCH])
    first_ms = 1000 * (time.perf_counter() - began)
    for start in range(BATCH, whole, BATCH):
        send(street, clock, packets[start : start + BATCH])  # every device has been heard once
    remembered_mb = _memory_mb() - before_mb
    server = psutil.Process(street.writer.connection.info.backend_pid)
    cpu, database = time.process_time(), sum(server.cpu_times()[:2])
    for start in range(whole, whole + MESSAGES, BATCH):
        send(street, clock, packets[start : start + BATCH])
    cpu_us = 1e6 * (time.process_time() - cpu) / MESSAGES
    database_us = 1e6 * (sum(server.cpu_times()[:2]) - database) / MESSAGES
    street.writer.close()
    latest = [_latest_ms(first, min(number, count)) for number in (100, 1_000, count)]
    print(
        f"| {count:,} | {cpu_us:.1f} | {database_us:.1f} | {first_ms:.0f} ms | {remembered_mb:.0f} MB | "
        + " | ".join(f"{ms:.1f} ms" for ms in latest)
        + f" | {_fleet_ms(site):.0f} ms |",
        flush=True,
    )


def _memory_mb() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 1e6


def _latest_ms(first: int, count: int) -> float:
    """The latest rows of so many devices, in the database."""
    keys = list(range(first, first + count))

    def read() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT device_key, at, value FROM channels_latest WHERE device_key = ANY(%s)", [keys]
            )
            cursor.fetchall()

    return median_ms(read, repeats=5)


def _fleet_ms(site: Site) -> float:
    """First byte of the fleet page for a person who is signed in."""
    run_python(site.environment, "manage.py", "collectstatic", "--verbosity", "0", "--noinput")
    return first_byte_ms(site.web(), "/", session_cookie())


# --- records ---


def records(counts: Sequence[int], *, database_url: str) -> None:
    pages = "page 1", "page 100", "page 1 of a device"
    _head(
        (
            "records",
            "in columnstore",
            "bytes each",
            "newest",
            "newest of a device",
            *pages,
            "an hour as chart",
        )
    )
    with Site(database_url=database_url) as site:
        first = devices_create(site)
        site.django()
        end = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        have = 0
        for count in counts:
            records_fill(site, first_device=first, end=end - have * _step(), count=count - have)
            have = count
            _records(site, first, end, count)


def _step() -> timedelta:
    from bench.history import STEP

    return STEP


def _records(site: Site, first: int, end: datetime, count: int) -> None:
    from streams.charts import Source, chart
    from streams.selectors import RecordFilter, record_stream, records_newest

    begin = end - count * _step()
    channel = RecordFilter(channel_key=site.account["channel_key"], low=begin, high=end)
    device = RecordFilter(channel_key=site.account["channel_key"], low=begin, high=end, device_keys=[first])
    position = list(record_stream(channel, limit=99_000))[-1].position
    found = [
        median_ms(lambda: records_newest(channel, limit=1, channel_newest=end)),
        median_ms(lambda: records_newest(device, limit=1)),
        median_ms(lambda: list(record_stream(channel, limit=1_000))),
        median_ms(lambda: list(record_stream(channel, after=position, limit=1_000))),
        median_ms(lambda: list(record_stream(device, limit=1_000))),
        median_ms(lambda: chart(Source.device(first), ["cpu:user"], start=end - timedelta(hours=1), end=end)),
    ]
    size, compressed = _size(site)
    print(
        f"| {count:,} | {compressed} | {size / count:.0f} | "
        + " | ".join(f"{ms:.1f} ms" for ms in found)
        + " |",
        flush=True,
    )


def _size(site: Site) -> tuple[int, str]:
    """Bytes of the records' table with everything that belongs to it, and how many chunks are compressed."""
    from streams.storage import Kind, storage_kind

    with site.connect() as database, database.cursor() as cursor:
        if storage_kind(cursor) is Kind.HYPERTABLE:
            cursor.execute("SELECT hypertable_size('streams_record')")
            ((size,),) = cursor.fetchall()
            cursor.execute(
                "SELECT count(*) FILTER (WHERE is_compressed), count(*) FROM timescaledb_information.chunks"
                " WHERE hypertable_name = 'streams_record'"
            )
            ((compressed, chunks),) = cursor.fetchall()
            return int(str(size)), f"{compressed} of {chunks} days"
        cursor.execute(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'streams_record'::regclass"
        )
        ((size,),) = cursor.fetchall()
        return int(str(size)), "no"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("devices", "records", "one"), help="one: a row of devices")
    parser.add_argument("--counts", default="", help="numbers, by comma")
    parser.add_argument(
        "--database-url", default="", help="an empty database to use; default: one of its own"
    )
    arguments = parser.parse_args()
    counts = [int(text.replace("_", "")) for text in arguments.counts.split(",") if text]
    if arguments.what == "one":
        with Site() as site:
            _devices(site, counts[0])
    elif arguments.what == "devices":
        devices(counts or [100, 1_000, 10_000, 100_000])
    else:
        records(counts or [1_000_000, 10_000_000, 30_000_000], database_url=arguments.database_url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
