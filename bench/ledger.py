"""The ledger: whatever is killed, cut, frozen or filled under load, acknowledged = stored, nothing lost, nothing twice.

    .venv/bin/python -m bench.ledger --all
    .venv/bin/python -m bench.ledger --scenario 'kill postgres' --scenario 'disk of postgres full' --rate 1000
    .venv/bin/python -m bench.ledger --seconds 20 --kill listener:5 --kill listener+postgres:12
    .venv/bin/python -m bench.ledger --list

Real broker, real database, the real supervisor over all processes, and devices that keep a log of their own
(bench/devices.py). Prints a table with one row for each scenario; bench/books.py says what its columns mean. Ends with
code 1 when a promise is broken. More is in docs/ledger.md.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from bench.books import HEAD, Books, Row, counters_wrong, line, traffic
from bench.devices import Devices, Target, beginning
from bench.scenarios import DISK_BYTES, SCENARIOS, Needs, Scenario, Scene, kills_at
from bench.supervised import NoSmallDisk, Supervised
from servwatch_site.embedded.mosquitto import AUTOSAVE_S

RATE, SECONDS = 2_000, 6.0
WARM_UP_S = 1.0
RECOVERY_PATIENCE_S = 150.0
MISSING_PATIENCE_S = 10.0
TAIL = 60  # messages at the end; they come last to the listener, so that nothing is on its way when they are stored
AUTOSAVE_LATE_S = 2.0  # Mosquitto looks at its clock now and then


class Ledger:
    """Runs scenarios on installations as few as they allow. Numbers go on, so that what one leaves behind shows later.

    `keep`: a folder for the logs of all processes.
    """

    def __init__(self, *, rate: int, seconds: float, keep: Path | None = None) -> None:
        self._rate = rate
        self._seconds = seconds
        self._keep = keep
        self._next = 0

    def run(self, needs: Needs, scenarios: Sequence[Scenario]) -> Iterator[Row]:
        """The rows, each as soon as it is known. After a broken promise it goes on with a new installation.

        Raises NoSmallDisk.
        """
        waiting = list(scenarios)
        while waiting:
            with _stack(needs) as stack:
                broken = False
                while waiting and not broken:
                    row = self._one_or_why_not(stack, waiting.pop(0))
                    broken = bool(row.broken)
                    self._keep_logs(stack, row)
                    yield row

    def _one_or_why_not(self, stack: Supervised, scenario: Scenario) -> Row:
        try:
            return self.one(stack, scenario)
        except RuntimeError as error:
            return Row(scenario.name, wrong=[str(error)])

    def one(self, stack: Supervised, scenario: Scenario) -> Row:
        """Let devices send, disturb, wait until all has come to rest, and count."""
        before = traffic(stack)
        account = stack.account
        target = Target(stack.mqtt_port, stack.device_http_port, account["user_id"], account["device_token"])
        with Devices(target, rate=self._rate, first=self._next) as devices:
            scene = Scene(stack, devices)
            wait_for_news(scene)
            if scenario.broker_dies:  # or what comes again would be of the scenario before
                began = time.time()
                scene.wait_until(lambda: stack.broker_saved_at() > began, what="the broker's next saving")
            recovered_s = max(self._round(scene, scenario) for _ in range(scenario.rounds))
            wrong = wait_for_all_parts(stack)
            time.sleep(max(0.0, self._seconds - scene.elapsed_s))
            books = come_to_rest(scene)
            self._next = beginning(devices.made)
            row = books.row(scenario.name, before, traffic(stack))
        row.recovered_s = recovered_s
        row.wrong += [*wrong, *counters_wrong(stack)]
        row.notes += scene.notes
        if scenario.broker_dies:
            excuse(row, scene, books)
        return row

    def _round(self, scene: Scene, scenario: Scenario) -> float:
        """How long the recovery took."""
        time.sleep(WARM_UP_S)
        scenario.disturb(scene)
        return wait_for_news(scene)

    def _keep_logs(self, stack: Supervised, row: Row) -> None:
        if self._keep is not None:
            shutil.copytree(
                stack.path / "log", self._keep / row.scenario.replace(" ", "-"), dirs_exist_ok=True
            )


def wait_for_news(scene: Scene) -> float:
    """Until a message that is not made yet has been stored, one by MQTT and one by HTTP. In seconds."""
    began, since = time.monotonic(), scene.devices.made
    at = datetime.now(UTC) - timedelta(seconds=1)
    while True:
        scene.devices.check()
        try:
            ((ways,),) = scene.stack.query(
                "SELECT count(DISTINCT left(d.device_id, 4)) FROM streams_record r"
                " JOIN devices_device d ON d.id = r.device_key WHERE r.at > %s AND (r.value->>'n')::bigint >= %s",
                (at, since),
            )
        except psycopg.Error:
            ways = 0
        elapsed_s = time.monotonic() - began
        if ways == 2:
            return elapsed_s
        if elapsed_s > RECOVERY_PATIENCE_S:
            raise RuntimeError(f"nothing new is stored after {elapsed_s:.0f} s")
        time.sleep(0.1)


def wait_for_all_parts(stack: Supervised) -> list[str]:
    """What does not work again within a minute, and would want a hand."""
    deadline = time.monotonic() + RECOVERY_PATIENCE_S
    asked = False
    while True:
        try:
            if not asked:
                stack.ask_worker()
                asked = True
            missing = stack.not_working()
        except psycopg.Error as error:
            missing = f"the database does not answer: {error}"
        if not missing:
            return []
        if time.monotonic() > deadline:
            return [missing]
        time.sleep(0.1)


def come_to_rest(scene: Scene) -> Books:
    """The books when nothing is on its way any more: the last messages are stored, and those before them with them."""
    devices = scene.devices
    if not devices.rest():
        raise RuntimeError("the devices wait for acknowledgements in vain")
    tail = devices.made
    devices.make(TAIL)
    if not devices.rest():
        raise RuntimeError("the devices wait for acknowledgements in vain")
    deadline = time.monotonic() + RECOVERY_PATIENCE_S
    books = Books(scene.stack, devices)
    while any(number >= tail for number in books.missing()):
        if time.monotonic() > deadline:
            raise RuntimeError("the last messages are not stored")
        time.sleep(0.1)
        books = Books(scene.stack, devices)
    deadline = time.monotonic() + MISSING_PATIENCE_S
    while books.missing() and time.monotonic() < deadline:
        time.sleep(0.2)
        books = Books(scene.stack, devices)
    return books


def excuse(row: Row, scene: Scene, books: Books) -> None:
    """A Mosquitto that dies takes back what happened since it last saved; what that explains breaks no promise.

    Lost: acknowledged within that time by that broker; what came on a connection to it may be read after its death.
    Doubled: handed to the listener within that time. Never what came by HTTP, and never twice what has its own time.
    """
    log = scene.devices.log
    since_s = AUTOSAVE_S + AUTOSAVE_LATE_S
    ages: dict[str, list[float]] = {"lost": [], "doubled": []}
    for kind, counter in (("lost", row.lost), ("doubled", row.doubled)):
        for number in counter:
            made = scene.devices.message(number)
            if kind == "lost":
                at, of_broker = log.acknowledged[number], log.connected.get(number, float("inf"))
            else:
                at = of_broker = books.first_stored(number)
            ages_s = [max(0.0, died - at) for died in scene.broker_died_at if died > of_broker]
            age_s = min(ages_s, default=99.0)
            if not made.by_http and not (made.timed and kind == "doubled") and age_s < since_s:
                row.excused[number] = counter[number]
                ages[kind].append(age_s)
    for kind, found in ages.items():
        if found:
            row.notes.append(
                f"{kind}: {len(found)}, from {min(found):.2f} to {max(found):.2f} s before the broker died"
            )


def _stack(needs: Needs) -> Supervised:
    return Supervised(
        proxied=needs is Needs.PROXIES, disk_bytes=DISK_BYTES if needs is Needs.SMALL_DISK else 0
    )


def _chosen(arguments: argparse.Namespace) -> list[Scenario]:
    chosen = list(SCENARIOS.values()) if arguments.all else [SCENARIOS[name] for name in arguments.scenario]
    return [*chosen, *([kills_at(arguments.kill)] if arguments.kill else [])]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every scenario there is, about ten minutes")
    parser.add_argument(
        "--scenario", action="append", default=[], choices=SCENARIOS, metavar="NAME", help="can be repeated"
    )
    parser.add_argument(
        "--kill", action="append", default=[], metavar="WHAT[+WHAT]:SECOND", help="can be repeated"
    )
    parser.add_argument("--list", action="store_true", help="the names of the scenarios")
    parser.add_argument("--rate", type=int, default=RATE, help="messages a second")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="how long each scenario lasts at least"
    )
    parser.add_argument(
        "--keep-logs", type=Path, metavar="FOLDER", help="copy the logs of all processes here"
    )
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(SCENARIOS))
        return 0
    chosen = _chosen(arguments)
    if not chosen:
        parser.error("choose --all, --scenario or --kill")
    ledger = Ledger(rate=arguments.rate, seconds=arguments.seconds, keep=arguments.keep_logs)
    return 0 if _report(ledger, chosen) else 1


def _report(ledger: Ledger, chosen: Sequence[Scenario]) -> bool:
    """Print the table as it grows; whether every promise was kept."""
    print(HEAD, flush=True)
    kept, remarks = True, []
    for needs in Needs:
        group = [scenario for scenario in chosen if scenario.needs is needs]
        try:
            for row in ledger.run(needs, group):
                print(line(row), flush=True)
                kept = kept and not row.broken
                remarks += [f"{row.scenario}: {note}" for note in row.notes]
                remarks += [f"BROKEN {row.scenario}: {broken}" for broken in row.broken]
        except NoSmallDisk as error:
            remarks.append(f"Skipped {', '.join(scenario.name for scenario in group)}: {error}")
    print("\n".join(["", *remarks, "Every promise was kept." if kept else "A PROMISE WAS BROKEN."]))
    return kept


if __name__ == "__main__":
    sys.exit(main())
