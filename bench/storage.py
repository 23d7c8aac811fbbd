"""What each kind of storage costs: partitions, hypertable and columnstore, side by side in one run.

    .venv/bin/python -m bench.storage --rows 300000 --repeat 3
    .venv/bin/python -m bench.storage --database-url postgresql://user@host/postgres      another server

Write rates are ratios to R: COPY of prepared rows, all at once, into the same keyed table. `direct` is the writer's
usual way, COPY of each batch into the table; `careful` its way once duplicates were met, COPY to a temporary table and
an INSERT that ignores them. Then, on TimescaleDB's full licence: bytes a record as rows and in the columnstore, the
rate of compression, late batches of 1,000 into a compressed day, reads of 1,000 records from it by channel and by
device, with 1 and with 1,000 devices in the channel. Last what it takes to drop the oldest day.

1,000 devices, 11 numbers that walk as measurements do, about 210 bytes a record. The work is done in a database of its
own, which is dropped afterwards; the embedded server is started for it unless another one is named.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from bench.stack import DURABLE
from servwatch_site.embedded.postgres import TemporaryPostgres
from streams.hypertable import chunk_sizes, chunks, chunks_compress, columnstore_ensure
from streams.storage import (
    RECORDS,
    Engine,
    bucket_statements,
    engine_detect,
    hypertable_statements,
    partition_name,
    partitions_create,
)

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 2
DEVICES = 1_000
SERIES = replace(RECORDS, table="bench_record", indexes={"bench_record_channel": ("channel_key", "at")})
COLUMNS = "device_key, channel_key, at, digest, form, tag, value"
DEFINITIONS = (
    "device_key bigint NOT NULL, channel_key bigint NOT NULL, at timestamptz NOT NULL, digest bigint NOT NULL,"
    " form smallint NOT NULL, tag varchar(64), value jsonb NOT NULL"
)
LATE_ROWS = 1_000
Row = tuple[int, int, datetime, int, int, None, str]
Connection = psycopg.Connection[tuple[Any, ...]]


def rows_made(count: int, *, channels: int) -> list[Row]:
    """`count` records in the order of time, spread over the days. With 1,000 channels each device has its own."""
    rnd = random.Random(7)  # noqa: S311 - measurements, not secrets
    walks = [_Walk(rnd) for _ in range(DEVICES)]
    step = timedelta(days=DAYS) / count
    made: list[Row] = []
    for number in range(count):
        device = number % DEVICES
        at = BEGIN + number * step + timedelta(microseconds=device * 13)
        channel = 1 + device % channels
        made.append((device + 1, channel, at, rnd.getrandbits(63), 0, None, walks[device].value(number)))
    return made


class _Walk:
    """One server's measurements."""

    def __init__(self, rnd: random.Random) -> None:
        self._rnd = rnd
        self._user, self._system, self._load = rnd.uniform(0, 60), rnd.uniform(0, 20), rnd.uniform(0, 8)
        self._used = rnd.randrange(10**9, 10**10)
        self._received, self._sent, self._disk = (
            rnd.randrange(10**9),
            rnd.randrange(10**9),
            rnd.uniform(10, 90),
        )

    def value(self, number: int) -> str:
        rnd = self._rnd
        self._user = min(95.0, max(0.0, self._user + rnd.gauss(0, 3)))
        self._system = min(5.0, max(0.0, self._system + rnd.gauss(0, 1)))
        self._load = max(0.0, self._load + rnd.gauss(0, 0.1))
        self._used = max(10**8, self._used + rnd.randrange(-(10**6), 10**6))
        self._received += rnd.randrange(10**5)
        self._sent += rnd.randrange(10**5)
        self._disk += 0.0005
        idle = 100 - self._user - self._system
        return (
            f'{{"cpu":{{"user":{self._user:.2f},"system":{self._system:.2f},"idle":{idle:.2f}}},'
            f'"load1":{self._load:.2f},"load5":{self._load * 0.9:.2f},'
            f'"mem":{{"used":{self._used},"free":{16 * 10**9 - self._used}}},'
            f'"net":{{"rx":{self._received},"tx":{self._sent}}},"disk":{self._disk:.1f},"n":{number // DEVICES}}}'
        )


