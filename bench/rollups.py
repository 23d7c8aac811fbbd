"""Roll-ups: what they cost a message, and what they save a chart.

    .venv/bin/python -m bench.rollups cost   --count 300000 --repeat 3
    .venv/bin/python -m bench.rollups charts --repeat 3

cost    microseconds a message to roll it up, beside COPY of the same rows and the writer's core in the same run; 11
        numbers, 1,000 devices, each every 10 s: the dearest case, since a minute's row then holds only 6 records.
charts  30 days at 10 s (259,200 records) of one device to at most 500 points with minimum and maximum, from records,
        minutes and hours, by device and by channel; then the same with 1,000 devices in the channel, whose rows of
        hours are copies of the first one's. Milliseconds of chart() as a page calls it, with all of its queries.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

from bench.history import DEVICES, VALUE, devices_create, history_load
from bench.site import Site

KEYS = (
    "cpu:user",
    "cpu:system",
    "cpu:idle",
    "load1",
    "load5",
    "mem:used",
    "mem:free",
    "net:rx",
    "net:tx",
    "disk",
    "n",
)
DAYS = 30
STEP_S = 10
POINTS = 500
BATCH = 1_000


def cost(*, count: int, repeat: int) -> None:
    for _ in range(repeat):
        with Site() as site:
            _, end, rate = history_load(site, count=count)
            _streams_create(site)
            rolled_us = _roll_s() / count * 1e6
            copied_us = 1e6 / rate
            written_us = _write_s(site, end, count=count // 3) / (count // 3) * 1e6
            print(
                f"roll up {rolled_us:.1f} us a message  COPY {copied_us:.1f} us, ratio {rolled_us / copied_us:.2f}"
                f"  writer core {written_us:.1f} us, ratio {rolled_us / written_us:.2f}",
                flush=True,
            )
            for name, table in (("records", "streams_record"), ("minutes", "streams_rollupminute")):
                print(f"  {name}: {_size(site, table) / count:.0f} bytes a message")


def charts(*, repeat: int) -> None:
    with Site() as site:
        first = devices_create(site)
        begin, end = _month_load(site, first)
        _streams_create(site)
        print(f"30 days rolled up in {_roll_s():.1f} s")
        _analyze(site)
        _measure("1 device", site, first, begin, end, repeat=repeat)
        _copy_hours(site, first)
        _measure("1,000 devices", site, first, begin, end, repeat=repeat, names=("hour",))


def _measure(
    title: str,
    site: Site,
    device: int,
    begin: datetime,
    end: datetime,
    *,
    repeat: int,
    names: tuple[str, ...] = ("raw", "minute", "hour"),
) -> None:
    from streams.charts import Source, chart

    sources = {"device": Source.device(device), "channel": Source.channel(site.account["channel_key"])}
    for name in names:
        for by, source in sources.items():
            for keys in (KEYS[:1], KEYS):
                read = partial(chart, source, keys, start=begin, end=end, points=POINTS)
                with _only(name):
                    taken = _median_ms(read, repeat=3 if name == "raw" else 7 * repeat)
                print(f"{title}, by {by}, {len(keys)} keys, {name}: {taken:.1f} ms", flush=True)


@contextmanager
def _only(name: str) -> Iterator[None]:
    """Allow this resolution at most."""
    from streams.cover import Resolution

    with patch("streams.charts._coarsest", return_value=Resolution(name)):
        yield


def _median_ms(run: Callable[[], Any], *, repeat: int) -> float:
    run()
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def _roll_s() -> float:
    from streams.rollups import rollups_make

    began = time.perf_counter()
    while not rollups_make(now=lambda: datetime.now(UTC)):
        pass
    return time.perf_counter() - began


def _write_s(site: Site, at: datetime, *, count: int) -> float:
    """Seconds the writer takes for as many new records, in batches of 1,000."""
    from streams.writer import Batch, Row, Writer

    channel_key = site.account["channel_key"]
    ((first,),) = site.query("SELECT min(id) FROM devices_device WHERE device_id = 'load-0'")
    rows = [
        Row(
            first + n % DEVICES,
            channel_key,
            at + n * timedelta(milliseconds=10),
            n,
            0,
            None,
            1,
            VALUE % n,
        )
        for n in range(count)
    ]
    writer = Writer(name="bench")
    writer.days_ensure(rows)
    began = time.perf_counter()
    for place in range(0, count, BATCH):
        with writer.transaction() as cursor:
            writer.write(cursor, Batch(rows=rows[place : place + BATCH]), careful=False)
    took_s = time.perf_counter() - began
    writer.close()
    return took_s


def _month_load(site: Site, device: int) -> tuple[datetime, datetime]:
    site.django()
    from streams.storage import Kind, partitions_create, storage_kind

    end = datetime.now(UTC).replace(second=0, microsecond=0)
    begin = end - timedelta(days=DAYS)
    days = {begin.date() + timedelta(days=n) for n in range(DAYS + 1)}
    with site.connect() as connection, connection.cursor() as cursor:
        if storage_kind(cursor) is Kind.PARTITIONS:
            partitions_create(cursor, days)
        cursor.execute(
            "INSERT INTO streams_record (device_key, channel_key, at, digest, form, tag, value)"
            " SELECT %s, %s, %s + n * make_interval(secs => %s), n, 0, NULL, replace(%s, '%%d', n::text)::jsonb"
            " FROM generate_series(0, %s) AS n",
            [device, site.account["channel_key"], begin, STEP_S, VALUE, DAYS * 86_400 // STEP_S - 1],
        )
    return begin, end


def _streams_create(site: Site) -> None:
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO channels_stream (channel_id, key, label, unit, type, created_at)"
            " SELECT %s, key, '', '', 'number', now() FROM unnest(%s::text[]) AS key",
            [site.account["channel_key"], list(KEYS)],
        )


def _copy_hours(site: Site, device: int) -> None:
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO streams_rolluphour SELECT device_key + n, at, channel_key, records, whole, tag, streams,"
            " counts, sums, lows, highs FROM streams_rolluphour, generate_series(1, %s) AS n WHERE device_key = %s",
            [DEVICES - 1, device],
        )
    _analyze(site)


def _analyze(site: Site) -> None:
    with site.connect() as connection:
        for table in ("streams_record", "streams_rollupminute", "streams_rolluphour"):
            connection.execute(f"VACUUM ANALYZE {table}")


def _size(site: Site, table: str) -> float:
    rows = site.query(
        "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits"
        f" WHERE inhparent = '{table}'::regclass"
    )
    return float(rows[0][0])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "charts"))
    parser.add_argument("--count", type=int, default=300_000, help="of messages, for cost")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "cost":
        cost(count=arguments.count, repeat=arguments.repeat)
    else:
        charts(repeat=arguments.repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
