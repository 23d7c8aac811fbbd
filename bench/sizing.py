"""What to buy: cores, memory and disk for so many devices, from constants that the other commands here measured.

    .venv/bin/python -m bench.sizing --devices 10000 --interval 10 --days 90

The constants are of the machine of docs/performance.md; `--speed 2` reckons with one twice as fast for each core. A
plan keeps half of the processors free, for bursts, reads, roll-ups of late data and what a neighbour takes.
"""

import argparse
import math
import sys
from dataclasses import dataclass

HEADROOM = 2.0
DAY_S = 86_400


@dataclass(frozen=True)
class Constants:
    """Microseconds of a core a message, and bytes, of messages of 11 numbers and 200 bytes (docs/performance.md)."""

    broker_us: float = 30.0
    listener_us: float = 40.0
    database_us: float = 18.0
    database_us_lone: float = (
        35.0  # reckoned from its parts; where each message of a batch is of another device
    )
    rollup_us: float = 19.0
    record_bytes: float = 490.0
    columnstore_bytes: float = 85.0
    rollup_minute_bytes: float = 670.0  # a device and minute
    rollup_hour_bytes: float = 670.0
    latest_bytes: float = 700.0
    queued_bytes: float = 480.0  # of the broker's memory, a message that waits
    device_memory_bytes: float = 1_600.0  # of each listener
    base_memory_mb: float = 400.0


@dataclass(frozen=True)
class Plan:
    """What a fleet needs. Cores are whole processors at the constants' speed, headroom included."""

    messages_per_s: float
    cores: dict[str, float]
    listeners: int
    memory_gb: float
    disk_gb: float
    disk_columnstore_gb: float
    queue_gb_an_hour: float


def plan(
    *, devices: int, interval_s: float, days: int, speed: float = 1.0, constants: Constants | None = None
) -> Plan:
    """`devices` that send one message each `interval_s`, kept for `days`."""
    c = constants or Constants()
    rate = devices / interval_s
    batch_share = min(1.0, devices / 5_000)  # how much of a full batch is of devices met once in it
    database_us = c.database_us + (c.database_us_lone - c.database_us) * batch_share
    parts = {
        "broker": c.broker_us,
        "listener": c.listener_us,
        "database": database_us + c.rollup_us,
    }
    cores = {name: HEADROOM * rate * us / 1e6 / speed for name, us in parts.items()}
    records = rate * DAY_S * days
    minutes = devices * DAY_S / 60 * days * min(1.0, 60 / interval_s)
    hours = devices * 24 * days
    rolled = minutes * c.rollup_minute_bytes + hours * c.rollup_hour_bytes
    listeners = max(1, math.ceil(cores["listener"]))
    memory = (
        c.base_memory_mb * 1e6
        + listeners * devices * c.device_memory_bytes
        + max(1e9, devices * c.latest_bytes * 4)  # the database's buffers: latest values and today's indexes
        + rate * 3_600 * c.queued_bytes
    )
    return Plan(
        messages_per_s=rate,
        cores=cores,
        listeners=listeners,
        memory_gb=memory / 1e9,
        disk_gb=(records * c.record_bytes + rolled) / 1e9,
        disk_columnstore_gb=(records * c.columnstore_bytes + rolled) / 1e9,
        queue_gb_an_hour=rate * 3_600 * c.queued_bytes / 1e9,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, action="append", help="repeatable; default 1,000 to 1,000,000")
    parser.add_argument(
        "--interval", type=float, default=10.0, help="seconds between two messages of a device"
    )
    parser.add_argument("--days", type=int, default=90, help="how long records are kept")
    parser.add_argument("--speed", type=float, default=1.0, help="of a core, beside the machine measured on")
    arguments = parser.parse_args()
    print(
        "| devices | messages/s | cores: broker | listener | database | listeners | memory GB, an hour of queue in it |"
        " disk GB | with columnstore |"
    )
    print("| --- " * 9 + "|")
    for devices in arguments.devices or (1_000, 10_000, 100_000, 1_000_000):
        found = plan(
            devices=devices, interval_s=arguments.interval, days=arguments.days, speed=arguments.speed
        )
        cores = " | ".join(f"{cores:.1f}" for cores in found.cores.values())
        print(
            f"| {devices:,} | {found.messages_per_s:,.0f} | {cores} | {found.listeners} | {found.memory_gb:.1f} |"
            f" {found.disk_gb:,.0f} | {found.disk_columnstore_gb:,.0f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
