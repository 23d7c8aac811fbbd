"""Servwatch's writer alone: parsed and routed records into PostgreSQL, with one commit a batch.

    python -m bench.peers.writer_core --token TOKEN --records-a-batch 1000 --seconds 4

A program of its own, in the environment of a bench.site.Site with its devices: only so Django can be set up for it.
Prints "ready", waits for a line, and prints how many records it wrote, in how many seconds, with how many of CPU.
"""

import argparse
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import django
import psycopg

from bench.peers import data

if TYPE_CHECKING:
    from streams.writer import Batch

MOST_BATCHED = 250_000
MOST_SINGLE = 20_000


def batches_of(*, token: str, size: int, first: int) -> "list[Batch]":
    """What the write street makes of reports, caught where it would be written. Each batch has every device's turn."""
    from streams.pipeline import Street
    from streams.plan import Incoming
    from streams.writer import Batch, Writer

    caught: list[Batch] = []

    class Catcher(Writer):
        def write(
            self, cursor: psycopg.Cursor[tuple[Any, ...]], batch: Batch, *, careful: bool = True
        ) -> bool:
            caught.append(batch)
            return False

    writer = Catcher(name="bench-catcher")
    street = Street(writer)
    begin = datetime.now(UTC)
    count = MOST_SINGLE if size == 1 else MOST_BATCHED
    for start in range(0, count, size):
        street.process(
            [
                Incoming(
                    f"{token}/json/{data.device_id(n)}",
                    data.json_report(first + n),
                    begin + timedelta(microseconds=first + n),
                )
                for n in range(start, start + size)
            ]
        )
    writer.close()
    return caught


def write(batches: "list[Batch]", *, name: str, seconds: float) -> tuple[int, float, float]:
    """Records, seconds, and seconds of CPU: latest values and counters as always; nothing is there already."""
    from streams.writer import Writer

    writer = Writer(name=name)
    done = 0
    began, cpu_s = time.perf_counter(), time.process_time()
    for batch in batches:
        writer.days_ensure(batch.rows)
        with writer.transaction() as cursor:
            writer.write(cursor, batch, careful=False)
        done += len(batch.rows)
        if time.perf_counter() - began > seconds:
            break
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    writer.close()
    return done, took_s, cpu_s


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--token", required=True, help="the account's device token")
    parser.add_argument("--records-a-batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first report")
    arguments = parser.parse_args()
    django.setup()
    batches = batches_of(token=arguments.token, size=arguments.records_a_batch, first=arguments.first)
    print("ready", flush=True)
    sys.stdin.readline()
    print(*write(batches, name=f"bench-{arguments.first}", seconds=arguments.seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
