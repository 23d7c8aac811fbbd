"""Mosquitto -> Node-RED -> InfluxDB: a pipe put together by hand, with one write a message or with batches."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil

from bench.peers import data
from bench.peers.daemon import Daemon, PeerMissing, debian_program
from bench.peers.generator import Generator
from bench.peers.influxdb import DATABASE, InfluxReader, InfluxServer
from bench.peers.mqtt import PROBE_DEVICE, MqttProbe, publisher
from bench.peers.probe import Probe
from bench.peers.target import Platform, Victim
from bench.stack import free_port
from servwatch_site.embedded.mosquitto_programs import find_broker

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "servwatch-peers" / "node-red"
TOKEN = "bench"  # noqa: S105 - the first level of the topics, as long as nobody is asked for a password
BATCH = 500
BATCH_MS = 200
# A queue without bound, as for Servwatch; persistence as Debian's package has it (saved every half an hour).
_BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {folder}/
max_inflight_messages 1000
max_queued_messages 0
set_tcp_nodelay true
{user}
"""
_SETTINGS = """\
module.exports = {{
    userDir: {folder}, flowFile: "flows.json", uiHost: "127.0.0.1", uiPort: {port},
    httpAdminRoot: false, httpNodeRoot: false, telemetry: {{enabled: false}},
    logging: {{console: {{level: "info", metrics: false, audit: false}}}},
}};
"""
# A point's time is the time of receipt, told apart by the report's number: equal times would overwrite each other.
_FIELDS = """\
const p = msg.payload;
const point = [
    {cpu_user: p.cpu.user, cpu_system: p.cpu.system, cpu_idle: p.cpu.idle, load1: p.load1, load5: p.load5,
     mem_used: p.mem.used, mem_free: p.mem.free, net_rx: p.net.rx, net_tx: p.net.tx, disk: p.disk, n: p.n,
     time: (Date.now() * 1000 + Math.floor(p.n / 1000) % 1000) * 1000},
    {device: msg.topic.split("/")[2], channel: "0"}];
"""
_SINGLE = _FIELDS + 'return {payload: point, measurement: "m", precision: "n"};'
_BATCHED = (
    _FIELDS
    + f"""\
const held = context.get("held");
held.push(point);
if (held.length < {BATCH}) return null;
context.set("held", []);
return {{payload: held, measurement: "m", precision: "n"}};
"""
)
_BATCHED_START = f"""\
context.set("held", []);
context.set("timer", setInterval(() => {{
    const held = context.get("held");
    if (held.length) {{
        context.set("held", []);
        node.send({{payload: held, measurement: "m", precision: "n"}});
    }}
}}, {BATCH_MS}));
"""


