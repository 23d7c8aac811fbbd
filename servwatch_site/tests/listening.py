"""The listener as its own process, on the test database and a test broker."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from django.db import connection

from devices.broker import broker_accounts
from servwatch_site.tests.broker import MqttClient, RunningBroker
from servwatch_site.tests.street import CommittedTestCase
from servwatch_site.tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_database_url() -> str:
    """The URL of the database that this test process uses."""
    of = connection.settings_dict
    login = quote(of["USER"]) + (f":{quote(of['PASSWORD'])}" if of["PASSWORD"] else "")
    host = of["HOST"] if not of["HOST"].startswith("/") else ""
    port = f":{of['PORT']}" if of["PORT"] else ""
    options = f"?host={quote(of['HOST'])}" if not host else ""
    return f"postgresql://{login}@{host}{port}/{quote(of['NAME'])}{options}"


class ListenerProcess:
    """`manage.py mqtt_listener` in a process of its own; ends with the `with` block."""

    def __init__(
        self, *, mqtt_port: int, database_url: str, environment: dict[str, str] | None = None
    ) -> None:
        self._environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "MQTT_URL": f"mqtt://127.0.0.1:{mqtt_port}",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        command = [sys.executable, "manage.py", "mqtt_listener"]
        self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the listener was not started"
        return self._process

    def kill(self) -> None:
        """kill -9"""
        self.running.kill()
        self.running.wait(timeout=10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(timeout=15)


class ListeningTestCase(CommittedTestCase):
    """The cast, a broker with its accounts, and a listener that has connected."""

    def setUp(self) -> None:
        super().setUp()
        self.broker = self.enterContext(RunningBroker(broker_accounts))
        self.listener = self.enterContext(
            ListenerProcess(mqtt_port=self.broker.port, database_url=test_database_url())
        )
        self.wait_for_listener()

    def wait_for_listener(self) -> None:
        """Until the listener has its session: its advisory lock is the last thing before it connects."""
        with MqttClient(self.broker.port, user=self.owner.user_id, password=self.device_token) as probe:
            marker = f"probe-{id(probe)}"

            def heard() -> bool:
                probe.deliver(f"{self.device_token}/json/{marker}", "1")
                with connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM devices_device WHERE device_id = %s", [marker])
                    return bool(cursor.fetchone()[0])

            wait_until(heard, what="the first message through the listener")
        self._clear_probe(marker)

    def device(self, *, client_id: str = "", version: int = 4) -> MqttClient:
        """A client with the owner's right login."""
        return MqttClient(
            self.broker.port,
            user=self.owner.user_id,
            password=self.device_token,
            client_id=client_id,
            version=version,
        )

    def _clear_probe(self, marker: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE devices_device SET deleted_at = now() WHERE device_id = %s", [marker])
