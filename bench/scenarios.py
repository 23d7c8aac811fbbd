"""The disturbances of the ledger, each a few lines: what is done to which part while the devices send.

A function gets the scene and returns when the disturbance is over; from then on recovery is timed. Nothing is done by
hand afterwards: what was killed is started again by the supervisor.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import combinations

from bench.devices import Devices
from bench.supervised import Supervised

PARTS = ("listener", "worker", "web", "postgres", "broker")
DISK_BYTES = 400 * 1024 * 1024
WAIT_S = 60.0


class Needs(Enum):
    NOTHING = "nothing"
    PROXIES = "proxies"
    SMALL_DISK = "small disk"


@dataclass
class Scene:
    """What a disturbance works on. `broker_died_at`: in seconds since the epoch."""

    stack: Supervised
    devices: Devices
    broker_died_at: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def kill(self, *names: str) -> None:
        self.stack.forgive()
        self.stack.kill(names)
        if "broker" in names:
            self.broker_died_at.append(time.time())

    def wait_until(self, condition: Callable[[], bool], *, what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            self.devices.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not happen within {WAIT_S:.0f} s")
            time.sleep(0.01)


@dataclass(frozen=True)
class Scenario:
    """`rounds`: how often it is disturbed, each time recovered from the last. `broker_dies`: Mosquitto's own memory is
    lost, so that some of what it acknowledged may be lost or come twice, within a bound."""

    name: str
    disturb: Callable[[Scene], None]
    needs: Needs = Needs.NOTHING
    rounds: int = 1
    broker_dies: bool = False


def kills(names: Sequence[str], *, rounds: int = 1) -> Scenario:
    name = "kill " + ("all five" if len(names) == len(PARTS) else " + ".join(names))
    return Scenario(name, lambda scene: scene.kill(*names), rounds=rounds, broker_dies="broker" in names)


def kills_at(texts: Sequence[str]) -> Scenario:
    """From `listener:5` or `listener+postgres:12`: what is killed at which second. Raises ValueError."""
    plan = sorted(
        (float(second), what.split("+")) for what, _, second in (text.rpartition(":") for text in texts)
    )
    unknown = {name for _, names in plan for name in names} - set(PARTS)
    if unknown:
        raise ValueError(f"no such part: {', '.join(sorted(unknown))}")

    def disturb(scene: Scene) -> None:
        for second, names in plan:
            time.sleep(max(0.0, second - scene.elapsed_s))
            scene.kill(*names)

    dies = any("broker" in names for _, names in plan)
    return Scenario(f"kill {', '.join(texts)}", disturb, broker_dies=dies)


def restart(name: str) -> Callable[[Scene], None]:
    def disturb(scene: Scene) -> None:
        scene.stack.forgive()
        scene.stack.ask_to_stop(name)

    return disturb


def stop_for(name: str, seconds: float) -> Callable[[Scene], None]:
    """Frozen, as by a debugger or a machine that swaps: the kernel answers for it, it does not."""

    def disturb(scene: Scene) -> None:
        before = scene.stack.memory_mb("listener")
        scene.stack.signal(name, signal.SIGSTOP)
        time.sleep(seconds)
        grown = scene.stack.memory_mb("listener") - before
        scene.stack.signal(name, signal.SIGCONT)
        scene.notes.append(f"the listener's memory grew by {grown:.0f} MB meanwhile")

    return disturb


def kill_backend(scene: Scene) -> None:
    """One of PostgreSQL's processes dies: it ends all the others and recovers, as after running out of memory."""
    ((pid,),) = scene.stack.query(
        "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'servwatch-mqtt') LIMIT 1"
    )
    os.kill(pid, signal.SIGKILL)


def cut(to: str) -> Callable[[Scene], None]:
    """The connection is reset, and for two seconds every new one."""

    def disturb(scene: Scene) -> None:
        proxy = scene.stack.proxies[to]
        proxy.refuse()
        proxy.cut()
        time.sleep(2)
        proxy.heal()

    return disturb


