"""Zabbix 6.0: the server from Debian's package on a PostgreSQL of its own, with 1,000 hosts of eleven trapper items.

Each host has a trigger on its first item. No front end, as Servwatch runs without its web process here.
"""

import gzip
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg.conninfo

from bench.peers import trapper
from bench.peers.daemon import Daemon, PeerMissing, debian_program
from bench.peers.data import ALARM_LEVEL, DEVICES, FIELDS
from bench.peers.database import Database, LivingServer, PostgresNewest
from bench.peers.generator import Generator, Sender
from bench.peers.probe import Probe
from bench.peers.target import Platform, Victim

PACKAGE = "zabbix-server-pgsql"
SCHEMA_FOLDER = Path("/usr/share/zabbix-server-pgsql")
REPORTS_A_REQUEST = 22  # 242 values; zabbix_sender takes 250 at most
FIRST_HOST, FIRST_ITEM, PROBE_ITEM = 200_000, 300_000, 311_000
NUMBERS = len(FIELDS)
_HOSTS = f"""
UPDATE hosts SET status = 1 WHERE hostid = 10084;
INSERT INTO hosts (hostid, host, name, name_upper, status)
    SELECT {FIRST_HOST} + g, 'dev' || lpad(g::text, 4, '0'), 'dev' || lpad(g::text, 4, '0'),
           'DEV' || lpad(g::text, 4, '0'), 0 FROM generate_series(0, {DEVICES - 1}) g;
INSERT INTO hosts (hostid, host, name, name_upper, status) VALUES (201000, 'probe', 'probe', 'PROBE', 0);
INSERT INTO hosts_groups SELECT {FIRST_HOST} + g, {FIRST_HOST} + g, 2 FROM generate_series(0, {DEVICES}) g;
INSERT INTO items (itemid, type, hostid, name, key_, delay, value_type, history, trends, name_upper)
    SELECT {FIRST_ITEM} + g * {NUMBERS} + k, 2, {FIRST_HOST} + g, 'm' || k, 'm' || k, '0', 0, '90d', '365d', 'M' || k
    FROM generate_series(0, {DEVICES - 1}) g, generate_series(0, {NUMBERS - 1}) k;
INSERT INTO items (itemid, type, hostid, name, key_, delay, value_type, name_upper)
    VALUES ({PROBE_ITEM}, 2, 201000, 'm0', 'm0', '0', 0, 'M0');
INSERT INTO item_rtdata (itemid) SELECT itemid FROM items WHERE itemid >= {FIRST_ITEM};
INSERT INTO triggers (triggerid, expression, description, priority)
    SELECT 400000 + g, '{{' || (500000 + g) || '}}>{ALARM_LEVEL}', 'm0 high on ' || g, 3
    FROM generate_series(0, {DEVICES - 1}) g;
INSERT INTO functions (functionid, itemid, triggerid, name, parameter)
    SELECT 500000 + g, {FIRST_ITEM} + g * {NUMBERS}, 400000 + g, 'last', '$' FROM generate_series(0, {DEVICES - 1}) g;
"""
_CONFIG = """\
ListenIP=127.0.0.1
ListenPort={port}
StatsAllowedIP=127.0.0.1
LogType=console
PidFile={folder}/zabbix_server.pid
SocketDir={folder}
DBHost={host}
DBPort={database_port}
DBName=zabbix
DBUser={user}
AllowUnsupportedDBVersions=1
AllowRoot=1
StartTrappers=10
StartDBSyncers=4
StartPreprocessors=2
StartPollers=1
StartPollersUnreachable=1
StartPingers=0
StartDiscoverers=0
StartHTTPPollers=0
CacheSize=256M
HistoryCacheSize=1G
HistoryIndexCacheSize=128M
TrendCacheSize=128M
ValueCacheSize=512M
CacheUpdateFrequency=60
"""
_STORED = f"SELECT count(*) / {NUMBERS} FROM history WHERE itemid < {PROBE_ITEM} AND itemid >= {FIRST_ITEM}"
# A report is stored when all its numbers are; each has the report's number as its nanoseconds.
_NUMBERS_STORED = (
    f"SELECT ns FROM history WHERE itemid < {PROBE_ITEM} AND itemid >= {FIRST_ITEM}"
    f" GROUP BY ns, (itemid - {FIRST_ITEM}) / {NUMBERS}"
    f" HAVING count(*) >= {NUMBERS}"
)
# The server writes the oldest values first: of every twentieth host the newest report that is stored.
_PROGRESS = f"""
SELECT coalesce(max(newest.ns), -1) + 1 FROM generate_series(0, {DEVICES - 1}, 20) AS g,
    LATERAL (SELECT ns FROM history WHERE itemid = {FIRST_ITEM} + g * {NUMBERS} + {NUMBERS - 1}
             ORDER BY clock DESC, ns DESC LIMIT 1) AS newest
"""
_NEWEST = f"SELECT coalesce(max(value), 0)::bigint FROM history WHERE itemid = {PROBE_ITEM}"


