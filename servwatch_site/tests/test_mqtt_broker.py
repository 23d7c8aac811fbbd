"""`manage.py mqtt_broker` as a process: what it tells about its clients."""

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from django.db import connection

from devices.broker import LISTENER_USER
from devices.models import RefusedSignIn, Session
from devices.sessions import COMMANDS_NOTIFY, device_listens, session_list
from servwatch_site.embedded import processes
from servwatch_site.embedded.mosquitto import answers
from servwatch_site.tests import listening
from servwatch_site.tests.broker import MqttClient, free_port, mosquitto
from servwatch_site.tests.listening import ROOT, ListenerProcess
from servwatch_site.tests.street import CommittedTestCase
from servwatch_site.tests.waiting import wait_until


class BrokerProcess:
    """On ports and a folder of its own, with the accounts of the test database."""

    def __init__(self) -> None:
        mosquitto()
        self.port, self.ws_port = free_port(), free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="servwatch-broker-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.output = self.folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running.poll() is None:
            self.stop()
        self._folder.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if name != "MQTT_URL"}
        return {
            **kept,
            "DATABASE_URL": listening.test_database_url(),
            "SERVWATCH_MQTT_PORT": str(self.port),
            "SERVWATCH_MQTT_WS_PORT": str(self.ws_port),
        }

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the broker was not started"
        return self._process

    def start(self) -> None:
        command = [sys.executable, "manage.py", "mqtt_broker", "--dir", str(self.folder)]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
        wait_until(
            lambda: answers("127.0.0.1", self.port) or self.running.poll() is not None, what="the start"
        )
        assert self.running.poll() is None, self.said()
        wait_until(lambda: answers("127.0.0.1", self.ws_port), what="the WebSocket port")

    def stop(self) -> int:
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(timeout=15)

    def kill(self) -> None:
        """kill -9 of the command; Mosquitto goes with it."""
        self.running.kill()
        self.running.wait(timeout=10)
        wait_until(lambda: not answers("127.0.0.1", self.port), what="the end of Mosquitto")

    def mosquitto_pid(self) -> int:
        children = Path(f"/proc/{self.running.pid}/task/{self.running.pid}/children").read_text()
        return int(children.split()[0])

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")


