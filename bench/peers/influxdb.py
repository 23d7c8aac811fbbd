"""InfluxDB 1.x from Debian's package."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from bench.peers import data
from bench.peers.daemon import Daemon, debian_program
from bench.peers.generator import Request
from bench.peers.target import Store, Victim
from bench.stack import free_port

DATABASE = "bench"
WRITE = f"/write?db={DATABASE}&precision=ns"
# Debian's defaults but for the folders, the ports, the index on disk, and the logs of each request.
CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:{backup_port}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
wal-fsync-delay = "0s"
index-version = "tsi1"
query-log-enabled = false
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
"""


class InfluxReader:
    """Questions to a server on this port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, text: str, *, method: str = "GET") -> list[list[Any]]:
        """The rows of the first series; none is an empty list."""
        path = "/query?" + urlencode({"db": DATABASE, "q": text, "epoch": "ns"})
        result = json.loads(_get(self.port, path, method=method))["results"][0]
        if "error" in result:
            raise RuntimeError(result["error"])
        return list(result["series"][0]["values"]) if "series" in result else []

    def written(self) -> int:
        """Points over HTTP since the process began, by its own count."""
        found = json.loads(_get(self.port, "/debug/vars"))
        parts = [part for name, part in found.items() if name.startswith("httpd")]
        return int(parts[0]["values"]["pointsWrittenOK"]) if parts else 0

    def stored_numbers(self) -> list[int]:
        rows = self.query("SELECT n FROM m WHERE device <> 'probe'")
        return [int(number) for _, number in rows]

    def stored(self) -> int:
        rows = self.query("SELECT count(n) FROM m WHERE device <> 'probe'")
        return int(rows[0][1]) if rows else 0


class InfluxServer(InfluxReader):
    """The process and its questions, for those who load it over HTTP and for those who stand in front of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(free_port())
        path = folder / "influxdb.conf"
        path.write_text(
            CONFIG.format(folder=folder, port=self.port, backup_port=free_port()), encoding="utf-8"
        )
        program = debian_program("influxd", package="influxdb influxdb-client")
        self.daemon = Daemon("influxdb", [program, "-config", str(path)], folder=folder)

    def start(self) -> None:
        self.daemon.start()
        self.daemon.wait_until(self.answers)
        self.query(f"CREATE DATABASE {DATABASE}", method="POST")

    def answers(self) -> bool:
        try:
            return _get(self.port, "/ping") == b""
        except OSError:
            return False


class InfluxDB(Store):
    name = "InfluxDB 1.6"
    acknowledgement = "in the WAL, which was synced to disk"

    def start(self) -> None:
        self.server = InfluxServer(self.path)
        self.exit.callback(self.server.daemon.stop)
        self.server.start()

    @property
    def port(self) -> int:
        return self.server.port

    def request(self, numbers: range) -> Request:
        return Request(WRITE, {}, data.lines(numbers))

    def processes(self) -> dict[str, list[psutil.Process]]:
        return {"influxd": self.server.daemon.processes()}

    def stored(self) -> int:
        return self.server.stored()

    def stored_numbers(self) -> list[int]:
        return self.server.stored_numbers()

    @property
    def victims(self) -> Mapping[str, Victim]:
        daemon = self.server.daemon
        return {"influxd": Victim(daemon.kill, daemon.start)}


def _get(port: int, path: str, *, method: str = "GET") -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path} was answered by {error.code}: {error.read()[:300]!r}") from None