class Zabbix(Platform):
    name = "Zabbix 6.0, 22 reports a request"
    acknowledgement = "in the server's memory"
    known_good = 8_000
    reports_a_request = REPORTS_A_REQUEST

    def start(self) -> None:
        program = debian_program("zabbix_server", package=PACKAGE)
        if not SCHEMA_FOLDER.is_dir():
            raise PeerMissing(f"{SCHEMA_FOLDER} is missing; it comes with the package {PACKAGE}")
        self.postgres = LivingServer(self.path / "database")
        self.exit.callback(self.postgres.close)
        self.postgres.start()
        self.database = _database_make(self.postgres.url)
        self.exit.callback(self.database.close)
        self.daemon = self._daemon(program)
        self.exit.callback(self.daemon.stop)
        self.daemon.start()
        self.daemon.wait_until(self._knows_its_hosts)

    def generator(self, first: int) -> Generator:
        return Sender(port=self._port, first=first, reports_a_request=self.reports_a_request)

    def probe(self) -> Probe:
        return _ZabbixProbe(self._port, PostgresNewest(self.database.url, _NEWEST))

    def progress(self) -> int:
        return self.database.number(_PROGRESS)

    def stored(self) -> int:
        return self.database.number(_STORED)

    def stored_numbers(self) -> list[int]:
        return [number for (number,) in self.database.query(_NUMBERS_STORED)]

    def processes(self) -> dict[str, list[psutil.Process]]:
        return {"zabbix_server": self.daemon.processes(), "PostgreSQL": self.postgres.processes()}

    @property
    def victims(self) -> Mapping[str, Victim]:
        return {
            "zabbix_server": Victim(self.daemon.kill, self.daemon.start),
            "PostgreSQL": Victim(self.postgres.kill, self.postgres.restart),
        }

    def _daemon(self, program: str) -> Daemon:
        parts = psycopg.conninfo.conninfo_to_dict(self.database.url)
        self._port = _port_for_zabbix()
        config = self.path / "zabbix_server.conf"
        text = _CONFIG.format(
            port=self._port,
            folder=self.path,
            host=parts["host"],
            database_port=parts.get("port", 5432),
            user=parts["user"],
        )
        config.write_text(text, encoding="utf-8")
        return Daemon("zabbix_server", [program, "-f", "-c", str(config)], folder=self.path)

    def _knows_its_hosts(self) -> bool:
        try:
            trapper.hand_over(self._port, [_probe_item(1)])
        except (OSError, trapper.TrapperError):
            return False
        return True


class ZabbixSingle(Zabbix):
    name = "Zabbix 6.0, a connection a report"
    known_good = 6_000
    reports_a_request = 1


@dataclass
class _ZabbixProbe:
    port: int
    reader: PostgresNewest

    def open(self) -> None:
        self.reader.open()

    def send(self, number: int) -> None:
        trapper.hand_over(self.port, [_probe_item(number)])

    def newest(self) -> int:
        return self.reader.newest()


def _port_for_zabbix() -> int:
    """A free one below those that the system gives out: Zabbix listens on no higher one."""
    for port in range(32_767, 20_000, -1):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no free port between 20000 and 32767")


def _probe_item(number: int) -> str:
    now = time.time_ns()
    return trapper.item("probe", "m0", str(number), clock=now // 10**9, ns=now % 10**9)


def _database_make(server_url: str) -> Database:
    """Zabbix's own schema and data, and our hosts."""
    first = Database(server_url)
    first.execute("CREATE DATABASE zabbix")
    first.close()
    database = Database(psycopg.conninfo.make_conninfo(server_url, dbname="zabbix"))
    for name in ("schema", "images", "data"):
        with gzip.open(SCHEMA_FOLDER / f"{name}.sql.gz", "rt", encoding="utf-8") as text:
            database.execute(text.read())
    database.execute(_HOSTS)
    database.execute("ANALYZE")
    return database
