"""What grows with the number of devices, and with the number of records.

    .venv/bin/python -m bench.growth devices --counts 100,1000,10000,100000
    .venv/bin/python -m bench.growth records --counts 1000000,10000000,30000000
    .venv/bin/python -m bench.growth records --counts 100000000 --database-url postgresql://...  (TimescaleDB)

devices  with so many devices in one channel: what a message costs on the write street (devices in turns, the worst case
         for every cache), the memory of what the writing process remembers, the first batch after a start, reading the
         latest values of a hundred and a thousand devices and of all, the first byte of the console's fleet page.
records  with so many records in a channel of 1,000 devices: the newest record of the channel and of a device, pages 1
         and 100 of a thousand, a device's first page, an hour of a device as chart; beside it a channel of one device,
         every second. Days are compressed as they are filled where the server has a columnstore.

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
from bench.history import Senders, devices_create, records_fill
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


LONE_STEP = timedelta(seconds=1)  # of the channel that has one device


def records(counts: Sequence[int], *, database_url: str) -> None:
    reads = "newest", "newest of a device", "page 1", "page 100", "page 1 of a device", "an hour as chart"
    lone = "one device's channel: newest", "page 1", "page 100"
    _head(("records", "in columnstore", "bytes each", *reads, *lone))
    with Site(database_url=database_url) as site:
        many = Senders(devices_create(site), site.account["channel_key"])
        site.django()
        lone_channel = _channel_create(site)
        one = Senders(
            devices_create(site, 1, name="lone", channel_key=lone_channel), lone_channel, 1, LONE_STEP
        )
        end = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        have = end
        for count in counts:
            begin = (end - count * many.step).replace(microsecond=0)
            records_fill(site, [many, one], begin=begin, end=have)
            have = begin
            _records(site, many, one, begin, end)


def _channel_create(site: Site) -> int:
    from channels.services import channel_create
    from tokens.models import Account

    return channel_create(Account.objects.get(pk=site.account["key"]), 1).pk


def _records(site: Site, many: Senders, one: Senders, begin: datetime, end: datetime) -> None:
    from streams.charts import Source, chart
    from streams.selectors import RecordFilter

    channel = RecordFilter(channel_key=many.channel_key, low=begin, high=end)
    device = RecordFilter(channel_key=many.channel_key, low=begin, high=end, device_keys=[many.first])
    newest, *pages = _channel_ms(channel)
    device_newest, device_page, _ = _channel_ms(device)
    hour = timedelta(hours=1)
    found = [newest, device_newest, *pages, device_page]
    found.append(median_ms(lambda: chart(Source.device(many.first), ["cpu:user"], start=end - hour, end=end)))
    found += _channel_ms(RecordFilter(channel_key=one.channel_key, low=begin, high=end))
    size, compressed = _size(site)
    count = (end - begin) // many.step + (end - begin) // one.step
    print(
        f"| {count:,} | {compressed} | {size / count:.0f} | "
        + " | ".join(f"{ms:.1f} ms" for ms in found)
        + " |",
        flush=True,
    )


def _channel_ms(narrow: Any) -> tuple[float, float, float]:
    """The newest record, and pages 1 and 100 of a thousand of all that is there, or the last page before it ends."""
    from streams.selectors import record_stream, records_newest

    *_, last = record_stream(narrow, limit=99_000)
    whole = narrow.device_keys is None
    return (
        median_ms(lambda: records_newest(narrow, limit=1, channel_newest=narrow.high if whole else None)),
        median_ms(lambda: list(record_stream(narrow, limit=1_000))),
        median_ms(lambda: list(record_stream(narrow, after=last.position, limit=1_000))),
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
