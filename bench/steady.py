"""A steady minute: does the backlog grow, what does each process cost, and how soon is a message visible?

    .venv/bin/python -m bench.steady --rate 2000 --seconds 60 --devices 1000
    .venv/bin/python -m bench.steady --find --seconds 60 --rules 100 --bare

Prints the backlog (acknowledged by the broker, not yet committed) every five seconds, and at the end the cores and the
memory of each process. 11 numbers a message, about 200 bytes; database, broker, listener and generator share the
machine, and web and worker run beside.

--find   looks for the highest rate: from a little below what the listener commits out of a full queue downwards, each
         rate for the whole time, until the backlog does not grow.
--bare   takes the reference in the same run: what gmqtt alone takes out of a full queue of the same broker, and
         acknowledges by hand, doing nothing else; beside it what the listeners commit out of such a queue.
--rules  so many rules on the channel (bench/rules_of_load.py); one message in a thousand meets one.
--listeners  so many listener processes, each with a slot.

A probe is published each 50 ms besides, and looked for in the database: the time until a query finds it.
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg

from bench.publisher import Publisher
from bench.rules_of_load import rules_create
from bench.stack import Stack, free_port, wait_until_dealt, wait_until_listening

PAYLOAD = (
    b'{"cpu":{"user":12.5,"system":3.25,"idle":84.25},"load1":0.41,"load5":0.37,"mem":{"used":8123456512,'
    b'"free":16123456512},"net":{"rx":1234567,"tx":765432},"disk":41.5,"n":%d,"alarm":%d}'
)
CONNECTIONS = 50
QUEUED = 100_000
BEGIN = 0.9  # of what is committed out of a full queue, where the search begins
STEP = 0.93  # from one rate that was too high to the next
PROBE_EVERY_S = 0.05
ROLLUP_PATIENCE_S = 150.0  # the job begins once a minute, and leaves the minute alone that is not over


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


def groups(
    stack: Stack,
    others: Mapping[str, "subprocess.Popen[bytes]"],
    listeners: Sequence["subprocess.Popen[bytes]"],
) -> dict[str, list[psutil.Process]]:
    found = {"generator": [psutil.Process()], **{name: [psutil.Process(p.pid)] for name, p in others.items()}}
    found["listener"] = [psutil.Process(process.pid) for process in listeners]
    if stack.broker is not None:
        found["broker"] = [psutil.Process(stack.broker.pid)]
    if stack.postgres is not None:
        server = psutil.Process(stack.postgres.pid)
        found["postgres"] = [server, *server.children(recursive=True)]
    return found


class Load:
    """Devices that publish to a stack, and what has become of their messages."""

    def __init__(self, stack: Stack, *, devices: int) -> None:
        self.stack = stack
        self.token = stack.account["device_token"]
        self.devices = devices
        self.number = 0
        self._database = psycopg.connect(stack.database_url, autocommit=True)

    def publisher(self) -> Publisher:
        account = self.stack.account
        return Publisher(
            port=self.stack.mqtt_port,
            user=account["user_id"],
            password=self.token,
            connections=CONNECTIONS,
            message=self._message,
        )

    def _message(self, _number: int) -> tuple[str, bytes]:
        number = self.number
        self.number += 1
        return f"{self.token}/json/load-{number % self.devices}", PAYLOAD % (
            number,
            number % 1_000 == 0 and 100,
        )

    def publish(self, count: int) -> int:
        """Publish so many as fast as the broker takes them; returns how many it acknowledged."""
        publisher = self.publisher()
        publisher.run(rate=1e6, count=count)
        publisher.close()
        return len(publisher.log.acknowledged)

    def received(self) -> int:
        """How many messages the platform has committed so far."""
        row = self._database.execute(
            "SELECT coalesce(sum(received), 0)::bigint FROM tokens_accounttraffic"
        ).fetchone()
        return int(row[0]) if row else 0

    def wait_for_rollups(self) -> None:
        """Until what has been stored is rolled up; at most as long as that may take."""
        began = time.monotonic()
        while time.monotonic() - began < ROLLUP_PATIENCE_S:
            row = self._database.execute(
                "SELECT NOT EXISTS (SELECT FROM streams_record, streams_rollupmark"
                " WHERE at >= rolled_until AND at < (SELECT max(at) FROM streams_record))"
            ).fetchone()
            if row and row[0]:
                return
            time.sleep(1)

    def close(self) -> None:
        self._database.close()


@dataclass
class Minute:
    """What one timed load showed. `backlogs` are those of each second; `delays_s` those of the probes."""

    rate: float
    took_s: float
    count: int
    backlogs: list[int]
    caught_up_s: float
    delays_s: list[float]

    @property
    def kept_up(self) -> bool:
        """Whether the backlog of the last third is no larger than that of the first one by more than half a second's.

        A third outlasts the roll-ups, which are made once a minute. What waits at the end must be stored at once.
        """
        if self.count / self.took_s < 0.99 * self.rate or self.caught_up_s > 1:
            return False
        third = len(self.backlogs) // 3
        head, tail = self.backlogs[:third], self.backlogs[-third:]
        return bool(third) and statistics.median(tail) <= statistics.median(head) + self.rate / 2

    def __str__(self) -> str:
        delays = sorted(self.delays_s) or [float("nan")]
        p50, p99 = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
        shown = ", ".join(str(backlog) for backlog in self.backlogs[4::5])
        return (
            f"offered {self.rate:.0f}/s, {self.count} in {self.took_s:.1f} s = {self.count / self.took_s:.0f}/s; "
            f"backlog {shown}; caught up after {self.caught_up_s:.2f} s; "
            f"visible after p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms ({len(self.delays_s)} probes); "
            f"{'the backlog did not grow' if self.kept_up else 'THE BACKLOG GREW'}"
        )


def minute(load: Load, *, rate: float, seconds: float, parts: Mapping[str, list[psutil.Process]]) -> Minute:
    """Publish at this rate for so long, then wait until everything is committed; prints what each process cost.

    It begins when the roll-ups of what came before are made, whose cost is not its own.
    """
    load.wait_for_rollups()
    publisher, probes = load.publisher(), Probes(load.stack)
    begun = load.received()
    backlogs: list[int] = []

    def each_second(_elapsed_s: float) -> None:
        backlogs.append(len(publisher.log.acknowledged) + probes.sent - (load.received() - begun))

    before = {name: cost_of(processes) for name, processes in parts.items()}
    probes.start()
    try:
        took_s = publisher.run(rate=rate, count=int(rate * seconds), each_second=each_second)
        after = {name: cost_of(processes) for name, processes in parts.items()}
    finally:
        probes.stop()
    total = len(publisher.log.acknowledged)
    caught_up_s = _catch_up(lambda: total + probes.sent - (load.received() - begun))
    publisher.close()
    for name, cost in after.items():
        cores = (cost.cpu_s - before[name].cpu_s) / took_s
        print(
            f"    {name:10s} {cores:5.2f} cores  {1e6 * cores * took_s / total:6.1f} us each  {cost.memory_mb:6.0f} MB",
            flush=True,
        )
    return Minute(rate, took_s, total, backlogs, caught_up_s, probes.delays_s)


class Probes:
    """A device of its own that publishes each 50 ms, and looks how soon the latest table shows it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self.delays_s: list[float] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        token = self._stack.account["device_token"]
        number = 0

        def message(_number: int) -> tuple[str, bytes]:
            return f"{token}/json/probe", b'{"probe":%d}' % number

        probe = Publisher(
            port=self._stack.mqtt_port,
            user=self._stack.account["user_id"],
            password=token,
            connections=1,
            message=message,
            name="probe",
        )
        with psycopg.connect(self._stack.database_url, autocommit=True) as database:
            while not self._over.is_set():
                number = time.time_ns() // 1_000
                began = time.monotonic()
                probe.run(rate=1_000, first=self.sent, count=self.sent + 1)
                self.sent += 1
                while not self._seen(database, number):
                    if time.monotonic() - began > 60:
                        break
                    time.sleep(0.004)
                self.delays_s.append(time.monotonic() - began)
                self._over.wait(PROBE_EVERY_S)
        probe.close()

    def _seen(self, database: "psycopg.Connection[Any]", number: int) -> bool:
        found = database.execute(
            "SELECT 1 FROM channels_latest l JOIN devices_device d ON d.id = l.device_key"
            " WHERE d.device_id = 'probe' AND (l.value->>'probe')::bigint = %s",
            [number],
        ).fetchone()
        return found is not None


