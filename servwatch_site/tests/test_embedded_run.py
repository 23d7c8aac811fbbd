"""`manage.py run` as people start it: everything, for real, in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from servwatch_site.embedded import processes
from servwatch_site.embedded.banner import banner
from servwatch_site.first_run import FirstRun
from servwatch_site.tests.broker import MqttClient, free_port, mosquitto
from servwatch_site.tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0


class Machine:
    """One data folder, two ports, and `manage.py run` on them."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "the data"
        self.output = folder / "output"
        self.http_port = free_port()
        self.mqtt_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "MQTT_URL")}
        own = {
            "SERVWATCH_DATA_DIR": str(self.data_dir),
            "SERVWATCH_HTTP_PORT": str(self.http_port),
            "SERVWATCH_MQTT_PORT": str(self.mqtt_port),
        }
        return {**kept, **own, **more}

    def start(self) -> None:
        """Until it says that it runs."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run"],
                cwd=ROOT,
                env=self.environment({}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(
            lambda: "Ctrl-C stops" in self.said() or self.has_ended(),
            timeout_s=START_TIMEOUT_S,
            what="the start",
        )
        assert not self.has_ended(), self.said()

    def refused(self, **more: str) -> str:
        """What a start says that must not succeed."""
        answer = subprocess.run(
            [sys.executable, "manage.py", "run"],
            cwd=ROOT,
            env=self.environment(more),
            capture_output=True,
            text=True,
            check=False,
            timeout=START_TIMEOUT_S,
        )
        assert answer.returncode == 1
        return answer.stdout + answer.stderr

    def stop(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def first_run(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "first-run.json").read_text(encoding="utf-8"))
        return found

    def last_value(self, device: str) -> Any:
        """The newest value of this device among the last of the channel: the agent reports there too."""
        run = self.first_run()
        headers = {"X-APITOKEN": run["api_token"], "X-ENDTIME": "last", "X-PAGELIMIT": "50"}
        request = urllib.request.Request(f"{run['base_url']}/v2/stream/0", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                stream = json.load(answer)["stream"]
        except urllib.error.HTTPError:  # 404 while there is no record, 429 when asked too often
            return None
        return next((record["value"] for record in stream if record["device_id"] == device), None)

    def publish(self, device: str, payload: str) -> None:
        run = self.first_run()
        with MqttClient(run["mqtt_port"], user=run["user_id"], password=run["device_token"]) as client:
            assert client.refused is None
            client.deliver(f"{run['device_token']}/json/{device}", payload)

    def processes(self) -> list[int]:
        """All processes that name this folder or work in it."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            if any(str(self.data_dir) in word for word in processes.command_line(int(entry.name))):
                found.append(int(entry.name))
        return [pid for pid in found if processes.is_running(pid)]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    mosquitto()
    made = Machine(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    wait_until(lambda: not made.processes(), what="the end of all parts")


def test_it_runs_takes_over_after_a_kill_and_stops_cleanly(machine: Machine) -> None:
    """One story, because each start is the dear part."""
    machine.start()
    first = machine.first_run()
    assert set(first) == {"base_url", "mqtt_host", "mqtt_port", "user_id", "device_token", "api_token"}
    assert (machine.data_dir / "first-run.json").stat().st_mode & 0o777 == 0o600
    assert first["mqtt_port"] == machine.mqtt_port
    machine.publish("web-1", '{"cpu":{"idle":93.1}}')
    wait_until(lambda: machine.last_value("web-1") == {"cpu": {"idle": 93.1}}, what="the stored value")

    machine.stop(signal.SIGKILL)
    machine.start()
    assert machine.first_run() == first
    machine.publish("web-2", '{"kept":2}')
    wait_until(lambda: machine.last_value("web-2") == {"kept": 2}, what="the next stored value")

    assert "already running on" in machine.refused()
    elsewhere = str(machine.data_dir.with_name("other"))
    taken = machine.refused(SERVWATCH_DATA_DIR=elsewhere)
    assert f"Port {machine.http_port} for the console is taken" in taken
    taken = machine.refused(SERVWATCH_DATA_DIR=elsewhere, SERVWATCH_HTTP_PORT=str(free_port()))
    assert f"Port {machine.mqtt_port} for MQTT is taken" in taken
    assert "Traceback" not in taken
    taken = machine.refused(
        SERVWATCH_DATA_DIR=elsewhere,
        SERVWATCH_HTTP_PORT=str(free_port()),
        SERVWATCH_MQTT_PORT=str(free_port()),
        SERVWATCH_MQTT_WS_PORT=str(machine.mqtt_port),
    )
    assert f"Port {machine.mqtt_port} for MQTT over WebSocket is taken" in taken

    asked = time.monotonic()
    assert machine.stop(signal.SIGTERM) == 0
    assert time.monotonic() - asked < 10
    assert machine.said().count("Stopping.") == 1
    assert machine.processes() == []


def test_equal_ports_are_refused(machine: Machine) -> None:
    sentence = machine.refused(SERVWATCH_HTTP_PORT="18123", SERVWATCH_MQTT_PORT="18123")
    assert sentence == "SERVWATCH_HTTP_PORT and SERVWATCH_MQTT_PORT are both 18123; they must differ.\n"


def test_the_banner_holds_lines_that_can_be_pasted() -> None:
    run = FirstRun("http://127.0.0.1:8000", "127.0.0.1", 1883, "U000001", "DEVICE", "API", "http://once/")
    text = banner(run, data_dir=Path("/srv/my data"), publisher="mosquitto_pub")
    assert "http://once/" in text
    assert (
        "mosquitto_pub -h 127.0.0.1 -p 1883 -u U000001 -P DEVICE -q 1 -t DEVICE/json/web-1 "
        """-m '{"cpu":{"idle":93.1}}'"""
    ) in text
    assert "curl -H 'X-APITOKEN: API' -H 'X-ENDTIME: last' http://127.0.0.1:8000/v2/stream/0" in text
