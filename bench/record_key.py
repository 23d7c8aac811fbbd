"""Which key and index records should have: one that leads with the device, or with the channel.

    .venv/bin/python -m bench.record_key --rows 300000

Three layouts on a fresh server, with 1 and with 1,000 devices in the channel. Writing is the writer's own way (COPY to
a temporary table, INSERT that ignores duplicates, 1,000 a batch), given as a ratio to the layout without a second
index; reads are medians in milliseconds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg

from bench.stack import DURABLE
from servwatch_site.embedded.postgres import TemporaryPostgres

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
VALUE = (
    '{"cpu":{"user":12.5,"idle":84.25},"load1":0.41,"mem":{"used":8123456512,"free":16123456512},"disk":41.5}'
)
LAYOUTS = {
    "device key only": ("device_key, at, digest", None),
    "device key + (channel, at)": ("device_key, at, digest", "channel_key, at"),
    "channel key + (device, at)": ("channel_key, at, device_key, digest", "device_key, at"),
}
READS = {
    "newest of the channel": "SELECT value FROM r WHERE channel_key = 1 AND at < %(end)s ORDER BY at DESC LIMIT 1",
    "channel page of 1,000": "SELECT value FROM r WHERE channel_key = 1 AND at >= %(mid)s AND at < %(end)s"
    " ORDER BY at, device_key, digest LIMIT 1000",
    "device page of 1,000": "SELECT value FROM r WHERE device_key = 7 AND at >= %(begin)s AND at < %(end)s"
    " ORDER BY at, digest LIMIT 1000",
    "device chart": "SELECT date_bin('5 minutes', at, %(begin)s), avg((value #>> '{cpu,idle}')::float8) FROM r"
    " WHERE device_key = 7 AND at >= %(begin)s AND at < %(end)s GROUP BY 1",
}


def rows(count: int, devices: int) -> Iterator[tuple[Any, ...]]:
    """`count` records of `devices` devices in order of time, spread over three days."""
    step = timedelta(days=3) / count
    for number in range(count):
        device = number % devices if devices > 1 else 7
        yield 1, device, BEGIN + number * step, number * 2654435761 % 2**62, VALUE


def write(connection: psycopg.Connection[Any], data: list[tuple[Any, ...]]) -> float:
    """Records a second."""
    began = time.monotonic()
    for start in range(0, len(data), 1_000):
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy("COPY incoming FROM STDIN") as copy:
                for row in data[start : start + 1_000]:
                    copy.write_row(row)
            cursor.execute("INSERT INTO r SELECT * FROM incoming ON CONFLICT DO NOTHING")
    return len(data) / (time.monotonic() - began)


def measure(
    connection: psycopg.Connection[Any], key: str, index: str | None, data: list[tuple[Any, ...]]
) -> Any:
    columns = "channel_key bigint, device_key bigint, at timestamptz, digest bigint, value jsonb"
    connection.execute("DROP TABLE IF EXISTS r, incoming")
    connection.execute(f"CREATE TABLE r ({columns}, PRIMARY KEY ({key})) PARTITION BY RANGE (at)")
    for day in range(4):
        low, high = BEGIN + timedelta(days=day), BEGIN + timedelta(days=day + 1)
        connection.execute(f"CREATE TABLE r_{day} PARTITION OF r FOR VALUES FROM ('{low}') TO ('{high}')")
    if index:
        connection.execute(f"CREATE INDEX ON r ({index})")
    connection.execute(f"CREATE TEMPORARY TABLE incoming ({columns}) ON COMMIT DELETE ROWS")
    rate = write(connection, data)
    connection.execute("ANALYZE r")
    span = {"begin": BEGIN, "mid": BEGIN + timedelta(days=1, hours=12), "end": BEGIN + timedelta(days=3)}
    times = {name: median_ms(partial(read_all, connection, sql, span)) for name, sql in READS.items()}
    (size,) = connection.execute("SELECT sum(pg_indexes_size(i.inhrelid)) FROM pg_inherits i").fetchone() or (
        0,
    )
    return rate, times, float(size) / len(data)


def read_all(connection: psycopg.Connection[Any], sql: str, span: dict[str, datetime]) -> list[Any]:
    return connection.execute(sql, span).fetchall()


def median_ms(read: Callable[[], Any]) -> float:
    read()
    taken = []
    for _ in range(7):
        began = time.monotonic()
        read()
        taken.append((time.monotonic() - began) * 1000)
    return statistics.median(taken)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300_000)
    count = parser.parse_args().rows
    with (
        TemporaryPostgres(settings=DURABLE) as postgres,
        psycopg.connect(postgres.url, autocommit=True) as connection,
    ):
        for devices in (1, 1_000):
            print(f"{devices} devices in the channel, {count} records")
            data = list(rows(count, devices))
            reference = None
            for name, (key, index) in LAYOUTS.items():
                rate, times, bytes_each = measure(connection, key, index, data)
                reference = reference or rate
                reads = "  ".join(f"{what} {ms:.2f}" for what, ms in times.items())
                print(
                    f"  {name:28s} write {rate / reference:.2f} ({rate:.0f}/s)  index {bytes_each:.0f} B  {reads}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
