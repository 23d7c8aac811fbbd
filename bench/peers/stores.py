"""Stores over HTTP, beside our HTTP connector and our writer core: the same reports, each as fast as it takes them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from bench.http_load import load, request_bytes
from bench.peers.servwatch import HttpConnector
from bench.peers.target import Store
from bench.stack import ROOT
from bench.steady import cost_of

SIZES = (1_000, 1)  # reports a request
CONNECTIONS = (1, 4)
MOST_REPORTS = {1_000: 600_000, 1: 60_000}  # of one load; they are made before the clock runs
WRITER_CORE = "Servwatch, writer core"
FIRST_OF_WRITERS = 100_000_000
VISIBLE_S = 10.0


@dataclass(frozen=True)
class StoreRate:
    """Reports a second. `client_cores` and `server_cores` are what both sides used meanwhile."""

    store: str
    size: int
    connections: int
    rate: float
    median_ms: float
    client_cores: float
    server_cores: float
    all_stored: bool
    acknowledgement: str


def measure(store: Store, *, seconds: float) -> Iterator[StoreRate]:
    """All sizes and connections on one running store."""
    first = 0
    for size in SIZES:
        for connections in CONNECTIONS:
            yield _load(store, first=first, size=size, connections=connections, seconds=seconds)
            first += MOST_REPORTS[size]


def _load(store: Store, *, first: int, size: int, connections: int, seconds: float) -> StoreRate:
    starts = range(first, first + MOST_REPORTS[size], size)
    made = (store.request(range(start, start + size)) for start in starts)
    requests = [request_bytes(one.path, headers=one.headers, body=one.body) for one in made]
    stored_before = store.stored()
    server_s, client_s = _server_cpu_s(store), time.process_time()
    found = load(
        store.port, requests.__getitem__, connections=connections, seconds=seconds, most=len(requests)
    )
    client_s, server_s = time.process_time() - client_s, _server_cpu_s(store) - server_s
    found.require(200, 201, 204)
    reports = found.count * size
    return StoreRate(
        store=store.name,
        size=size,
        connections=connections,
        rate=reports / found.seconds,
        median_ms=found.median_ms,
        client_cores=client_s / found.seconds,
        server_cores=server_s / found.seconds,
        all_stored=_arrive(store, stored_before + reports),
        acknowledgement=store.acknowledgement,
    )


def _arrive(store: Store, wanted: int) -> bool:
    """Whether all are there; a store may show what it has a little later."""
    deadline = time.monotonic() + VISIBLE_S
    while (stored := store.stored()) < wanted and time.monotonic() < deadline:
        time.sleep(0.25)
    return stored == wanted


def _server_cpu_s(store: Store) -> float:
    return sum(cost_of(group).cpu_s for group in store.processes().values())


def measure_writer_core(connector: HttpConnector, *, seconds: float) -> Iterator[StoreRate]:
    """On the connector's own server and devices. Each connection is a process of its own, as listeners are."""
    first = FIRST_OF_WRITERS
    for size in SIZES:
        for connections in CONNECTIONS:
            firsts = range(first, first + 1_000_000 * connections, 1_000_000)
            yield _write(connector, firsts=firsts, size=size, seconds=seconds)
            first = firsts.stop


def _write(connector: HttpConnector, *, firsts: range, size: int, seconds: float) -> StoreRate:
    writers = [_writer(connector, first=first, size=size, seconds=seconds) for first in firsts]
    try:
        for writer in writers:
            if _line(writer.stdout) != "ready":
                raise RuntimeError("the writer core does not start")
        stored_before, server_s = connector.stored(), _server_cpu_s(connector)
        for writer in writers:
            print(file=writer.stdin, flush=True)
        told = [tuple(map(float, _line(writer.stdout).split())) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    server_s = _server_cpu_s(connector) - server_s
    took_s = max(seconds for _, seconds, _ in told)
    done = sum(done for done, _, _ in told)
    return StoreRate(
        store=WRITER_CORE,
        size=size,
        connections=len(firsts),
        rate=done / took_s,
        median_ms=1000 * took_s * len(firsts) * size / done,
        client_cores=sum(cpu_s for _, _, cpu_s in told) / took_s,
        server_cores=server_s / took_s,
        all_stored=_arrive(connector, stored_before + round(done)),
        acknowledgement=connector.acknowledgement,
    )


def _writer(connector: HttpConnector, *, first: int, size: int, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.peers.writer_core"),
            *("--token", str(connector.site.account["device_token"])),
            *("--records-a-batch", str(size), "--seconds", str(seconds), "--first", str(first)),
        ],
        cwd=ROOT,
        env=connector.site.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(stream: IO[str] | None) -> str:
    return stream.readline().strip() if stream is not None else ""
