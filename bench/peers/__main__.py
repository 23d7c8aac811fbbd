"""Peers side by side: what others do on this machine, with the same data, in one run, as ratios to ours.

    .venv/bin/python -m bench.peers > peers.md
    .venv/bin/python -m bench.peers --seconds 20 --only platforms --peer zabbix --peer servwatch

Stores over HTTP (InfluxDB, VictoriaMetrics, our connector and writer core), whole platforms over their own protocol
(Zabbix, Mosquitto with Node-RED and InfluxDB, ours), and what each loses of what it acknowledged when a part of it
is killed. Peers that are not on this machine are left out, with a sentence that says how to get them; nothing is
installed from here. Everything runs in temporary folders on free loopback ports. docs/peers.md tells the method.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from bench.peers import crashes, report, stores
from bench.peers.crashes import Crash, Losses
from bench.peers.daemon import PeerMissing
from bench.peers.influxdb import InfluxDB
from bench.peers.node_red import CACHE, NodeRed, NodeRedSingle
from bench.peers.servwatch import HttpConnector, Servwatch
from bench.peers.stores import StoreRate
from bench.peers.sustained import Bench, search
from bench.peers.target import Platform, Store
from bench.peers.victoria_metrics import VictoriaMetrics
from bench.peers.zabbix import Zabbix, ZabbixSingle

OURS = "servwatch"
PARTS = ("stores", "platforms", "crashes")
PEERS = ("influxdb", "victoria-metrics", "zabbix", "zabbix-single", "node-red", "node-red-single", OURS)
ON_REQUEST = {"zabbix-single"}
STORES: Mapping[str, type[Store]] = {
    "influxdb": InfluxDB,
    "victoria-metrics": VictoriaMetrics,
    OURS: HttpConnector,
}
STORE_S = 4.0
MQTT_RATE, ZABBIX_RATE, HTTP_RATE = 8_000, 4_000, 8_000  # reports a second while something is killed


class Run:
    """The parts of one run. `whole` turns false when a peer fails; one that is missing is only told, in `left_out`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._platforms: dict[str, Callable[[], Platform]] = {
            "zabbix": Zabbix,
            "zabbix-single": ZabbixSingle,
            "node-red": NodeRed,
            "node-red-single": NodeRedSingle,
            OURS: partial(Servwatch, rules=options.rules),
        }
        self.whole = True
        self.left_out: dict[str, str] = {}

    def stores(self) -> Iterable[str]:
        rates: list[StoreRate] = []
        for peer, make in STORES.items():
            self._try(peer, partial(self._store, make, rates))
        return report.stores(rates)

    def platforms(self) -> Iterable[str]:
        found: list[report.Searched] = []
        for peer, make in self._platforms.items():
            self._try(peer, partial(self._platform, make, found))
        return report.platforms(found)

    def crashes(self) -> Iterable[str]:
        losses: list[Losses] = []
        for peer, crash in self._crashes():
            self._try(peer, partial(self._crash, crash, losses))
        return report.crashes(losses)

    def _try(self, peer: str, part: Callable[[], None]) -> None:
        if peer not in self._options.peer:
            return
        try:
            part()
        except PeerMissing as missing:
            self.left_out[peer] = f"left out: {missing}"
        except Exception as error:  # the others are still to be measured
            traceback.print_exc()
            self.left_out[peer] = f"failed: {error}"
            self.whole = False

    def _store(self, make: Callable[[], Store], rates: list[StoreRate]) -> None:
        with make() as store:
            measured = [stores.measure(store, seconds=STORE_S)]
            if isinstance(store, HttpConnector):
                measured.append(stores.measure_writer_core(store, seconds=STORE_S))
            for rate in chain.from_iterable(measured):
                _say(rate)
                rates.append(rate)

    def _platform(self, make: Callable[[], Platform], found: list[report.Searched]) -> None:
        kind = make()
        with Bench(make, say=_say) as bench:
            result = search(bench.run, start=kind.known_good, seconds=self._options.seconds)
        found.append(report.Searched(kind.name, kind.acknowledgement, result))

    def _crash(self, crash: Crash, losses: list[Losses]) -> None:
        found = crashes.run(crash)
        _say(found)
        losses.append(found)

    def _crashes(self) -> Iterable[tuple[str, Crash]]:
        for name in ("zabbix_server", "PostgreSQL"):
            yield "zabbix", Crash(Zabbix, name, ZABBIX_RATE)
        for name in ("Node-RED", "InfluxDB"):
            yield "node-red", Crash(NodeRed, name, MQTT_RATE)
        for name in ("listener", "PostgreSQL"):
            yield OURS, Crash(self._platforms[OURS], name, MQTT_RATE)
        yield "influxdb", Crash(InfluxDB, "influxd", HTTP_RATE)
        yield "victoria-metrics", Crash(VictoriaMetrics, "victoria-metrics", HTTP_RATE)
        yield OURS, Crash(HttpConnector, "PostgreSQL", HTTP_RATE)


def main() -> int:
    # Zabbix waits for its database when it is told to end: everything has to be stopped in order.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    options = _options()
    NodeRed.folder = options.node_red
    run = Run(options)
    parts = {"stores": run.stores, "platforms": run.platforms, "crashes": run.crashes}
    began = time.monotonic()
    print("\n".join(report.machine_lines(rules=options.rules, node_red=options.node_red)), flush=True)
    for name in options.only:
        lines = list(parts[name]())
        missing = [f"- {peer} {why}" for peer, why in run.left_out.items()]
        run.left_out.clear()
        print("\n".join(["", f"## {name.capitalize()}", "", *lines, *missing]), flush=True)
    _say(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if run.whole else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60, help="of the window in which a rate has to hold")
    parser.add_argument("--rules", type=int, default=100, help="threshold rules that Servwatch evaluates")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given again")
    parser.add_argument("--peer", choices=PEERS, action="append", help="this one; may be given again")
    parser.add_argument(
        "--node-red",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="where Node-RED is installed (%(default)s)",
    )
    options = parser.parse_args()
    options.only = options.only or list(PARTS)
    options.peer = options.peer or [peer for peer in PEERS if peer not in ON_REQUEST]
    return options


def _say(thing: object) -> None:
    """Progress; the report alone goes to the standard output."""
    print(thing, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
