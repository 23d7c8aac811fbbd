from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.tests.broker import Broker, Subscriber, program_find
from agent.tests.running import AgentProcess


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that is not running yet."""
    program = program_find("mosquitto")
    if program is None:
        pytest.skip("there is no mosquitto on PATH or in /usr/sbin")
    broker = Broker(tmp_path / "broker", program=program)
    yield broker
    broker.kill()


@pytest.fixture
def subscribe(broker: Broker) -> Iterator[Callable[[], Subscriber]]:
    """Call it when the broker runs."""
    opened: list[Subscriber] = []

    def subscribe() -> Subscriber:
        opened.append(Subscriber(broker.port))
        return opened[-1]

    yield subscribe
    for subscriber in opened:
        subscriber.close()


@pytest.fixture
def start_agent(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    started: list[AgentProcess] = []

    def start(*arguments: str, token: str | None = None, port: int | None = None) -> AgentProcess:
        agent = AgentProcess(*arguments, spool=tmp_path / "spool", port=port or broker.port, token=token)
        started.append(agent)
        return agent

    yield start
    for agent in started:
        agent.kill()
