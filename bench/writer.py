"""The writer's core beside COPY of prepared rows into the same keyed table (R).

    .venv/bin/python -m bench.writer --records 200000 --repeat 3

Batches of 1,000 and 5,000 planned records go through Writer.write, each in a transaction of its own: records, latest
values, counters, the delivery log. Once straight, as it is when nothing is there already, and once carefully, as it is
after a duplicate was met. R is one COPY of as many rows as text into the same table. Days and streams are known.
"""

import argparse
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.history import COLUMNS, DEVICES, VALUE, devices_create, lines
from bench.site import Site

BATCHES = (1_000, 5_000)


def run(*, records: int, repeat: int, database_url: str) -> None:
    with Site(database_url=database_url) as site:
        first = devices_create(site)
        site.django()
        from servwatch_site.loop import collect_less
        from streams.upkeep import days_maintain

        collect_less()
        days_maintain(now=datetime.now(UTC))
        for number in range(repeat):
            reference = _copy_rate(site, first, records)
            for batch in BATCHES:
                rates = [
                    _writer_rate(
                        site, first, records, batch=batch, careful=careful, run=4 * number + 2 * place
                    )
                    for place, careful in enumerate((False, True))
                ]
                print(
                    f"batch {batch}: straight {rates[0]:.0f}/s, ratio {rates[0] / reference:.2f}; "
                    f"carefully {rates[1]:.0f}/s, ratio {rates[1] / reference:.2f}  (R {reference:.0f}/s)",
                    flush=True,
                )


def _writer_rate(site: Site, first: int, records: int, *, batch: int, careful: bool, run: int) -> float:
    from streams.structures import BARE_NUMBER
    from streams.writer import Batch, Row, Writer

    writer = Writer(name="bench", slot=0)
    account, channel = site.account["key"], site.account["channel_key"]
    begin = datetime.now(UTC) - timedelta(minutes=30) + timedelta(seconds=run)

    def planned(start: int) -> Batch:
        made = Batch()
        for number in range(start, start + batch):
            key, at = first + number % DEVICES, begin + timedelta(microseconds=number)
            digest = (number + run) * 2654435761 % 2**62
            made.rows.append(Row(key, channel, at, digest, 0, None, 1, VALUE % number))
            made.deliveries.append((number % 65_535 + 1, digest))
            tally = made.ledger.tally(account, key)
            tally.receive(1, at=at)
            tally.attempted += 1
        made.streams[channel] = {BARE_NUMBER}
        return made

    batches = [planned(start) for start in range(0, records, batch)]
    writer.days_ensure(batches[0].rows)
    began = time.perf_counter()
    for made in batches:
        with writer.transaction() as cursor:
            writer.write(cursor, made, careful=careful)
    took_s = time.perf_counter() - began
    writer.close()
    _empty(site)
    return records / took_s


def _copy_rate(site: Site, first: int, records: int) -> float:
    begin = datetime.now(UTC) - timedelta(hours=1)
    texts = list(
        lines(first_device=first, channel_key=site.account["channel_key"], begin=begin, count=records)
    )
    with site.connect() as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        with cursor.copy(f"COPY streams_record {COLUMNS} FROM STDIN") as copy:
            for text in texts:
                copy.write(text)
        took_s = time.perf_counter() - began
    _empty(site)
    return records / took_s


def _empty(site: Site) -> Any:
    with site.connect() as connection:
        connection.execute("TRUNCATE streams_record")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--database-url", default="", help="an empty database to use; default: one of its own"
    )
    arguments = parser.parse_args()
    run(**vars(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