@contextmanager
def database(url: str | None) -> Iterator[Connection]:
    """A connection to an empty database, on that server or on one of our own."""
    name = f"servwatch_bench_{int(time.time())}"
    with ExitStack() as stack:
        if url is None:
            url = stack.enter_context(TemporaryPostgres(settings=DURABLE)).url
        admin = stack.enter_context(psycopg.connect(url, autocommit=True))
        admin.execute(f"CREATE DATABASE {name}")
        stack.callback(admin.execute, f"DROP DATABASE {name} WITH (FORCE)")
        with psycopg.connect(url, dbname=name, autocommit=True) as own:
            own.execute("SET TIME ZONE 'UTC'")
            yield own


def table_make(own: Connection, *, hypertable: bool) -> None:
    own.execute(f"DROP TABLE IF EXISTS {SERIES.table}, incoming")
    tail = "" if hypertable else " PARTITION BY RANGE (at)"
    own.execute(f"CREATE TABLE {SERIES.table} ({DEFINITIONS}, PRIMARY KEY ({', '.join(SERIES.key)})){tail}")
    if hypertable:
        for statement in (
            *hypertable_statements(SERIES.table, piece_days=1),
            *bucket_statements(SERIES.table, SERIES.key),
        ):
            own.execute(statement)
    for name, columns in SERIES.indexes.items():
        own.execute(f"CREATE INDEX {name} ON {SERIES.table} ({', '.join(columns)})")
    if not hypertable:
        days = [BEGIN.date() + timedelta(days=number) for number in range(DAYS + 1)]
        with own.transaction(), own.cursor() as cursor:
            partitions_create(cursor, days, table=SERIES.table)
    own.execute(f"CREATE TEMPORARY TABLE incoming ({DEFINITIONS}) ON COMMIT DELETE ROWS")


def write(own: Connection, data: Sequence[Row], *, batch: int, careful: bool) -> float:
    """Records a second."""
    target = "incoming" if careful else SERIES.table
    began = time.perf_counter()
    for start in range(0, len(data), batch):
        with own.transaction(), own.cursor() as cursor:
            with cursor.copy(f"COPY {target} ({COLUMNS}) FROM STDIN") as copy:
                for row in data[start : start + batch]:
                    copy.write_row(row)
            if careful:
                cursor.execute(
                    f"INSERT INTO {SERIES.table} ({COLUMNS}) SELECT {COLUMNS} FROM incoming ON CONFLICT DO NOTHING"
                )
    return len(data) / (time.perf_counter() - began)


def writing(own: Connection, data: Sequence[Row], *, kinds: Sequence[str], repeat: int) -> None:
    """Each way on a fresh table, in turns; medians."""
    ways = {
        "R": (len(data), False),
        "direct 1,000": (1_000, False),
        "careful 1,000": (1_000, True),
        "direct 5,000": (5_000, False),
        "careful 5,000": (5_000, True),
    }
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeat):
        for kind in kinds:
            for name, (batch, careful) in ways.items():
                table_make(own, hypertable=kind == "hypertable")
                found.setdefault((kind, name), []).append(write(own, data, batch=batch, careful=careful))
    for kind in kinds:
        reference = statistics.median(found[kind, "R"])
        print(f"write, {kind}: R {reference:,.0f}/s", flush=True)
        for name in list(ways)[1:]:
            rates = found[kind, name]
            rate = statistics.median(rates)
            spread = f"{min(rates) / reference:.2f}-{max(rates) / reference:.2f}"
            print(f"  {name:14s} {rate:9,.0f}/s  {rate / reference:.2f} R ({spread})", flush=True)


