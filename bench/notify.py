"""From publish to webhook: how soon does a receiver learn of an alert while a load runs beside?

    .venv/bin/python -m bench.notify --rate 1000 --rules 1000 --seconds 60

A load of `--rate` messages a second from 1,000 devices, held against `--rules` rules none of which it meets. Beside
it some devices cross a threshold and come back, `--firings` times a second in all; their rule tells a webhook on
loopback. At the end `--burst` new devices cross it as fast as they can be published, and the webhooks a second are
counted. Measured is the time from just before the publish, at QoS 1, until the receiver has the request that names
it. Database, broker, listener, worker, generator and receiver share the machine; durability is on.
"""

import argparse
import json
import math
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.publisher import Publisher
from bench.rules_of_load import rules_create
from bench.stack import Stack, free_port, run_python, wait_until_listening
from bench.steady import Load, cost_of, groups

CROSSINGS_EACH = 6  # of one device, thrice up and down: what goes on like that is flapping and said once
PATIENCE_S = 30.0
BURST = 1_000_000_000  # what its values begin at, so that they can be told from the others

_RULE = """
import django
django.setup()
from channels.models import Channel
from events.services import rule_create
channel = Channel.objects.get(number=0)
rule_create(channel.account, changes=dict(
    channel=channel, source="watched", operator=">", threshold="0", notify_type="http", post_url="{url}", enabled=True,
))
"""


@dataclass
class Crossing:
    """One message that fires or ends an alert; `number` is its value, negative for an end."""

    number: int
    at_ns: int


class Watched:
    """Devices that cross the threshold in turn, at a fixed rate."""

    def __init__(self, stack: Stack, *, per_second: float, seconds: float) -> None:
        self._stack = stack
        self._devices = max(1, math.ceil(per_second * seconds / CROSSINGS_EACH))
        self._pause_s = 1 / per_second
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.crossings: list[Crossing] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        account = self._stack.account
        token, turn = account["device_token"], 0

        def message(_number: int) -> tuple[str, bytes]:
            return f"{token}/json/watched-{turn % self._devices}", b'{"watched":%d}' % self.crossings[
                -1
            ].number

        publisher = Publisher(
            port=self._stack.mqtt_port,
            user=account["user_id"],
            password=token,
            connections=1,
            message=message,
            name="watched",
        )
        due = time.monotonic()
        while not self._over.is_set():
            above = turn // self._devices % 2 == 0
            self.crossings.append(Crossing(turn + 1 if above else -turn - 1, time.time_ns()))
            publisher.run(rate=1_000, first=turn, count=turn + 1)
            turn += 1
            due += self._pause_s
            self._over.wait(max(0.0, due - time.monotonic()))
        publisher.close()


def received(path: Path) -> dict[int, int]:
    """The number of each crossing -> when its webhook came, the first time."""
    found: dict[int, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        at_ns, _space, body = line.partition(" ")
        payload: dict[str, Any] = json.loads(body)
        found.setdefault(int(payload["current"]), int(at_ns))
    return found


def burst(stack: Stack, notes: Path, count: int) -> None:
    """So many devices cross the threshold at once; prints how many webhooks a second came."""
    account = stack.account
    token = account["device_token"]
    publisher = Publisher(
        port=stack.mqtt_port,
        user=account["user_id"],
        password=token,
        connections=10,
        message=lambda number: (f"{token}/json/burst-{number}", b'{"watched":%d}' % (BURST + number)),
        name="burst",
    )
    began_ns = time.time_ns()
    publisher.run(rate=1e6, count=count)
    deadline = time.monotonic() + 120
    while len(came := _of_burst(notes)) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    publisher.close()
    if len(came) < 2:
        print("NO WEBHOOK OF THE BURST CAME")
        return
    took_s = (came[-1] - came[0]) / 1e9
    print(
        f"burst: {len(came)} of {count} devices told, {len(came) / took_s:.0f} webhooks/s, "
        f"the last {(came[-1] - began_ns) / 1e9:.1f} s after the first publish",
        flush=True,
    )


def _of_burst(notes: Path) -> list[int]:
    """When the webhooks of the burst came, in order."""
    return sorted(at_ns for number, at_ns in received(notes).items() if number >= BURST)


def run(*, rate: float, rules: int, seconds: float, firings: float, devices: int, burst_devices: int) -> bool:
    """Load a fresh stack; true when every crossing was told."""
    with Stack(mqtt_port=free_port()) as stack:
        stack.environment["SERVWATCH_WEBHOOK_ALLOW"] = "127.0.0.0/8"
        port, notes = free_port(), stack.path / "received"
        stack.spawn("receiver", "-m", "bench.receiver", str(port), str(notes))
        wait_until_listening(stack)
        rules_create(stack, rules)
        run_python(stack.environment, "-c", _RULE.format(url=f"http://127.0.0.1:{port}/hook"))
        worker = stack.spawn("worker", "manage.py", "worker")
        _wait_for_worker(stack)
        load = Load(stack, devices=devices)
        publisher = load.publisher()
        publisher.run(rate=2_000, count=devices)  # first contact
        publisher.close()
        watched = Watched(stack, per_second=firings, seconds=seconds)
        parts = groups(stack, {"worker": worker}, [stack.listener] if stack.listener else [])
        before = {name: cost_of(processes) for name, processes in parts.items()}
        watched.start()
        publisher = load.publisher()
        took_s = publisher.run(rate=rate, count=int(rate * seconds))
        watched.stop()
        after = {name: cost_of(processes) for name, processes in parts.items()}
        found = _wait(notes, watched)
        for name, cost in after.items():
            print(
                f"    {name:10s} {(cost.cpu_s - before[name].cpu_s) / took_s:5.2f} cores  {cost.memory_mb:6.0f} MB"
            )
        _print(watched, found, rate=rate, rules=rules, took_s=took_s)
        if burst_devices:
            burst(stack, notes, burst_devices)
        publisher.close()
        load.close()
        return len(found) >= len(watched.crossings)


def _wait_for_worker(stack: Stack) -> None:
    """Until it listens for what is queued."""
    deadline = time.monotonic() + PATIENCE_S
    while not stack.query("SELECT 1 FROM pg_stat_activity WHERE application_name = 'servwatch-outbox'"):
        if time.monotonic() > deadline:
            raise RuntimeError((stack.path / "worker.log").read_text(encoding="utf-8"))
        time.sleep(0.1)


def _wait(notes: Path, watched: Watched) -> dict[int, int]:
    deadline = time.monotonic() + PATIENCE_S
    while len(found := received(notes)) < len(watched.crossings) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _print(watched: Watched, found: dict[int, int], *, rate: float, rules: int, took_s: float) -> None:
    delays_ms = sorted(
        (found[one.number] - one.at_ns) / 1e6 for one in watched.crossings if one.number in found
    )
    if not delays_ms:
        print("NO WEBHOOK CAME")
        return
    p50, p99 = delays_ms[len(delays_ms) // 2], delays_ms[int(len(delays_ms) * 0.99)]
    print(
        f"{rate:.0f} messages/s for {took_s:.0f} s, {rules} rules, {psutil.cpu_count()} cores: "
        f"publish to webhook received p50 {p50:.0f} ms, p99 {p99:.0f} ms, at most {delays_ms[-1]:.0f} ms; "
        f"{len(delays_ms)} of {len(watched.crossings)} crossings told",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--firings", type=float, default=5, help="alerts begun or ended a second")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--burst", dest="burst_devices", type=int, default=0)
    return 0 if run(**vars(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
