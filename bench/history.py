"""Records that have been there for a while: 1,000 devices of one channel, 11 numbers and about 200 bytes each."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.site import Site

DEVICES = 1_000
STEP = timedelta(milliseconds=10)  # between two records of the channel: 1,000 devices, each every 10 s
ROWS_A_WRITE = 5_000
COLUMNS = "(device_key, channel_key, at, digest, form, tag, value)"
VALUE = (
    '{"cpu":{"user":12.5,"system":3.25,"idle":84.25},"load1":0.41,"load5":0.37,"mem":{"used":8123456512,'
    '"free":16123456512},"net":{"rx":1234567,"tx":765432},"disk":41.5,"n":%d}'
)

DAYS_AT_ONCE = 2
_FILL_SQL = f"""
INSERT INTO streams_record {COLUMNS}
SELECT %(device)s + n %% %(devices)s, %(channel)s, %(begin)s::timestamptz + n * %(step)s::interval,
       n * 2654435761 %% 4611686018427387904, 0, NULL, format(%(value)s, n)::jsonb
FROM generate_series(%(first)s::bigint, %(end)s::bigint - 1) AS n
"""


@dataclass(frozen=True)
class Senders:
    """Devices with keys that follow each other, all of one channel, which send in turns, one each `step`."""

    first: int
    channel_key: int
    count: int = DEVICES
    step: timedelta = STEP


def devices_create(
    site: Site, count: int = DEVICES, *, name: str = "load", channel_key: int | None = None
) -> int:
    """Devices load-0, load-1, ... of channel 0 or another one, enabled and mapped; returns the key of the first."""
    account = site.account
    with site.connect() as connection:
        ((first,),) = connection.execute(
            "WITH made AS (INSERT INTO devices_device (account_id, device_id, description, enabled, pending,"
            " channel_id, device_type, location, manufacturer, replay_when_mapped, created_at, config_version)"
            " SELECT %s, %s || '-' || n, '', true, false, %s, '', '', '', false, now(), 0"
            " FROM generate_series(0, %s) AS n RETURNING id) SELECT min(id) FROM made",
            [account["key"], name, channel_key or account["channel_key"], count - 1],
        ).fetchall()
        connection.execute("ANALYZE devices_device")
    return int(str(first))


def lines(*, first_device: int, channel_key: int, begin: datetime, count: int) -> Iterator[bytes]:
    """COPY's text, some thousand records at a time, in the order of time."""
    form = f"%d\t{channel_key}\t%s\t%d\t0\t\\N\t{VALUE}\n"
    whole = begin.replace(microsecond=0)
    texts: list[str] = []
    a_second = timedelta(seconds=1) // STEP
    step_us = STEP // timedelta(microseconds=1)
    for number in range(count):
        second, rest = divmod(number, a_second)
        if rest == 0:
            clock = f"{whole + timedelta(seconds=second):%Y-%m-%d %H:%M:%S}"
        at = f"{clock}.{rest * step_us:06d}+00"
        digest = number * 2654435761 % 2**62
        texts.append(form % (first_device + number % DEVICES, at, digest, number))
        if len(texts) == ROWS_A_WRITE:
            yield "".join(texts).encode()
            texts = []
    yield "".join(texts).encode()


def history_load(site: Site, *, count: int) -> tuple[datetime, datetime, float]:
    """`count` records that end an hour ago, with their latest rows; returns begin, end, and records a second."""
    site.django()
    first = devices_create(site)
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    rate = records_copy(site, first_device=first, end=end, count=count)
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO channels_latest (device_key, channel_key, tag, shape, at, digest, form, value)"
            " SELECT DISTINCT ON (device_key) device_key, channel_key, '', 1, at, digest, form, value"
            " FROM streams_record WHERE at >= %s ORDER BY device_key, at DESC",
            [end - timedelta(seconds=30)],
        )
        found = connection.execute(
            "SELECT 1 FROM devices_device WHERE id = %s AND device_id = %s",
            [first + DEVICES - 1, f"load-{DEVICES - 1}"],
        ).fetchone()
        if found is None:
            raise RuntimeError("the devices' keys do not follow each other")
        connection.execute("VACUUM ANALYZE channels_latest")
    return (end - count * STEP).replace(microsecond=0), end, rate


def records_copy(site: Site, *, first_device: int, end: datetime, count: int) -> float:
    """`count` records of all devices in turns that end at `end`, by COPY; returns records a second."""
    begin = (end - count * STEP).replace(microsecond=0)
    _days_make(site, begin, end)
    with site.connect() as connection, connection.cursor() as cursor:
        channel_key = site.account["channel_key"]
        began = time.perf_counter()
        with cursor.copy(f"COPY streams_record {COLUMNS} FROM STDIN") as copy:
            for text in lines(first_device=first_device, channel_key=channel_key, begin=begin, count=count):
                copy.write(text)
        took_s = time.perf_counter() - began
        _settle(cursor)
    return count / took_s


def records_fill(site: Site, senders: Sequence[Senders], *, begin: datetime, end: datetime) -> None:
    """Records of all of them from `begin` to `end`, made by the server itself, several days at once.

    In a columnstore each whole day is compressed as soon as it is there.
    """
    compress = _days_make(site, begin, end)

    def fill(low: datetime, high: datetime) -> None:
        with site.connect() as connection:
            for some in senders:
                values = {
                    "device": some.first,
                    "devices": some.count,
                    "channel": some.channel_key,
                    "begin": begin,
                    "step": some.step,
                    "first": -((begin - low) // some.step),
                    "end": -((begin - high) // some.step),
                    "value": VALUE.replace("%d", "%s"),
                }
                connection.execute(_FILL_SQL, values)
            if compress and high == _midnight_after(low):
                connection.execute(
                    "SELECT compress_chunk(c, if_not_compressed => true)"
                    " FROM show_chunks('streams_record', newer_than => %s, older_than => %s) AS c",
                    [high - timedelta(days=1), high],
                )

    edges = [begin]
    while edges[-1] < end:
        edges.append(min(_midnight_after(edges[-1]), end))
    with ThreadPoolExecutor(DAYS_AT_ONCE) as threads:
        list(threads.map(fill, edges, edges[1:]))
    with site.connect() as connection, connection.cursor() as cursor:
        _settle(cursor)


def _days_make(site: Site, begin: datetime, end: datetime) -> bool:
    """Make the days where that is needed; returns whether there is a columnstore, which is then switched on."""
    from streams.hypertable import columnstore_ensure
    from streams.storage import RECORDS, Kind, engine_detect, partitions_create, storage_kind

    with site.connect() as connection, connection.cursor() as cursor:
        if storage_kind(cursor) is Kind.PARTITIONS:
            with connection.transaction():
                days = range((end.date() - begin.date()).days + 1)
                partitions_create(cursor, {begin.date() + timedelta(days=n) for n in days})
        if not engine_detect(cursor).columnstore:
            return False
        columnstore_ensure(cursor, RECORDS, after=timedelta(days=3650))  # its own policy finds nothing to do
        return True


def _midnight_after(at: datetime) -> datetime:
    return (at + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def _settle(cursor: Any) -> None:
    cursor.execute("VACUUM ANALYZE streams_record")
    cursor.execute("CHECKPOINT")
