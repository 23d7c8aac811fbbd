"""A steady minute: does the backlog grow, and what does each process cost?

    .venv/bin/python -m bench.steady --rate 2000 --seconds 60 --devices 1000

Prints the backlog (acknowledged by the broker, not yet committed) every ten seconds, and at the end the cores and the
memory of each process. 11 numbers a message, about 200 bytes; database, broker, listener and generator share the
machine.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

from bench.ledger import free_port, wait_until_listening
from bench.publisher import Publisher
from bench.stack import Stack

PAYLOAD = (
    b'{"cpu":{"user":12.5,"system":3.25,"idle":84.25},"load1":0.41,"load5":0.37,"mem":{"used":8123456512,'
    b'"free":16123456512},"net":{"rx":1234567,"tx":765432},"disk":41.5,"n":%d}'
)


@dataclass
class Cost:
    """CPU seconds and memory of a group of processes."""

    cpu_s: float
    memory_mb: float


def cost_of(processes: Iterable[psutil.Process]) -> Cost:
    cpu_s = memory = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
            cpu_s += times.user + times.system + times.children_user + times.children_system
            memory += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return Cost(cpu_s, memory / 1e6)


def groups(stack: Stack, others: Mapping[str, "subprocess.Popen[bytes]"]) -> dict[str, list[psutil.Process]]:
    found = {"generator": [psutil.Process()], **{name: [psutil.Process(p.pid)] for name, p in others.items()}}
    if stack.broker is not None:
        found["broker"] = [psutil.Process(stack.broker.pid)]
    if stack.listener is not None:
        found["listener"] = [psutil.Process(stack.listener.pid)]
    if stack.postgres is not None:
        server = psutil.Process(stack.postgres.pid)
        found["postgres"] = [server, *server.children(recursive=True)]
    return found


def run(*, rate: int, seconds: int, devices: int) -> bool:
    """Load a fresh stack; true when the backlog at the end is no larger than a second's messages."""
    with Stack(mqtt_port=free_port()) as stack:
        token = stack.account["device_token"]
        wait_until_listening(stack)
        web = (
            "-m",
            "uvicorn",
            "servwatch_site.asgi:application",
            "--port",
            str(free_port()),
            "--no-access-log",
        )
        others = {"web": stack.spawn("web", *web), "worker": stack.spawn("worker", "manage.py", "worker")}
        backlogs: list[int] = []

        def message(number: int) -> tuple[str, bytes]:
            return f"{token}/json/load-{number % devices}", PAYLOAD % number

        def committed() -> int:
            ((count,),) = stack.query("SELECT coalesce(sum(received), 0)::bigint FROM tokens_accounttraffic")
            return int(count) - probes

        def each_second(elapsed_s: float) -> None:
            backlogs.append(len(publisher.log.acknowledged) - committed())
            if len(backlogs) % 10 == 0:
                print(
                    f"{elapsed_s:5.0f} s  acknowledged {len(publisher.log.acknowledged)}  backlog {backlogs[-1]}"
                )

        probes = 0
        probes = committed()
        publisher = Publisher(
            port=stack.mqtt_port,
            user=stack.account["user_id"],
            password=token,
            connections=20,
            message=message,
        )
        before = {name: cost_of(processes) for name, processes in groups(stack, others).items()}
        took_s = publisher.run(rate=rate, count=rate * seconds, each_second=each_second)
        after = {name: cost_of(processes) for name, processes in groups(stack, others).items()}
        caught_up_s = _catch_up(lambda: len(publisher.log.acknowledged) - committed())
        publisher.close()
        total = len(publisher.log.acknowledged)
        print(
            f"{total} messages in {took_s:.1f} s = {total / took_s:.0f} a second; caught up after {caught_up_s:.2f} s"
        )
        for name, cost in after.items():
            cores = (cost.cpu_s - before[name].cpu_s) / took_s
            each_us = 1e6 * cores * took_s / total
            print(f"{name:10s} {cores:5.2f} cores  {each_us:6.1f} us a message  {cost.memory_mb:6.0f} MB")
        return max(backlogs[-5:], default=0) <= rate


def _catch_up(backlog: Callable[[], int]) -> float:
    began = time.monotonic()
    while backlog() > 0 and time.monotonic() - began < 120:
        time.sleep(0.05)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--devices", type=int, default=1000)
    arguments = parser.parse_args()
    kept_up = run(rate=arguments.rate, seconds=arguments.seconds, devices=arguments.devices)
    print("the backlog did not grow" if kept_up else "THE BACKLOG GREW")
    return 0 if kept_up else 1


if __name__ == "__main__":
    sys.exit(main())
