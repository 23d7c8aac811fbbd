"""A real broker for the tests: private folder, free port, one account, started and killed at will."""

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

USER = "U000001"
TOKEN = "token-of-the-tests"
PATIENCE_S = 15.0


def program_find(name: str) -> str | None:
    """Debian puts servers where only root's PATH looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def port_free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(done: Callable[[], bool], *, what: str) -> None:
    """For what gives no sign of its own, like a file that another process writes."""
    until_s = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not done():
        assert time.monotonic() < until_s, f"still not so: {what}"
        pause.wait(0.01)


class Broker:
    """Keeps its port over restarts, so that an agent finds it again."""

    def __init__(self, folder: Path, *, program: str, tls_folder: Path | None = None) -> None:
        self.port = port_free()
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous false",
            f"password_file {folder}/passwords",
            f"acl_file {folder}/acl",
            "user root",
            "log_dest stderr",
            "log_type information",
            "connection_messages false",
        ]
        if tls_folder:
            lines += [f"certfile {tls_folder}/server.crt", f"keyfile {tls_folder}/server.key"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        (folder / "acl").write_text(f"user {USER}\ntopic readwrite {TOKEN}/#\n")
        self.password_set(TOKEN)

    def password_set(self, password: str) -> None:
        path = self._folder / "passwords"
        path.write_text(f"{USER}:{password}\n")
        maker = program_find("mosquitto_passwd")
        assert maker, "mosquitto comes with mosquitto_passwd"
        subprocess.run([maker, "-U", str(path)], check=True, capture_output=True)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stderr
        said = b""
        while b" running" not in said:
            said = self._process.stderr.readline()
            assert said, "the broker did not start"

    def kill(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate(timeout=PATIENCE_S)
            self._process = None


@dataclass
class Received:
    """What a subscriber of the account saw, in order of arrival."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, topic: str, payload: bytes) -> None:
        with self.changed:
            self.messages.append((topic, payload))
            self.changed.notify_all()

    def envelopes(self, device: str) -> list[dict[str, Any]]:
        """Single envelopes and arrays of them, flat."""
        flat: list[dict[str, Any]] = []
        for topic, payload in list(self.messages):
            if topic == f"{TOKEN}/json/{device}":
                content = json.loads(payload)
                flat += content if isinstance(content, list) else [content]
        return flat

    def states(self, device: str) -> list[str]:
        return [payload.decode() for topic, payload in self.messages if topic == f"{TOKEN}/state/{device}"]

    def wait_for_envelopes(self, device: str, *, count: int) -> list[dict[str, Any]]:
        with self.changed:
            arrived = self.changed.wait_for(lambda: len(self.envelopes(device)) >= count, PATIENCE_S)
        assert arrived, f"{len(self.envelopes(device))} of {count} measurements arrived"
        return self.envelopes(device)

    def wait_for_state(self, device: str) -> str:
        with self.changed:
            arrived = self.changed.wait_for(lambda: self.states(device), PATIENCE_S)
        assert arrived, "no state arrived"
        return self.states(device)[0]


class Subscriber:
    """Listens to the whole account until closed."""

    def __init__(self, port: int) -> None:
        self.received = Received()
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(USER, TOKEN)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{TOKEN}/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _, __, message: self.received.add(
            message.topic, bytes(message.payload)
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(PATIENCE_S), "the subscriber could not subscribe"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
