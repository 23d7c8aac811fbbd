"""What a back-test of 30 days takes: a rule over past data before it is saved.

    .venv/bin/python -m bench.backtest --repeat 3

One device that sends every 10 s (259,200 records of 11 numbers), with a rule on one and on all of its key paths; and
1,000 devices in one channel, each with a record an hour (720,000: as many rows of hours as if they sent every 10 s).
The values swing daily between 10 and 90 with noise of +-2. Given are medians of milliseconds of backtest() as the API
calls it, with all of its queries, and what it found and looked at.
"""

import argparse
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.history import devices_create
from bench.site import Site

DAYS = 30
KEYS = 11
DEVICES = 1_000
# name, threshold, more
RULES: list[tuple[str, str, dict[str, Any]]] = [
    ("never", "1000", {}),
    ("at each day's peak, for_s", "90", {"for_s": 300, "clear_threshold": "85"}),
    ("at each day's peak, noisy", "90", {}),
    ("half of the time", "50", {"for_s": 300}),
    ("always", "0", {}),
]
_LOAD_SQL = """
INSERT INTO streams_record (device_key, channel_key, at, digest, form, tag, value)
SELECT d, %(channel)s, at, n, 0, NULL, jsonb_build_object('disks', {disks})
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS d
CROSS JOIN generate_series(0, %(count)s) AS n
CROSS JOIN LATERAL (SELECT %(begin)s + n * make_interval(secs => %(step)s) AS at) AS t
CROSS JOIN LATERAL (
    SELECT 50 + 40 * sin(extract(epoch FROM at)::float8 / 13751 + d * {spread}) + 4 * random() - 2 AS v) AS x
"""


def run(*, repeat: int) -> None:
    with Site() as site:
        first = devices_create(site, DEVICES)
        site.django()
        begin, end = _days_make(site)
        channel_key = site.account["channel_key"]
        spare = _channel_of_one(site, first)
        _load(site, spare, first, first, begin=begin, step_s=10, count=DAYS * 8_640, keys=KEYS)
        _load(
            site,
            channel_key,
            first + 1,
            first + DEVICES - 1,
            begin=begin,
            step_s=3_600,
            count=DAYS * 24,
            keys=1,
        )
        _roll(site)
        _measure("1 device, 1 key", site, spare, "disks:d0:pct", end, repeat=repeat)
        _measure(f"1 device, {KEYS} keys", site, spare, "disks:*:pct", end, repeat=repeat)
        _measure(f"{DEVICES - 1} devices, 1 key", site, channel_key, "disks:d0:pct", end, repeat=repeat)
        _measure_silence(site, spare, end, repeat=repeat)


def _measure(title: str, site: Site, channel_key: int, source: str, end: datetime, *, repeat: int) -> None:
    for name, threshold, more in RULES:
        changes = {"source": source, "operator": ">", "threshold": threshold, **more}
        _tell(f"{title}, {name}", _draft(site, channel_key, changes), end, repeat=repeat)


def _measure_silence(site: Site, channel_key: int, end: datetime, *, repeat: int) -> None:
    for absent_s in (60, 600, 14_400):
        draft = _draft(site, channel_key, {"absent_s": absent_s})
        _tell(f"1 device, silent for {absent_s} s", draft, end, repeat=repeat)


def _draft(site: Site, channel_key: int, changes: dict[str, Any]) -> Any:
    from channels.models import Channel
    from events.services import rule_draft
    from tokens.models import Account

    account = Account.objects.get(pk=site.account["key"])
    return rule_draft(account, changes={"channel": Channel.objects.get(pk=channel_key), **changes})


def _tell(title: str, draft: Any, end: datetime, *, repeat: int) -> None:
    from streams.backtest import backtest

    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        found = backtest(draft.account, draft, now=end, days=DAYS)
        taken.append((time.perf_counter() - began) * 1_000)
    exact = sum(one.exact for one in found.firings)
    print(
        f"{title:46s} {statistics.median(taken):7.0f} ms  {found.firing_count:5d} firings, {exact} of"
        f" {len(found.firings)} exact, {found.devices_looked} of {found.devices} devices, {found.resolution}",
        flush=True,
    )


def _days_make(site: Site) -> tuple[datetime, datetime]:
    from streams.storage import Kind, partitions_create, storage_kind

    end = datetime.now(UTC).replace(second=0, microsecond=0)
    begin = end - timedelta(days=DAYS)
    with site.connect() as connection, connection.cursor() as cursor:
        if storage_kind(cursor) is Kind.PARTITIONS:
            partitions_create(cursor, {begin.date() + timedelta(days=n) for n in range(DAYS + 1)})
    return begin, end


def _channel_of_one(site: Site, device_key: int) -> int:
    """A channel that only this device is mapped to."""
    with site.connect() as connection:
        ((key,),) = connection.execute(
            "INSERT INTO channels_channel (account_id, number, name, retention_days, created_at, config_version)"
            " VALUES (%s, 98, '', 90, now(), 0) RETURNING id",
            [site.account["key"]],
        ).fetchall()
        connection.execute("UPDATE devices_device SET channel_id = %s WHERE id = %s", [key, device_key])
    return int(str(key))


def _load(
    site: Site,
    channel_key: int,
    first: int,
    last: int,
    *,
    begin: datetime,
    step_s: int,
    count: int,
    keys: int,
) -> None:
    disks = ", ".join(f"'d{n}', jsonb_build_object('pct', round((v + {n})::numeric, 2))" for n in range(keys))
    values = {
        "channel": channel_key,
        "first": first,
        "last": last,
        "begin": begin,
        "step": step_s,
        "count": count - 1,
    }
    with site.connect() as connection:
        sql = _LOAD_SQL.format(disks=f"jsonb_build_object({disks})", spread=0 if first == last else 0.001)
        connection.execute(sql.encode(), values)
        connection.execute(
            "INSERT INTO channels_stream (channel_id, key, label, unit, type, created_at)"
            " SELECT %s, 'disks:d' || n || ':pct', '', '', 'number', now() FROM generate_series(0, %s) AS n",
            [channel_key, keys - 1],
        )


def _roll(site: Site) -> None:
    from streams.rollups import rollups_make

    began = time.perf_counter()
    while not rollups_make(now=lambda: datetime.now(UTC)):
        pass
    with site.connect() as connection:
        for table in ("streams_record", "streams_rollupminute", "streams_rolluphour"):
            connection.execute(f"VACUUM ANALYZE {table}".encode())
    print(f"loaded, and rolled up in {time.perf_counter() - began:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    run(repeat=parser.parse_args().repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
