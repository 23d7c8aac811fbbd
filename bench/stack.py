"""A Servwatch of its own for measurements and crash tests: database, broker and listener as processes."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from bench.publisher import Publisher
from servwatch_site.embedded.mosquitto import (
    Broker,
    BrokerAccount,
    Listener,
    memory_bytes,
    queue_bytes_for,
)
from servwatch_site.embedded.mosquitto_programs import find_broker
from servwatch_site.embedded.postgres import TemporaryPostgres

ROOT = Path(__file__).resolve().parents[1]
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "max_wal_size": "2GB"}

PREPARE = """
import django, json
django.setup()
from devices.broker import broker_accounts
from servwatch_site.first_run import first_account
from tokens.selectors import device_token_reveal
from tokens.services import api_token_issue
account, _ = first_account()
print(json.dumps({
    "user_id": account.user_id,
    "device_token": device_token_reveal(account),
    "api_token": api_token_issue(account, name="bench", scopes=["admin"])[1],
    "logins": [login._asdict() for login in broker_accounts()],
}))
"""


class Stack:
    """`with Stack(mqtt_port=...) as stack:`; everything ends with the block. Writes nothing outside its folder.

    `slots`: among how many the devices are dealt out; the stack starts one listener of its own.
    `queue_bytes`: what the broker keeps for a session; by default as the machine's memory allows.
    """

    def __init__(
        self, *, mqtt_port: int, database_url: str = "", slots: int = 1, queue_bytes: int | None = None
    ) -> None:
        self.slots = slots
        self.queue_bytes = queue_bytes or queue_bytes_for(memory_bytes())
        self._folder = tempfile.TemporaryDirectory(prefix="servwatch-stack-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self.mqtt_port = mqtt_port
        self.postgres = None if database_url else TemporaryPostgres(self.path / "database", settings=DURABLE)
        self.database_url = database_url or (self.postgres.url if self.postgres else "")
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "servwatch_site.settings",
            "DATABASE_URL": self.database_url,
            "MQTT_URL": f"mqtt://127.0.0.1:{mqtt_port}",
            "SERVWATCH_DATA_DIR": str(self.path),
            "SERVWATCH_SECRET_KEY": "secret-key-of-a-throw-away-installation-1",
            "SERVWATCH_LISTENER_SLOTS": str(slots),
            "SERVWATCH_BROKER_QUEUE_BYTES": str(self.queue_bytes),
        }
        self.broker: Broker | None = None
        self.listener: subprocess.Popen[bytes] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self.account: dict[str, Any] = {}  # user_id, device_token, api_token

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def listener_start(self) -> None:
        self.listener = self.spawn("listener", "manage.py", "mqtt_listener")

    def spawn(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a process of this installation with Python; it ends with the stack."""
        with (self.path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        self._spawned.append(process)
        return process

    def listener_kill(self) -> None:
        """kill -9"""
        if self.listener is not None:
            self.listener.kill()
            self.listener.wait(timeout=10)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(sql).fetchall()

    def _start(self) -> None:
        if self.postgres is not None:
            self.postgres.start()
        self._python("manage.py", "migrate", "--verbosity", "0")
        self.account = json.loads(self._python("-c", PREPARE))
        folder = self.path / "broker"
        folder.mkdir()
        address = Listener("127.0.0.1", self.mqtt_port)
        self.broker = Broker(
            find_broker(self.path, say=_say),
            directory=folder,
            listeners=(address,),
            queue_bytes=self.queue_bytes,
        )
        logins = self.account.pop("logins")
        accounts = [BrokerAccount(row["username"], row["password"], tuple(row["topics"])) for row in logins]
        self.broker.write_accounts(accounts, secret="throw-away")  # noqa: S106 - salts a broker that lives for minutes
        self.broker.start(say=_say)
        self.listener_start()

    def _stop(self) -> None:
        running = [process for process in self._spawned if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=15)
        if self.broker is not None:
            self.broker.stop()
        if self.postgres is not None:
            self.postgres.close()
        self._folder.cleanup()

    def _python(self, *arguments: str) -> str:
        return run_python(self.environment, *arguments)


def run_python(environment: Mapping[str, str], *arguments: str) -> str:
    """What Python printed. Raises RuntimeError with what it said when it failed."""
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(f"{arguments[0]} failed: {run.stderr[-2000:]}")
    return run.stdout


def wait_until_dealt(stack: Stack) -> None:
    """Until every slot is connected and knows the devices to be dealt out among all; new ones wait some 12 seconds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        parts = stack.query("SELECT parts FROM streams_listenerslot WHERE connected AND NOT leaving")
        if parts == [(stack.slots,)] * stack.slots:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the devices are not dealt out among {stack.slots} slots: {parts}")


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


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