class SilentClient:
    """Connects by hand and then says nothing more; without a `with` block, so that it can vanish."""

    def __init__(self, port: int, *, user: str, password: str, client_id: str, keepalive_s: int = 60) -> None:
        texts = b"".join(
            struct.pack(">H", len(part)) + part
            for part in (client_id.encode(), user.encode(), password.encode())
        )
        body = b"\x00\x04MQTT\x04\xc2" + struct.pack(">H", keepalive_s) + texts
        assert len(body) < 128
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(b"\x10" + bytes([len(body)]) + body)
        assert self._socket.recv(4) == b"\x20\x02\x00\x00"

    def reset(self) -> None:
        """RST instead of FIN, as after a crash of the machine's network."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


class MqttBrokerTest(CommittedTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.broker = self.enterContext(BrokerProcess())

    def device(self, client_id: str, *, clean: bool = True, websockets: bool = False) -> MqttClient:
        return MqttClient(
            self.broker.ws_port if websockets else self.broker.port,
            user=self.owner.user_id,
            password=self.device_token,
            client_id=client_id,
            clean=clean,
            websockets=websockets,
        )

    def silent(self, client_id: str, *, keepalive_s: int = 60) -> SilentClient:
        return SilentClient(
            self.broker.port,
            user=self.owner.user_id,
            password=self.device_token,
            client_id=client_id,
            keepalive_s=keepalive_s,
        )

    def wait_for(self, *clients: str) -> None:
        def live() -> bool:
            return [row.client_id for row in session_list(self.owner)] == sorted(clients)

        wait_until(live, what=f"the sessions {clients}")

    def test_it_shows_who_is_connected_however_they_leave(self) -> None:
        with self.device("web-1"):
            self.wait_for("web-1")
            (row,) = session_list(self.owner)
            assert (row.of_device, row.ipaddress, row.proto_ver, row.clean_sess) == (
                "web-1",
                "127.0.0.1",
                4,
                True,
            )
        self.wait_for()
        resets, late = self.silent("resets"), self.silent("late", keepalive_s=1)
        resets.reset()
        self.wait_for("late")
        self.wait_for()  # after one and a half times its keep-alive
        late.close()
        first = self.silent("shared")
        second = self.silent("shared", keepalive_s=77)
        wait_until(
            lambda: [row.keepalive for row in session_list(self.owner)] == [77], what="the second client"
        )
        second.close()
        self.wait_for()
        first.close()

    def test_it_takes_and_shows_clients_over_web_sockets(self) -> None:
        with self.device("ws-1", websockets=True) as client:
            client.deliver(f"{self.device_token}/json/web-1", "1")
            client.subscribe(f"{self.device_token}/web-1/subscribe")
            wait_until(lambda: device_listens(self.owner.pk, "web-1"), what="the subscription")
            (row,) = session_list(self.owner)
            assert (row.client_id, row.of_device, row.ipaddress) == ("ws-1", "web-1", "127.0.0.1")
            taken_over = self.silent("ws-1", keepalive_s=77)
            wait_until(
                lambda: [row.keepalive for row in session_list(self.owner)] == [77], what="the second client"
            )
            client._client.loop_stop()  # it must not come back
            with self.device("later"):
                self.wait_for("later", "ws-1")
            taken_over.close()
        self.wait_for()

    def test_the_web_socket_port_is_open_at_its_address_only(self) -> None:
        with socket.socket() as trial:
            trial.bind(("127.0.0.2", self.broker.ws_port))

    def test_commands_are_known_over_subscribe_unsubscribe_and_restart(self) -> None:
        topic = f"{self.device_token}/web-1/subscribe"

        def listens() -> bool:
            return device_listens(self.owner.pk, "web-1")

        with psycopg.connect(listening.test_database_url(), autocommit=True) as waiting:
            waiting.execute(f"LISTEN {COMMANDS_NOTIFY}")
            with self.device("any name", clean=False) as client:
                client.subscribe(topic)
                assert [word.payload for word in waiting.notifies(timeout=20, stop_after=1)] == [""]
                assert listens()
                client.unsubscribe(topic)
                wait_until(lambda: not listens(), what="the end of the subscription")
                client.subscribe(topic)
                wait_until(listens, what="the second subscription")
        wait_until(lambda: not listens(), what="the end of the session")
        assert self.broker.stop() == 0
        self.broker.start()
        with self.device("any name", clean=False):  # Mosquitto has kept its subscription, and so have we
            wait_until(listens, what="the durable session")
        with self.device("any name"):
            wait_until(
                lambda: [row.clean_sess for row in session_list(self.owner)] == [True],
                what="the clean session",
            )
            assert not listens()
        wait_until(lambda: not Session.objects.exists(), what="the end of the durable session")
        assert self.device_token not in self.broker.said()
        assert "New client connected from 127.0.0.1" in self.broker.said()

    def test_a_stop_and_a_start_clear_what_was(self) -> None:
        client = self.silent("web-1")
        self.wait_for("web-1")
        assert self.broker.stop() == 0
        assert session_list(self.owner) == []
        client.close()
        self.broker.start()
        client = self.silent("web-2")
        self.wait_for("web-2")
        self.broker.kill()
        assert [row.client_id for row in session_list(self.owner)] == ["web-2"]  # nobody was left to say so
        client.close()
        self.broker.start()
        assert session_list(self.owner) == []
        client = self.silent("web-3")
        self.wait_for("web-3")
        os.kill(self.broker.mosquitto_pid(), signal.SIGKILL)
        self.broker.running.wait(timeout=10)
        assert session_list(self.owner) == []
        client.close()

    def test_an_outage_of_the_database_only_delays(self) -> None:
        stays, leaves = self.silent("stays"), self.silent("leaves")
        self.wait_for("leaves", "stays")
        name = connection.settings_dict["NAME"]
        with psycopg.connect(listening.test_database_url(), dbname="postgres", autocommit=True) as server:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            try:
                server.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s",
                    [name, connection.connection.info.backend_pid],
                )
                leaves.close()
                brief = self.silent("brief")
                brief.close()
                comes = self.silent("comes")
                wait_until(
                    lambda: "does not take the sessions" in self.broker.said(), what="the warning about it"
                )
                assert [row.client_id for row in session_list(self.owner)] == ["leaves", "stays"]
            finally:
                server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        self.wait_for("comes", "stays")
        assert self.broker.said().count("does not take the sessions") == 1
        stays.close()
        comes.close()
        self.wait_for()

    def test_it_notes_refused_sign_ins_and_the_listener_leaves_the_log_alone(self) -> None:
        environment = {"MQTT_URL": "", "SERVWATCH_MQTT_PORT": str(self.broker.port)}
        with ListenerProcess(
            mqtt_port=self.broker.port, database_url=listening.test_database_url(), environment=environment
        ) as listener:
            wait_until(lambda: f"u'{LISTENER_USER}'" in self.broker.said(), what="the listener")
            with MqttClient(self.broker.port, user=self.owner.user_id, password="wrong") as stranger:
                assert stranger.refused is not None
            wait_until(RefusedSignIn.objects.exists, what="the refused sign-in")
            with self.device("web-1"):
                self.wait_for("web-1")
                listener.kill()
                self.wait_for("web-1")
                listener.start()
        assert RefusedSignIn.objects.count() == 1

    def test_it_says_in_its_log_who_comes_and_goes(self) -> None:
        pid = self.broker.mosquitto_pid()
        assert processes.is_running(pid)
        with self.device("web 1"):
            self.wait_for("web 1")
        self.wait_for()
        assert "as web 1 (p2, c1" in self.broker.said()
        assert "Client web 1 disconnected." in self.broker.said()