def bare_rate(stack: Stack, load: Load, listeners: "Listeners") -> float:
    """Messages a second that gmqtt alone takes out of a full queue and acknowledges by hand, doing nothing else."""
    listeners.stop()
    receiver = stack.spawn("bare", "-m", "bench.bare_receiver", "subscribe")
    if receiver.wait(timeout=30):
        raise RuntimeError((stack.path / "bare.log").read_text(encoding="utf-8"))
    sent = load.publish(QUEUED)
    log = stack.path / "bare-drain.log"
    log.unlink(missing_ok=True)
    receiver = stack.spawn("bare-drain", "-m", "bench.bare_receiver", "drain", str(sent))
    if receiver.wait(timeout=300):
        raise RuntimeError(log.read_text(encoding="utf-8"))
    listeners.start()
    return float(log.read_text(encoding="utf-8").split()[-1])


def drain_rate(load: Load, listeners: "Listeners") -> float:
    """Messages a second that the listeners commit out of a full queue, from a tenth of it to the end."""
    listeners.stop()
    begun = load.received()
    sent = load.publish(QUEUED)
    listeners.start(wait=False)
    marks: list[tuple[float, int]] = []
    while not marks or marks[-1][1] < sent:
        marks.append((time.monotonic(), load.received() - begun))
        time.sleep(0.02)
    first = next(mark for mark in marks if mark[1] >= sent // 10)
    return (marks[-1][1] - first[1]) / (marks[-1][0] - first[0])


class Listeners:
    """So many listener processes of a stack, the first of which the stack has started."""

    def __init__(self, stack: Stack, load: Load, count: int) -> None:
        self._stack = stack
        self._load = load
        self._count = count
        self.processes = [stack.listener] if stack.listener is not None else []
        self.start()

    def start(self, *, wait: bool = True) -> None:
        while len(self.processes) < self._count:
            name = f"listener-{len(self.processes)}"
            self.processes.append(self._stack.spawn(name, "manage.py", "mqtt_listener"))
        if wait:
            begun, deadline = self._load.received(), time.monotonic() + 60
            while self._load.received() == begun and time.monotonic() < deadline:
                self._load.publish(1)  # kept by nobody until the first session is there
                time.sleep(0.2)

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=30)
        self.processes.clear()


