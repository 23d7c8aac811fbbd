"""What rules cost on the write street: none, 100, 1,000 and 10,000 of them, concerning the messages or not.

    .venv/bin/python -m bench.rules --messages 20000 --rounds 3

Everything runs in this process against a durable database of its own: 1,000 devices, 11 numbers and about 200 bytes a
message, 1,000 messages a batch. `look` is the quick look at each message, `settle` what follows in the transaction,
both in microseconds of CPU of this process a message; `server` is the database's own CPU. `ratio` compares the whole
street's CPU (this process and its database server) with no rules in the same round; given are medians of the rounds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil

from bench.history import VALUE, devices_create
from bench.site import Site

SENDERS, BATCH = 1_000, 1_000
PATHS = [
    *(
        "cpu:user",
        "cpu:system",
        "cpu:idle",
        "load1",
        "load5",
        "mem:used",
        "mem:free",
        "net:rx",
        "net:tx",
        "disk",
    ),
]
BEYOND = "1e18"  # no message says so much


class Scenario(NamedTuple):
    """So many rules of one kind. `firing`: so many of the devices are beyond one rule of them, all the time."""

    kind: str
    rules: int
    firing: int = 0

    @property
    def name(self) -> str:
        firing = f", {self.firing} devices firing" if self.firing else ""
        return f"{self.rules:6d} {self.kind}{firing}"


SCENARIOS = [
    Scenario("none", 0),
    *(Scenario("in another channel", count) for count in (100, 1_000, 10_000)),
    *(Scenario("on other key paths", count) for count in (100, 1_000, 10_000)),
    *(Scenario("of other devices", count) for count in (100, 1_000, 10_000)),
    *(Scenario("on ten of the key paths", count) for count in (100, 1_000, 10_000)),
    Scenario("on ten of the key paths", 100, firing=10),
    Scenario("on ten of the key paths", 100, firing=100),
]


@dataclass
class Cost:
    """Microseconds a message."""

    look: float
    settle: float
    own: float
    server: float

    @property
    def whole(self) -> float:
        return self.own + self.server


def rules_create(site: Site, scenario: Scenario, *, first_device: int) -> None:
    """Put these rules in the place of all there were."""
    other_channel = _other_channel(site)
    rows = []
    for number in range(scenario.rules):
        path, device_key, channel_key = PATHS[number % len(PATHS)], None, site.account["channel_key"]
        if scenario.kind == "in another channel":
            channel_key = other_channel
        elif scenario.kind == "on other key paths":
            path = f"other:{number}"
        elif scenario.kind == "of other devices":
            device_key = first_device + SENDERS + number
        threshold = "90" if scenario.firing and number == PATHS.index("disk") else BEYOND
        rows.append((channel_key, device_key, path, threshold))
    with site.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE tokens_configversion SET version = version + 1 RETURNING version")
        (version,) = cursor.fetchone() or (0,)
        cursor.execute(
            "UPDATE events_rule SET enabled = false, deleted_at = now(), config_version = %s WHERE deleted_at IS NULL",
            [version],
        )
        cursor.execute("DELETE FROM events_alertstate")
        with cursor.copy(
            "COPY events_rule (account_id, channel_id, device_id, tag, description, notify_type, post_url, enabled,"
            " source, operator, threshold, for_s, severity, created_at, condition_version, config_version) FROM STDIN"
        ) as copy:
            for channel_key, device_key, path, threshold in rows:
                owner = (site.account["key"], channel_key, device_key)
                said = ("", "", "email", "", True, path, ">", threshold, 0, "warning", "now")
                copy.write_row((*owner, *said, version, version))


def _other_channel(site: Site) -> int:
    with site.connect() as connection:
        ((key,),) = connection.execute(
            "WITH made AS (INSERT INTO channels_channel (account_id, number, name, retention_days, created_at,"
            " config_version) VALUES (%s, 99, '', 90, now(), 0) ON CONFLICT DO NOTHING RETURNING id)"
            " SELECT id FROM made UNION SELECT id FROM channels_channel WHERE account_id = %s AND number = 99",
            [site.account["key"], site.account["key"]],
        ).fetchall()
    return int(str(key))


class Bench:
    """One street, measured again and again with other rules."""

    def __init__(self, site: Site, *, messages: int) -> None:
        from streams.pipeline import Clock, Street
        from streams.writer import Writer

        self._street, self._clock = Street(Writer(name="rules", slot=0)), Clock()
        self._token, self._messages, self._number = site.account["device_token"], messages, 0
        self._spent = {"find": 0.0, "settle": 0.0}
        for name in self._spent:
            self._count_time(self._street.writer.evaluator, name)

    def _count_time(self, owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def outer(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return inner(*arguments, **named)
            finally:
                self._spent[name] += time.thread_time() - began

        setattr(owner, name, outer)

    def measure(self, *, firing: int) -> Cost:
        self._send(2, firing=firing)  # learns the rules, and lets what fires begin
        server = psutil.Process(self._street.writer.connection.info.backend_pid)
        self._spent.update(find=0.0, settle=0.0)
        batches = self._messages // BATCH
        before, own_before = server.cpu_times(), time.thread_time()
        self._send(batches, firing=firing)
        own, after = time.thread_time() - own_before, server.cpu_times()
        database = after.user + after.system - before.user - before.system
        us = 1e6 / (batches * BATCH)
        return Cost(self._spent["find"] * us, self._spent["settle"] * us, own * us, database * us)

    def _send(self, batches: int, *, firing: int) -> None:
        from streams.plan import Incoming

        for _ in range(batches):
            messages = []
            for place in range(BATCH):
                self._number += 1
                value = VALUE % self._number
                if place < firing:
                    value = value.replace('"disk":41.5', '"disk":99.5')
                topic = f"{self._token}/json/load-{place % SENDERS}"
                messages.append(Incoming(topic, value.encode(), self._clock.stamp()))
            self._street.process(messages)

    def close(self) -> None:
        self._street.writer.close()


def run(*, messages: int, rounds: int, as_json: bool) -> None:
    with Site() as site:
        first = devices_create(site, SENDERS + 10_000)
        site.django()
        costs: dict[Scenario, list[Cost]] = {scenario: [] for scenario in SCENARIOS}
        ratios: dict[Scenario, list[float]] = {scenario: [] for scenario in SCENARIOS}
        bench = Bench(site, messages=messages)
        for _ in range(rounds):
            for scenario in SCENARIOS:
                rules_create(site, scenario, first_device=first)
                cost = bench.measure(firing=scenario.firing)
                costs[scenario].append(cost)
                ratios[scenario].append(cost.whole / costs[SCENARIOS[0]][-1].whole)
        bench.close()
        _print(costs, ratios, as_json=as_json)


def _print(costs: dict[Scenario, list[Cost]], ratios: dict[Scenario, list[float]], *, as_json: bool) -> None:
    found = []
    for scenario, measured in costs.items():
        medians = {
            name: round(statistics.median(getattr(cost, name) for cost in measured), 2)
            for name in ("look", "settle", "own", "server")
        }
        spread: Sequence[float] = sorted(ratios[scenario])
        found.append((scenario, medians, statistics.median(spread), spread[0], spread[-1]))
    if as_json:
        print(
            json.dumps(
                [{"rules": s.name.strip(), **medians, "ratio": ratio} for s, medians, ratio, *_ in found]
            )
        )
        return
    print(f"{'rules':50s} {'look':>6s} {'settle':>6s} {'own':>6s} {'server':>6s}  ratio (from, to)")
    for scenario, medians, ratio, low, high in found:
        numbers = " ".join(f"{medians[name]:6.2f}" for name in ("look", "settle", "own", "server"))
        print(f"{scenario.name:50s} {numbers}  {ratio:.3f} ({low:.3f}, {high:.3f})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", dest="as_json")
    run(**vars(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
