"""Servwatch itself: its HTTP connector, and the whole of broker, listener, worker and database."""

import subprocess
from collections.abc import Mapping

import psutil

from bench.history import devices_create
from bench.peers import data
from bench.peers.database import Database, LivingServer, PostgresNewest
from bench.peers.generator import Generator, Request
from bench.peers.mqtt import PROBE_DEVICE, MqttProbe, publisher
from bench.peers.probe import Probe
from bench.peers.target import Platform, Store, Victim
from bench.rules_of_load import rules_create
from bench.site import Site
from bench.stack import Stack, free_port, wait_until_listening

_LOAD = "FROM streams_record r JOIN devices_device d ON d.id = r.device_key WHERE d.device_id LIKE 'load-%'"
_NUMBERS = f"SELECT (r.value->>'n')::bigint {_LOAD}"
_STORED = f"SELECT count(*) {_LOAD}"
_RECEIVED = "SELECT coalesce(sum(received), 0)::bigint FROM tokens_accounttraffic"
_NEWEST = (
    "SELECT coalesce(max((l.value->>'n')::bigint), 0) FROM channels_latest l JOIN devices_device d"
    f" ON d.id = l.device_key WHERE d.device_id = '{PROBE_DEVICE}'"
)
COMMITTED = "committed in PostgreSQL, synced to disk"


class HttpConnector(Store):
    """One web process; PostgreSQL with the settings of the report."""

    name = "Servwatch, HTTP connector"
    acknowledgement = COMMITTED

    def start(self) -> None:
        self.postgres = LivingServer(self.path / "database")
        self.exit.callback(self.postgres.close)
        self.postgres.start()
        self.site = self.exit.enter_context(Site(database_url=self.postgres.url))
        devices_create(self.site, data.DEVICES)
        self.database = Database(self.postgres.url)
        self.exit.callback(self.database.close)
        self.web = self.site.web()

    @property
    def port(self) -> int:
        return self.web.port

    def request(self, numbers: range) -> Request:
        headers = {"X-DEVICETOKEN": self.site.account["device_token"], "X-DEVICEID": data.device_of(numbers)}
        return Request("/post_v2/", headers, data.json_array(numbers))

    def stored(self) -> int:
        return self.database.number(_STORED)

    def stored_numbers(self) -> list[int]:
        return [number for (number,) in self.database.query(_NUMBERS)]

    def processes(self) -> dict[str, list[psutil.Process]]:
        return {
            "web": [psutil.Process(self.web.process.pid)],
            "PostgreSQL": self.postgres.processes(),
        }

    @property
    def victims(self) -> Mapping[str, Victim]:
        return {"PostgreSQL": Victim(self.postgres.kill, self.postgres.restart)}


class Servwatch(Platform):
    """Mosquitto with Servwatch's own settings, one listener, the worker, PostgreSQL; `rules` are evaluated."""

    name = "Servwatch"
    acknowledgement = "in the broker (saved each 5 s), which keeps it until it is committed in PostgreSQL"
    known_good = 16_000

    def __init__(self, *, rules: int = 0) -> None:
        super().__init__()
        self._rules = rules

    def start(self) -> None:
        self.postgres = LivingServer(self.path / "database")
        self.exit.callback(self.postgres.close)
        self.postgres.start()
        self.stack = self.exit.enter_context(Stack(mqtt_port=free_port(), database_url=self.postgres.url))
        self.database = Database(self.postgres.url)
        self.exit.callback(self.database.close)
        self._token = str(self.stack.account["device_token"])
        self._user = str(self.stack.account["user_id"])
        wait_until_listening(self.stack)
        rules_create(self.stack, self._rules)
        self._worker = self.stack.spawn("worker", "manage.py", "worker")
        self._topics = [f"{self._token}/json/{data.device_id(n)}" for n in range(data.DEVICES)]
        self._received_before = self.database.number(_RECEIVED)

    def generator(self, first: int) -> Generator:
        return publisher(
            port=self.stack.mqtt_port,
            user=self._user,
            password=self._token,
            topics=self._topics,
            first=first,
        )

    def probe(self) -> Probe:
        topic = f"{self._token}/json/{PROBE_DEVICE}"
        reader = PostgresNewest(self.postgres.url, _NEWEST)
        return MqttProbe(self.stack.mqtt_port, self._user, self._token, topic, reader)

    def progress(self) -> int:
        return self.database.number(_RECEIVED) - self._received_before

    def stored(self) -> int:
        return self.database.number(_STORED)

    def stored_numbers(self) -> list[int]:
        return [number for (number,) in self.database.query(_NUMBERS)]

    def processes(self) -> dict[str, list[psutil.Process]]:
        found = {"listener": _alive(self.stack.listener), "worker": _alive(self._worker)}
        if self.stack.broker is not None:
            found["Mosquitto"] = [psutil.Process(self.stack.broker.pid)]
        return {**found, "PostgreSQL": self.postgres.processes()}

    @property
    def victims(self) -> Mapping[str, Victim]:
        return {
            "listener": Victim(self.stack.listener_kill, self.stack.listener_start),
            "PostgreSQL": Victim(self.postgres.kill, self.postgres.restart),
        }


def _alive(process: "subprocess.Popen[bytes] | None") -> list[psutil.Process]:
    return [psutil.Process(process.pid)] if process is not None and process.poll() is None else []
