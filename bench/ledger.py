"""The ledger: whatever is killed under load, acknowledged = stored, nothing lost, nothing twice.

    .venv/bin/python -m bench.ledger --rate 2000 --seconds 20 --kill listener:5 --kill listener:12 --kill postgres:16

Messages carry a number and no time of their own: the hardest case, since only the delivery log can tell a
redelivery from a new message.
"""

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.publisher import Publisher
from bench.stack import Stack

DEVICES = 100
CATCH_UP_S = 60.0


@dataclass(frozen=True)
class Kill:
    """Which process is killed with signal 9 at which second; it is started again at once."""

    what: str
    at_s: float

    @classmethod
    def parse(cls, text: str) -> "Kill":
        what, _, at_s = text.partition(":")
        if what not in ("listener", "postgres"):
            raise argparse.ArgumentTypeError("kill listener:SECOND or postgres:SECOND")
        return cls(what, float(at_s))


@dataclass(frozen=True)
class Result:
    """One line of the ledger's table. `refused` and `duplicate` as the platform counted them."""

    sent: int
    acknowledged: int
    stored: int
    refused: int
    duplicate: int
    lost: int
    doubled: int
    adds_up: bool

    def __str__(self) -> str:
        return (
            f"sent {self.sent}  acknowledged {self.acknowledged}  stored {self.stored}  refused {self.refused}  "
            f"duplicate {self.duplicate}  lost {self.lost}  doubled {self.doubled}  "
            f"received = stored + duplicate + refused + limited: {'yes' if self.adds_up else 'NO'}"
        )


def run(*, rate: int, seconds: float, kills: Sequence[Kill]) -> Result:
    """Load a fresh stack, kill as told, wait until everything is caught up, and count."""
    waiting = sorted(kills, key=lambda kill: kill.at_s)
    with Stack(mqtt_port=free_port()) as stack:
        token = stack.account["device_token"]
        wait_until_listening(stack)

        def message(number: int) -> tuple[str, bytes]:
            return (
                f"{token}/json/load-{number % DEVICES}",
                b'{"n":%d,"cpu":{"idle":93.1},"load1":0.4}' % number,
            )

        def kill_due(elapsed_s: float) -> None:
            while waiting and waiting[0].at_s <= elapsed_s:
                _kill(stack, waiting.pop(0).what)

        publisher = Publisher(
            port=stack.mqtt_port,
            user=stack.account["user_id"],
            password=token,
            connections=10,
            message=message,
        )
        try:
            publisher.run(rate=rate, count=int(rate * seconds), each_second=kill_due)
        finally:
            publisher.close()
        return _count(stack, publisher)


def _kill(stack: Stack, what: str) -> None:
    if what == "listener":
        stack.listener_kill()
        stack.listener_start()
    elif stack.postgres is not None:
        stack.postgres.kill()
        stack.postgres.start()


def _count(stack: Stack, publisher: Publisher) -> Result:
    acknowledged = publisher.log.acknowledged
    deadline = time.monotonic() + CATCH_UP_S
    numbers: list[int] = []
    while time.monotonic() < deadline:
        numbers = [
            row[0]
            for row in stack.query("SELECT (value->>'n')::bigint FROM streams_record WHERE value ? 'n'")
        ]
        if len(numbers) >= len(acknowledged):
            break
        time.sleep(0.2)
    ((received, stored, duplicate, refused, limited),) = stack.query(
        "SELECT sum(received)::bigint, sum(stored)::bigint, sum(duplicate)::bigint, sum(refused)::bigint,"
        " sum(limited)::bigint FROM tokens_accounttraffic"
    )
    return Result(
        sent=len(publisher.log.sent),
        acknowledged=len(acknowledged),
        stored=len(numbers),
        refused=refused,
        duplicate=duplicate,
        lost=len(acknowledged - set(numbers)),
        doubled=len(numbers) - len(set(numbers)),
        adds_up=received == stored + duplicate + refused + limited,
    )


def wait_until_listening(stack: Stack) -> None:
    """Until the listener's session exists: one probe message comes through."""
    token = stack.account["device_token"]
    deadline = time.monotonic() + 30
    while not stack.query("SELECT 1 FROM devices_device WHERE device_id = 'probe'"):
        if time.monotonic() > deadline:
            log = (stack.path / "listener.log").read_text(encoding="utf-8")
            raise RuntimeError(f"the listener does not listen:\n{log[-2000:]}")
        probe = Publisher(
            port=stack.mqtt_port,
            user=stack.account["user_id"],
            password=token,
            connections=1,
            message=lambda _number: (f"{token}/json/probe", b"1"),
        )
        probe.run(rate=100, count=1)
        probe.close()
        time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=2000, help="messages a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--kill", type=Kill.parse, action="append", default=[], metavar="WHAT:SECOND")
    arguments = parser.parse_args()
    result = run(rate=arguments.rate, seconds=arguments.seconds, kills=arguments.kill)
    print(result)
    return 0 if result.lost == result.doubled == 0 and result.adds_up else 1


if __name__ == "__main__":
    sys.exit(main())