class NodeRed(Platform):
    """The batches are a function node's, written for this; Node-RED itself has no such node."""

    name = f"Node-RED, {BATCH} messages a write"
    acknowledgement = "in the broker's memory"
    known_good = 22_000
    function: ClassVar[tuple[str, str]] = (_BATCHED, _BATCHED_START)
    folder: ClassVar[Path] = CACHE  # where node-red and node-red-contrib-influxdb are installed

    def start(self) -> None:
        self.influx = InfluxServer(self.path)
        node = self._node()
        self._broker_start()
        self.exit.callback(self.influx.daemon.stop)
        self.influx.start()
        self._flows_write()
        self.exit.callback(node.stop)
        node.start()
        node.wait_until(lambda: "Connected to broker" in node.log_text())
        self.node = node

    def generator(self, first: int) -> Generator:
        topics = [f"{TOKEN}/json/{data.device_id(n)}" for n in range(data.DEVICES)]
        return publisher(port=self._mqtt_port, user="bench", password=TOKEN, topics=topics, first=first)

    def probe(self) -> Probe:
        topic = f"{TOKEN}/json/{PROBE_DEVICE}"
        return MqttProbe(self._mqtt_port, "bench", TOKEN, topic, _InfluxNewest(self.influx.port))

    def progress(self) -> int:
        return self.influx.written()

    def stored(self) -> int:
        return self.influx.stored()

    def stored_numbers(self) -> list[int]:
        return self.influx.stored_numbers()

    def processes(self) -> dict[str, list[psutil.Process]]:
        return {
            "Node-RED": self.node.processes(),
            "InfluxDB": self.influx.daemon.processes(),
            "Mosquitto": self.broker.processes(),
        }

    @property
    def victims(self) -> Mapping[str, Victim]:
        influxd = self.influx.daemon
        return {
            "Node-RED": Victim(self.node.kill, self.node.start),
            "InfluxDB": Victim(influxd.kill, influxd.start),
        }

    def _broker_start(self) -> None:
        self._mqtt_port = free_port()
        folder = self.path / "broker"
        folder.mkdir()
        user = "user root" if os.geteuid() == 0 else ""
        config = self.path / "mosquitto.conf"
        config.write_text(_BROKER.format(port=self._mqtt_port, folder=folder, user=user), encoding="utf-8")
        program = find_broker(self.path, say=lambda _sentence: None)
        self.broker = Daemon(
            "mosquitto",
            [str(program.path), "-c", str(config)],
            folder=self.path,
            environment=program.environment(),
        )
        self.exit.callback(self.broker.stop)
        self.broker.start()
        self.broker.wait_until(lambda: "running" in self.broker.log_text())

    def _node(self) -> Daemon:
        program = debian_program("node", package="nodejs")
        red = self.folder / "node_modules" / "node-red" / "red.js"
        if not red.is_file() or not (red.parents[1] / "node-red-contrib-influxdb").is_dir():
            raise PeerMissing(
                f"Node-RED is not in {self.folder}. In that folder: npm install node-red node-red-contrib-influxdb; "
                "another folder is named with --node-red."
            )
        settings = self.path / "settings.js"
        settings.write_text(
            _SETTINGS.format(folder=json.dumps(str(self.path)), port=free_port()), encoding="utf-8"
        )
        return Daemon("node-red", [program, str(red), "--settings", str(settings)], folder=self.path)

    def _flows_write(self) -> None:
        text, initialize = self.function
        flows = _flows(text, initialize, mqtt_port=self._mqtt_port, influx_port=self.influx.port)
        (self.path / "flows.json").write_text(json.dumps(flows), encoding="utf-8")


class NodeRedSingle(NodeRed):
    name = "Node-RED, as its nodes come"
    known_good = 4_000
    function = (_SINGLE, "")


@dataclass
class _InfluxNewest:
    port: int

    def open(self) -> None:
        self._server = InfluxReader(self.port)

    def newest(self) -> int:
        rows = self._server.query(f"SELECT last(n) FROM m WHERE device = '{PROBE_DEVICE}'")
        return int(rows[0][1]) if rows else 0


def _flows(text: str, initialize: str, *, mqtt_port: int, influx_port: int) -> list[dict[str, Any]]:
    """mqtt in -> function -> influxdb out, with the configuration of broker and database."""
    place = {"z": "flow", "x": 100, "y": 100}
    return [
        {"id": "flow", "type": "tab", "label": "bench"},
        {
            "id": "broker",
            "type": "mqtt-broker",
            "broker": "127.0.0.1",
            "port": str(mqtt_port),
            "clientid": "node-red",
            "autoConnect": True,
            "usetls": False,
            "protocolVersion": "4",
            "keepalive": "60",
            "cleansession": False,
        },
        {
            "id": "database",
            "type": "influxdb",
            "hostname": "127.0.0.1",
            "port": str(influx_port),
            "protocol": "http",
            "database": DATABASE,
            "name": "bench",
            "usetls": False,
            "influxdbVersion": "1.x",
        },
        {
            **place,
            "id": "in",
            "type": "mqtt in",
            "topic": "+/json/#",
            "qos": "1",
            "datatype": "json",
            "broker": "broker",
            "nl": False,
            "rap": True,
            "rh": 0,
            "inputs": 0,
            "wires": [["function"]],
        },
        {
            **place,
            "id": "function",
            "type": "function",
            "func": text,
            "initialize": initialize,
            "finalize": "clearInterval(context.get('timer'));",
            "outputs": 1,
            "wires": [["out"]],
        },
        {
            **place,
            "id": "out",
            "type": "influxdb out",
            "influxdb": "database",
            "measurement": "m",
            "precision": "n",
            "retentionPolicy": "",
            "wires": [],
        },
    ]
