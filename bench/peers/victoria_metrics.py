"""VictoriaMetrics, single node, from Debian's package."""

import json
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlencode

import psutil

from bench.peers import data
from bench.peers.daemon import Daemon, debian_program
from bench.peers.generator import Request
from bench.peers.target import Store, Victim
from bench.stack import free_port

SERIES = "m_n"  # measurement and field; the report's number


class VictoriaMetrics(Store):
    name = "VictoriaMetrics 1.79"
    acknowledgement = "in the server's memory, written to disk some seconds later"

    def start(self) -> None:
        program = debian_program("victoria-metrics", package="victoria-metrics")
        self._port = free_port()
        arguments = [
            f"-storageDataPath={self.path / 'data'}",
            f"-httpListenAddr=127.0.0.1:{self._port}",
            "-search.maxUniqueTimeseries=1000000",
        ]
        self.daemon = Daemon("victoria-metrics", [program, *arguments], folder=self.path)
        self.exit.callback(self.daemon.stop)
        self.daemon.start()
        self.daemon.wait_until(self._answers)

    @property
    def port(self) -> int:
        return self._port

    def request(self, numbers: range) -> Request:
        return Request("/write", {}, data.lines(numbers))

    def stored(self) -> int:
        return len(self.stored_numbers())

    def stored_numbers(self) -> list[int]:
        self._get("/internal/force_flush")
        query = urlencode({"match[]": SERIES, "start": data.BEGIN_US // 1_000_000 - 1})
        rows = self._get(f"/api/v1/export?{query}").splitlines()
        return [int(number) for row in rows for number in json.loads(row)["values"]]

    def processes(self) -> dict[str, list[psutil.Process]]:
        return {"victoria-metrics": self.daemon.processes()}

    @property
    def victims(self) -> Mapping[str, Victim]:
        return {"victoria-metrics": Victim(self.daemon.kill, self.daemon.start)}

    def _answers(self) -> bool:
        try:
            return self._get("/health") == b"OK"
        except OSError:
            return False

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=60) as answer:
            return bytes(answer.read())