def answers_lost(to: str, *, after: bytes) -> Callable[[Scene], None]:
    """The connection is reset after a request was carried out and before its sender knows."""

    def disturb(scene: Scene) -> None:
        proxy = scene.stack.proxies[to]
        proxy.hold_answer(after=after)
        scene.wait_until(lambda: proxy.held_bytes() > 0, what="an answer to be lost")
        proxy.cut()
        proxy.heal()

    return disturb


def acknowledgements_lost(scene: Scene) -> None:
    """The listener has committed and acknowledged, and the broker never hears of it."""
    proxy = scene.stack.proxies["broker"]
    proxy.hold_requests()
    scene.wait_until(lambda: proxy.held_bytes() > 0, what="an acknowledgement to be lost")
    time.sleep(0.2)  # the broker sends on until its window is full, and the listener commits on
    proxy.cut()
    proxy.heal()


def silent_for(to: str, seconds: float) -> Callable[[Scene], None]:
    """Every packet is dropped, also of new connections; then the network is back."""

    def disturb(scene: Scene) -> None:
        scene.stack.proxies[to].silence(new=True)
        time.sleep(seconds)
        scene.stack.proxies[to].heal()

    return disturb


def gone(to: str) -> Callable[[Scene], None]:
    """The connections there are fall silent for ever, on both ends; new ones work. As after a fail-over."""

    def disturb(scene: Scene) -> None:
        scene.stack.proxies[to].silence(new=False)

    return disturb


def disk_full(scene: Scene) -> None:
    """The database's disk is full until it has refused for five seconds; then there is room again."""
    disk = scene.stack.disk
    if disk is None:
        raise RuntimeError("this installation has no small disk")
    scene.stack.forgive()
    refusals = scene.stack.log("postgres").count("No space left")
    disk.fill(leave_bytes=1024 * 1024)
    scene.wait_until(
        lambda: scene.stack.log("postgres").count("No space left") > refusals, what="a full disk"
    )
    time.sleep(5)
    disk.give_room()


def kill_broker_with_backlog(scene: Scene) -> None:
    """The listener is frozen for eight seconds, so that the broker holds messages when it dies."""
    scene.stack.signal("listener", signal.SIGSTOP)
    time.sleep(8)
    scene.kill("broker")
    scene.stack.signal("listener", signal.SIGCONT)


def _together() -> list[tuple[str, ...]]:
    """Each combination of two, three and four parts."""
    return [some for size in range(2, len(PARTS)) for some in combinations(PARTS, size)]


def _all() -> list[Scenario]:
    proxies = Needs.PROXIES
    return [
        *(kills([name], rounds=3) for name in PARTS if name != "broker"),
        *(kills(some) for some in _together() if "broker" not in some),
        Scenario("kill one backend of postgres", kill_backend, rounds=2),
        Scenario("restart postgres", restart("postgres")),
        Scenario("restart broker", restart("broker")),
        Scenario("stop postgres for 30 s", stop_for("postgres", 30)),
        Scenario("stop listener for 10 s", stop_for("listener", 10)),
        Scenario("stop broker for 10 s", stop_for("broker", 10)),
        kills(["broker"], rounds=3),
        *(kills(some) for some in _together() if "broker" in some),
        kills(PARTS, rounds=2),
        Scenario("kill broker with a backlog", kill_broker_with_backlog, broker_dies=True),
        Scenario("cut listener - broker", cut("broker"), proxies, rounds=2),
        Scenario("cut all - postgres", cut("postgres"), proxies, rounds=2),
        Scenario("answers of postgres lost", answers_lost("postgres", after=b"COMMIT"), proxies, rounds=5),
        Scenario("answers of web lost", answers_lost("web", after=b"POST"), proxies, rounds=5),
        Scenario("acknowledgements to broker lost", acknowledgements_lost, proxies, rounds=5),
        Scenario("silence listener - broker for 8 s", silent_for("broker", 8), proxies),
        Scenario("silence all - postgres for 8 s", silent_for("postgres", 8), proxies),
        Scenario("broker gone from the listener", gone("broker"), proxies),
        Scenario("postgres gone from all", gone("postgres"), proxies),
        Scenario("disk of postgres full", disk_full, Needs.SMALL_DISK),
    ]


SCENARIOS = {scenario.name: scenario for scenario in _all()}
