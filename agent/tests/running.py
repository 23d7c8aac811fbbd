"""The agent as a person starts it: another process, watched through what it prints."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from agent.tests.broker import PATIENCE_S, TOKEN, USER

PROGRAM = Path(__file__).parents[1] / "servwatch_agent.py"


def environment_with(token: str | None) -> dict[str, str]:
    """Ours without what would change the agent's defaults."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SERVWATCH_", "STATE_"))}
    return kept if token is None else {**kept, "SERVWATCH_DEVICE_TOKEN": token}


def agent_call(*arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=environment_with(token),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class AgentProcess:
    def __init__(self, *arguments: str, spool: Path, port: int, token: str | None = None) -> None:
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(PROGRAM), "--host", "127.0.0.1", "--port", str(port), "--user", USER),
                *("--device", "web-1", "--interval", "0.1", "--spool", str(spool), *arguments),
            ],
            env=environment_with(TOKEN if token is None else token),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_line(self, part: str) -> str:
        def found() -> list[str]:
            return [line for line in self.lines if part in line]

        with self._said:
            assert self._said.wait_for(found, PATIENCE_S), f"no line with {part!r} in {self.lines}"
        return found()[0]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        status = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def kill(self) -> None:
        self._process.kill()
        self.wait()
        assert self._process.stderr
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()