def run(
    *,
    rate: float,
    seconds: float,
    devices: int,
    rules: int,
    listeners: int,
    find: bool,
    bare: bool,
    repeat: int,
) -> bool:
    """Load a fresh stack; true when a rate was held without a growing backlog each time."""
    with Stack(mqtt_port=free_port(), slots=listeners) as stack:
        wait_until_listening(stack)
        rules_create(stack, rules)
        uvicorn = ("-m", "uvicorn", "servwatch_site.asgi:application", "--port", str(free_port()))
        others = {
            "web": stack.spawn("web", *uvicorn, "--no-access-log"),
            "worker": stack.spawn("worker", "manage.py", "worker"),
        }
        load = Load(stack, devices=devices)
        listening = Listeners(stack, load, listeners)
        wait_until_dealt(stack)
        minute(load, rate=min(rate, 2_000), seconds=max(3.0, devices / 2_000), parts={})  # first contact
        held = 0
        for _ in range(repeat):
            drained = drain_rate(load, listening) if bare or find else 0.0
            if bare:
                reference = bare_rate(stack, load, listening)
                print(
                    f"out of a queue of {QUEUED}: gmqtt alone {reference:.0f}/s, committed {drained:.0f}/s, "
                    f"ratio {drained / reference:.2f}",
                    flush=True,
                )
            parts = groups(stack, others, listening.processes)
            if find:
                found = _find(load, rate=drained * BEGIN, seconds=seconds, parts=parts)
            else:
                found = minute(load, rate=rate, seconds=seconds, parts=parts)
            print(found, flush=True)
            held += found.kept_up
            if bare:
                print(f"steady to gmqtt alone: {found.count / found.took_s / reference:.2f}", flush=True)
        load.close()
        return held == repeat


def _find(load: Load, *, rate: float, seconds: float, parts: Mapping[str, list[psutil.Process]]) -> Minute:
    """The first rate, from the given one downwards, at which the backlog does not grow."""
    while True:
        found = minute(load, rate=rate, seconds=seconds, parts=parts)
        if found.kept_up or rate < 500:
            return found
        print(found, flush=True)
        rate *= STEP


def _catch_up(backlog: Callable[[], int]) -> float:
    began = time.monotonic()
    while backlog() > 0 and time.monotonic() - began < 120:
        time.sleep(0.05)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rules", type=int, default=0)
    parser.add_argument("--listeners", type=int, default=1)
    parser.add_argument("--find", action="store_true", help="look for the highest rate")
    parser.add_argument("--bare", action="store_true", help="measure gmqtt alone beside")
    parser.add_argument("--repeat", type=int, default=1)
    return 0 if run(**vars(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
