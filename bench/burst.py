"""A burst: as fast as the broker acknowledges, for a minute; where does the backlog lie, and is everything stored?

    .venv/bin/python -m bench.burst --seconds 60
    .venv/bin/python -m bench.burst --seconds 20 --kill 2       # kill -9 of the listener two seconds after it
    .venv/bin/python -m bench.burst --seconds 20 --queue-mb 32      # what happens at the bound of the broker's queue

Publishers send as fast as PUBACKs come. Every second: the memory (PSS) of each part, the backlog (acknowledged and not
committed) as it is and as `/metrics` tells it, and the age of the oldest message in it, measured and told. Then the
time until all is caught up, and whether every acknowledged message is stored exactly once. Database, broker, listener,
web, worker and generator share the machine.

With `--queue-mb` the bound may be met: then the broker drops what it has acknowledged, and the verdict is whether the
product said so.
"""

import argparse
import sys
import threading
import time
import urllib.request
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from bench.publisher import Publisher
from bench.stack import Stack, free_port, wait_until_dealt, wait_until_listening
from bench.steady import PAYLOAD, Load, cost_of, groups

CONNECTIONS = 50
CATCH_UP_S = 1_800.0
PARTS = ("listener", "broker", "postgres", "web", "worker")
GROWTH_MB = 150.0  # of the listener, between a small backlog and the largest


@dataclass
class Second:
    """What was so at one moment: `told_*` by the product, None where it said nothing."""

    at_s: float
    acknowledged: int
    committed: int
    lag_s: float
    told_messages: float | None
    told_lag_s: float | None
    queued: float | None
    dropped: float | None
    memory_mb: dict[str, float]

    @property
    def backlog(self) -> int:
        return self.acknowledged - self.committed

    def __str__(self) -> str:
        memory = " ".join(f"{self.memory_mb[name]:8.0f}" for name in PARTS)
        told = f"{_number(self.told_messages):>9s} {_number(self.told_lag_s):>7s} {_number(self.queued):>7s}"
        return f"{self.at_s:5.0f} {self.acknowledged:9d} {self.backlog:9d} {self.lag_s:7.1f} {told} {memory}"


HEAD = (
    f"{'s':>5s} {'acked':>9s} {'backlog':>9s} {'lag s':>7s} {'told':>9s} {'told s':>7s} {'queued':>7s} "
    + " ".join(f"{name:>8s}" for name in PARTS)
)


@dataclass
class Watch:
    """Looks once a second, in a thread of its own, until it is ended."""

    stack: Stack
    load: Load
    publisher: Publisher
    metrics_url: str
    processes: dict[str, list[psutil.Process]]
    begun: int
    seconds: list[Second] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._history: list[tuple[int, float]] = []  # acknowledged so far, and when
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            self.seconds.append(self._look())
            print(self.seconds[-1], flush=True)

    def _look(self) -> Second:
        now = time.monotonic() - self._began
        acknowledged = len(self.publisher.log.acknowledged)
        committed = self.load.received() - self.begun
        self._history.append((acknowledged, now))
        told = _metrics(self.metrics_url)
        return Second(
            at_s=now,
            acknowledged=acknowledged,
            committed=committed,
            lag_s=self._age(committed, now) if committed < acknowledged else 0.0,
            told_messages=told.get("servwatch_lag_messages"),
            told_lag_s=told.get("servwatch_lag_seconds"),
            queued=told.get("servwatch_slot_queue_messages"),
            dropped=told.get("servwatch_broker_dropped_total"),
            memory_mb={name: cost_of(self.processes[name]).memory_mb for name in PARTS},
        )

    def _age(self, committed: int, now: float) -> float:
        """How long ago so many were acknowledged; between two looks in proportion."""
        place = bisect_left(self._history, (committed, 0.0))
        if place == 0:
            return now
        (before, at_before), (after, at_after) = self._history[place - 1 : place + 1]
        return now - (at_before + (at_after - at_before) * (committed - before) / max(1, after - before))


@dataclass(frozen=True)
class Outcome:
    acknowledged: int
    stored: int
    lost: int
    doubled: int
    caught_up_s: float
    seconds: Sequence[Second]

    @property
    def growth_mb(self) -> float:
        """By how much the listener grew while the backlog grew from a tenth of the largest to it."""
        most = max((second.backlog for second in self.seconds), default=0)
        early = [second.memory_mb["listener"] for second in self.seconds if second.backlog >= most / 10][:3]
        return max((second.memory_mb["listener"] for second in self.seconds), default=0.0) - max(
            early, default=0.0
        )

    @property
    def lag_error_s(self) -> float:
        """The ninth tenth of how far the told age was from the measured one."""
        errors = sorted(abs(s.lag_s - s.told_lag_s) for s in self.seconds if s.told_lag_s is not None)
        return errors[int(0.9 * len(errors))] if errors else float("nan")

    @property
    def dropped(self) -> float:
        return max((second.dropped or 0.0 for second in self.seconds), default=0.0)

    def problems(self) -> list[str]:
        found = []
        if self.lost:
            found.append(
                f"{self.lost} ACKNOWLEDGED MESSAGES ARE NOT STORED (the product tells of {self.dropped:.0f})"
            )
        if self.doubled:
            found.append(f"{self.doubled} ARE STORED TWICE")
        if self.growth_mb > GROWTH_MB:
            found.append(f"THE LISTENER GREW BY {self.growth_mb:.0f} MB WITH THE BACKLOG")
        return found


