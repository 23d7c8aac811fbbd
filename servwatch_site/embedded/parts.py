"""The parts of one machine's Servwatch, as children of the supervisor."""

import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servwatch_site.embedded import processes
from servwatch_site.embedded.mosquitto import answers
from servwatch_site.embedded.postgres import Postgres
from servwatch_site.embedded.supervisor import Child

ROOT = Path(__file__).resolve().parents[2]
LISTENING = re.compile(r"Connected to the broker|Standing by")
# An ERROR is a failed statement, which its sender reports; so are sessions cut or refused round a restart.
DATABASE_ALARM = re.compile(r"\bPANIC\b|\bFATAL: ++(?!the database system is|terminating connection)")
# Mosquitto warns that it runs as root at every start; it does so without root's powers.
BROKER_ALARM = re.compile(r"\b(WARNING|ERROR|CRITICAL|Error)\b|Warning(?!: Mosquitto should not be run)")


@dataclass(frozen=True)
class Installation:
    """What runs where. Addresses are those to bind; `own_*` says whether the part is ours to start."""

    data_dir: Path
    http_host: str
    http_port: int
    mqtt_host: str
    mqtt_port: int
    own_database: bool
    own_broker: bool
    mqtt_ws_port: int = 0  # 0: none


def database(installation: Installation, *, say: Callable[[str], None]) -> Child:
    server = Postgres(installation.data_dir)

    def command() -> list[str]:
        server.prepare(say=say)  # also after a crash: the helpers of the dead server must be gone
        return server.command()

    return Child(
        name="postgres",
        command=command,
        is_ready=server.is_ready,
        stop_signal=signal.SIGINT,
        hard_signal=signal.SIGQUIT,
        alarming=DATABASE_ALARM,
        ended_as_leftover=False,
    )


def broker(installation: Installation) -> Child:
    return Child(
        name="broker",
        command=lambda: _manage("mqtt_broker"),
        is_ready=lambda _pid: answers(installation.mqtt_host, installation.mqtt_port),
        alarming=BROKER_ALARM,
        cwd=ROOT,
    )


def listener(number: int = 1) -> Child:
    """The first, or another one beside it."""
    name = "listener" if number == 1 else f"listener-{number}"
    return Child(name=name, command=lambda: _manage("mqtt_listener"), ready_line=LISTENING, cwd=ROOT)


def worker() -> Child:
    return Child(name="worker", command=lambda: _manage("worker"), cwd=ROOT)


def web(installation: Installation) -> Child:
    arguments = [
        "-m", "uvicorn", "servwatch_site.asgi:application",
        "--host", installation.http_host, "--port", str(installation.http_port),
        "--no-access-log",  # a path may hold a sign-in link
        "--lifespan", "on", "--timeout-graceful-shutdown", "2", "--log-level", "warning",
    ]  # fmt: skip
    address = f"http://{_reachable(installation.http_host)}:{installation.http_port}/health"
    return Child(
        name="web",
        command=lambda: processes.guarded([sys.executable, *arguments], death_signal=signal.SIGTERM),
        is_ready=lambda _pid: _web_answers(address),
        cwd=ROOT,
    )


def agent(installation: Installation) -> Child:
    program = str(ROOT / "agent" / "servwatch_agent.py")
    arguments = [
        "--first-run", str(installation.data_dir / "first-run.json"),
        "--spool", str(installation.data_dir / "agent"),
    ]  # fmt: skip
    return Child(
        name="agent",
        command=lambda: processes.guarded([sys.executable, program, *arguments], death_signal=signal.SIGTERM),
        cwd=ROOT,
    )


def _manage(command: str) -> list[str]:
    return processes.guarded([sys.executable, str(ROOT / "manage.py"), command], death_signal=signal.SIGTERM)


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared only


def _web_answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310 - our own http address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
