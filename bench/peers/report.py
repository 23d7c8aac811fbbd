"""The report in Markdown: what was measured, as ratios to ours, and where a peer wins."""

import json
import os
import platform as machine
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.peers.crashes import Losses
from bench.peers.data import FIELDS
from bench.peers.database import SETTINGS
from bench.peers.servwatch import HttpConnector, Servwatch
from bench.peers.stores import WRITER_CORE, StoreRate
from bench.peers.sustained import Sustained, Window
from servwatch_site.embedded import postgres_binaries

NUMBERS = len(FIELDS)
PACKAGES = ("influxdb", "victoria-metrics", "zabbix-server-pgsql", "mosquitto", "nodejs")
OUR_STORES = (HttpConnector.name, WRITER_CORE)


class Searched(NamedTuple):
    """What came of the search for a platform's sustained rate."""

    name: str
    acknowledgement: str
    result: Sustained


def machine_lines(*, rules: int, node_red: Path) -> Iterator[str]:
    """Where this ran and what both databases are set to."""
    model = _first_value("/proc/cpuinfo", "model name")
    memory_kb = _first_value("/proc/meminfo", "MemTotal").split()[0]
    load = os.getloadavg()[0]
    yield (
        f"Machine: {os.cpu_count()} cores ({model}), {int(memory_kb) / 1e6:.0f} GB, {machine.system()} "
        f"{machine.release()}; load average before the run {load:.1f}."
    )
    settings = " ".join(f"{name}={value}" for name, value in SETTINGS.items())
    yield f"PostgreSQL {postgres_binaries.find().major}, for Servwatch and Zabbix alike: {settings}"
    yield "Peers: " + ", ".join([*_package_versions(), *_node_versions(node_red)])
    yield f"Rules: Servwatch {rules} on the channel of all devices, Zabbix one trigger a host, the others none."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def stores(rates: Sequence[StoreRate]) -> Iterator[str]:
    """Ratios are ours divided by the peer's: above 1 ours is faster."""
    yield from table(
        (
            *("store", "reports a request", "connections", "reports/s", "median ms", "HTTP connector / it"),
            *("writer core / it", "server cores", "client cores", "all stored", "acknowledged means"),
        ),
        (_store_row(rate, rates) for rate in rates),
    )
    yield ""
    for rate in rates:
        for name in OUR_STORES:
            own = _own_rate(name, rate, rates)
            if own is not None and rate.rate > own:
                yield (
                    f"- {rate.store} wins over {name}, {rate.size:,} a request, connections {rate.connections}: "
                    f"{rate.rate / own:.1f} times."
                )


def _store_row(rate: StoreRate, rates: Sequence[StoreRate]) -> tuple[str, ...]:
    own = [_own_rate(name, rate, rates) for name in OUR_STORES]
    return (
        *(rate.store, f"{rate.size:,}", str(rate.connections), f"{rate.rate:,.0f}", f"{rate.median_ms:.1f}"),
        *("" if one is None else f"{one / rate.rate:.2f}" for one in own),
        *(f"{rate.server_cores:.2f}", f"{rate.client_cores:.2f}"),
        *("yes" if rate.all_stored else "NO", rate.acknowledgement),
    )


def _own_rate(name: str, rate: StoreRate, rates: Sequence[StoreRate]) -> float | None:
    """Ours in the same case as a peer's, None for ours itself."""
    if rate.store in OUR_STORES:
        return None
    same = (
        one.rate
        for one in rates
        if (one.store, one.size, one.connections) == (name, rate.size, rate.connections)
    )
    return next(same, None)


def platforms(found: Sequence[Searched]) -> Iterator[str]:
    ours = next((one.result.held for one in found if one.name == Servwatch.name), None)
    own = None if ours is None else ours.rate
    yield from table(
        (
            *("platform", "held, reports/s", "numbers/s", "did not hold", "ours / it", "visible p50 / p99"),
            *("cores", "memory (PSS), MB", "client cores", "acknowledged means"),
        ),
        (_platform_row(one, own=own) for one in found),
    )
    yield ""
    for one in found:
        held = one.result.held
        if own is not None and held is not None and held.rate > own:
            yield f"- {one.name} wins over {Servwatch.name}: {held.rate / own:.2f} times."


def _platform_row(one: Searched, *, own: int | None) -> tuple[str, ...]:
    held, broke = one.result.held, one.result.broke
    broken = "" if broke is None else _broke(broke)
    if held is None:
        return (one.name, "none that was tried", "", broken, "", "", "", "", "", one.acknowledgement)
    parts = {part: group for part, group in held.groups.items() if part not in ("generator", "probe")}
    return (
        *(one.name, f"{held.rate:,} for {held.seconds} s", f"{held.rate * NUMBERS:,}", broken),
        "" if own is None or one.name == Servwatch.name else f"{own / held.rate:.2f}",
        str(held.latencies),
        f"{sum(group.cores for group in parts.values()):.2f}: "
        + ", ".join(f"{part} {group.cores:.2f}" for part, group in parts.items()),
        f"{sum(group.memory_mb for group in parts.values()):,.0f}: "
        + ", ".join(f"{part} {group.memory_mb:,.0f}" for part, group in parts.items()),
        f"{held.groups['generator'].cores:.2f}",
        one.acknowledgement,
    )


def _broke(window: Window) -> str:
    found = [f"{window.seconds} s", f"{max(window.backlogs[-5:], default=0):,} behind"]
    if window.took_s > window.seconds + 1:
        found.append(f"{window.took_s - window.seconds:.0f} s late")
    if window.lost:
        found.append(f"{window.lost:,} not stored")
    return f"{window.rate:,} ({', '.join(found)})"


def crashes(losses: Sequence[Losses]) -> Iterator[str]:
    yield from table(
        (
            *("under load", "killed", "reports/s", "acknowledged", "stored", "acknowledged but lost"),
            *("that is traffic of", "stored twice", "acknowledged means"),
        ),
        (
            (
                *(one.target, one.victim, f"{one.rate:,}", f"{one.acknowledged:,}", f"{one.stored:,}"),
                *(f"{one.lost:,}", f"{one.lost_s:.2f} s", f"{one.doubled:,}", one.acknowledgement),
            )
            for one in losses
        ),
    )


def _package_versions() -> list[str]:
    """Of the Debian packages that are installed; none on another system."""
    if shutil.which("dpkg-query") is None:
        return []
    asked = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *PACKAGES]
    answer = subprocess.run(
        asked, capture_output=True, text=True, check=False
    )  # complains of those that are missing
    return [line for line in answer.stdout.splitlines() if not line.endswith(" ")]


def _node_versions(folder: Path) -> list[str]:
    found = []
    for name in ("node-red", "node-red-contrib-influxdb"):
        path = folder / "node_modules" / name / "package.json"
        if path.is_file():
            found.append(f"{name} {json.loads(path.read_text(encoding='utf-8'))['version']}")
    return found


def _first_value(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