def run(
    *, seconds: float, devices: int, listeners: int, queue_mb: int, most: int, kill_s: float | None
) -> Outcome:
    queue_bytes = queue_mb * 1_000_000 or None
    with Stack(mqtt_port=free_port(), slots=listeners, queue_bytes=queue_bytes) as stack:
        wait_until_listening(stack)
        port = free_port()
        uvicorn = ("-m", "uvicorn", "servwatch_site.asgi:application", "--port", str(port), "--no-access-log")
        others = {
            "web": stack.spawn("web", *uvicorn),
            "worker": stack.spawn("worker", "manage.py", "worker"),
        }
        more = [stack.spawn(f"listener-{n}", "manage.py", "mqtt_listener") for n in range(1, listeners)]
        wait_until_dealt(stack)
        load = Load(stack, devices=devices)
        token = stack.account["device_token"]

        def message(number: int) -> tuple[str, bytes]:
            return f"{token}/json/load-{number % devices}", PAYLOAD % (number, 0)

        publisher = Publisher(
            port=stack.mqtt_port,
            user=stack.account["user_id"],
            password=token,
            connections=CONNECTIONS,
            message=message,
        )
        processes = groups(stack, others, [p for p in (stack.listener, *more) if p is not None])
        url = f"http://127.0.0.1:{port}/metrics"
        while not _metrics(url):
            time.sleep(0.2)
        print(f"the broker keeps {stack.queue_bytes / 1e6:.0f} MB of payloads for a session\n{HEAD}")
        watch = Watch(stack, load, publisher, url, processes, begun=load.received())
        took_s = publisher.run(rate=1e6, count=most, at_most_s=seconds)
        acknowledged = len(publisher.log.acknowledged)
        print(f"{acknowledged} acknowledged in {took_s:.1f} s = {acknowledged / took_s:.0f} a second")
        if kill_s is not None and stack.listener is not None:
            time.sleep(kill_s)
            stack.listener_kill()
            stack.listener_start()
            processes["listener"] = [psutil.Process(stack.listener.pid)]
            print("the listener was killed and begins again")
        caught_up_s = _catch_up(load, watch.begun + acknowledged)
        watch.end()
        publisher.close()
        outcome = _count(stack, publisher, caught_up_s, watch.seconds)
        load.close()
        return outcome


def _catch_up(load: Load, received: int) -> float:
    """Seconds until as many are committed as were acknowledged.

    It goes on until nothing more comes for a while: what is sent again counts as well, and must not hide what is
    still on its way.
    """
    began = moved = time.monotonic()
    known, caught_up_s = load.received(), None
    while time.monotonic() - began < CATCH_UP_S and time.monotonic() - moved < (
        15 if known < received else 5
    ):
        time.sleep(0.1)
        now = load.received()
        if now != known:
            known, moved = now, time.monotonic()
        if caught_up_s is None and known >= received:
            caught_up_s = moved - began
    return moved - began if caught_up_s is None else caught_up_s


def _count(stack: Stack, publisher: Publisher, caught_up_s: float, seconds: Sequence[Second]) -> Outcome:
    rows = stack.query(
        "SELECT (value->>'n')::bigint, count(*) FROM streams_record WHERE value ? 'n' GROUP BY 1"
    )
    stored = {int(number): int(times) for number, times in rows}
    return Outcome(
        acknowledged=len(publisher.log.acknowledged),
        stored=sum(stored.values()),
        lost=len(publisher.log.acknowledged - stored.keys()),
        doubled=sum(stored.values()) - len(stored),
        caught_up_s=caught_up_s,
        seconds=seconds,
    )


def _metrics(url: str) -> dict[str, float]:
    """The largest value of each name; empty while the web process does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own loopback address
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    found: dict[str, float] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = max(found.get(name, float("-inf")), float(value))
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1_000 else f"{value:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--listeners", type=int, default=1)
    parser.add_argument("--queue-mb", type=int, default=0, help="the bound; by default as the memory allows")
    parser.add_argument("--kill", type=float, help="kill the listener so many seconds after the burst")
    parser.add_argument("--most", type=int, default=10_000_000, help="messages at most")
    arguments = parser.parse_args()
    outcome = run(
        seconds=arguments.seconds,
        devices=arguments.devices,
        listeners=arguments.listeners,
        queue_mb=arguments.queue_mb,
        most=arguments.most,
        kill_s=arguments.kill,
    )
    print(
        f"acknowledged {outcome.acknowledged}  stored {outcome.stored}  lost {outcome.lost}  "
        f"doubled {outcome.doubled}  caught up {outcome.caught_up_s:.1f} s after the burst\n"
        f"largest backlog {max((s.backlog for s in outcome.seconds), default=0)}; the listener grew by "
        f"{outcome.growth_mb:.0f} MB with it; nine tenths of the ages told within {outcome.lag_error_s:.1f} s"
    )
    problems = outcome.problems()
    print("\n".join(problems) or "bounded, caught up, nothing lost, nothing doubled")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