def columnstore(own: Connection, data: Sequence[Row], *, devices: int) -> None:
    table_make(own, hypertable=True)
    write(own, data, batch=5_000, careful=False)
    own.execute(f"VACUUM ANALYZE {SERIES.table}")
    reads = _reads(own)
    with own.cursor() as cursor:
        before = sum(size for size, _ in chunk_sizes(cursor, SERIES.table).values())
        columnstore_ensure(cursor, SERIES, after=timedelta(days=3650))  # its policy finds nothing to do
        began = time.perf_counter()
        list(chunks_compress(cursor, SERIES.table, before=BEGIN + timedelta(days=DAYS + 1)))
        took_s = time.perf_counter() - began
        after = sum(size for size, _ in chunk_sizes(cursor, SERIES.table).values())
    own.execute(f"VACUUM ANALYZE {SERIES.table}")
    print(f"columnstore, {devices} devices in a channel, {len(data):,} records:")
    print(
        f"  {before / len(data):.0f} bytes a record as rows, {after / len(data):.1f} compressed: "
        f"{before / after:.1f} times smaller; {len(data) / took_s:,.0f} records compressed a second"
    )
    for name, ms in _reads(own).items():
        print(f"  {name}: {ms:.1f} ms, as rows {reads[name]:.1f} ms, ratio {ms / reads[name]:.1f}")
    late = data[:LATE_ROWS]
    new = [(*row[:2], row[2] + timedelta(milliseconds=3), row[3] ^ 1, *row[4:]) for row in late]
    again = write(own, late, batch=LATE_ROWS, careful=True)
    print(f"  late batch of {LATE_ROWS:,}, all duplicates: {1000 * LATE_ROWS / again:.0f} ms")
    fresh = write(own, new, batch=LATE_ROWS, careful=True)
    print(f"  late batch of {LATE_ROWS:,}, all new: {1000 * LATE_ROWS / fresh:.0f} ms", flush=True)


def _reads(own: Connection) -> dict[str, float]:
    """Medians in milliseconds, from the middle of the first day."""
    low, high = BEGIN + timedelta(hours=12), BEGIN + timedelta(days=1)
    own.execute("SET plan_cache_mode = force_custom_plan")
    channel = f"FROM {SERIES.table} WHERE channel_key = 1 AND at >= %(low)s AND at < %(high)s"
    device = f"FROM {SERIES.table} WHERE device_key = 1 AND at >= %(begin)s AND at < %(high)s"
    values = {"begin": BEGIN, "low": low, "high": high}

    def page_of_channel() -> None:
        row = own.execute(f"SELECT at {channel} ORDER BY at OFFSET 1000 LIMIT 1", values).fetchone()
        until = {**values, "high": row[0] + timedelta(microseconds=1) if row else high}
        own.execute(f"SELECT at, value::text {channel} ORDER BY at, device_key, digest LIMIT 1000", until)

    def page_of_device() -> None:
        own.execute(f"SELECT at, value::text {device} ORDER BY at DESC LIMIT 1000", values)

    return {
        "page of a channel": _median_ms(page_of_channel),
        "page of a device": _median_ms(page_of_device),
    }


def _median_ms(call: Any) -> float:
    taken = []
    for number in range(8):
        began = time.perf_counter()
        call()
        if number:
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def dropping(own: Connection, data: Sequence[Row], *, kind: str) -> None:
    table_make(own, hypertable=kind == "hypertable")
    write(own, data, batch=5_000, careful=False)
    began = time.perf_counter()
    if kind == "hypertable":
        with own.cursor() as cursor:
            first = chunks(cursor, SERIES.table)[0]
        own.execute("SELECT drop_chunks(%s, older_than => %s)", [SERIES.table, first.high])
    else:
        name = partition_name(SERIES.table, date(BEGIN.year, BEGIN.month, BEGIN.day))
        own.execute(f"ALTER TABLE {SERIES.table} DETACH PARTITION {name} CONCURRENTLY")
        own.execute(f"DROP TABLE {name}")
    print(f"drop of the oldest day, {kind}: {(time.perf_counter() - began) * 1000:.0f} ms", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database-url", help="a server with the right to create databases")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=3, help="of the write rates")
    arguments = parser.parse_args()
    with database(arguments.database_url) as own:
        engine = _prepare(own)
        kinds = ["partitions", *(["hypertable"] if engine.created else [])]
        data = rows_made(arguments.rows, channels=1)
        writing(own, data, kinds=kinds, repeat=arguments.repeat)
        if engine.columnstore:
            columnstore(own, data, devices=DEVICES)
            columnstore(own, rows_made(arguments.rows, channels=DEVICES), devices=1)
        else:
            print("columnstore: this server has none; it needs TimescaleDB under its full licence")
        for kind in kinds:
            dropping(own, data, kind=kind)
    return 0


def _prepare(own: Connection) -> Engine:
    with own.cursor() as cursor:
        if engine_detect(cursor).usable:
            own.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        engine = engine_detect(cursor)
    print(f"TimescaleDB {engine.created or 'absent'}, licence {engine.license or 'none'}", flush=True)
    return engine


if __name__ == "__main__":
    sys.exit(main())
