#!/usr/bin/env python3
"""Servwatch agent: measures this server and reports over MQTT.

One file, so that it can be copied to a server alone. Its rooms, in order: options, names, measuring,
envelopes, spool (what the broker has not acknowledged yet), link (the connection), the agent itself, start.

Two threads: the MQTT library's talks to the network and only puts events into a queue; the main thread
measures, owns the spool and decides what is sent. Nothing leaves the spool before the broker's PUBACK.

Values are named tuples, not dataclasses, since that module alone takes a megabyte on every monitored server.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import functools
import json
import os
import queue
import re
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlencode

try:
    import paho.mqtt.client as mqtt
    import psutil
    from paho.mqtt.enums import CallbackAPIVersion
except ModuleNotFoundError as missing:
    sys.exit(
        f"servwatch-agent: the Python package {missing.name} is missing; install psutil and paho-mqtt "
        "as listed in requirements.txt."
    )

VERSION = "0.2.0"

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

STATE_EVERY_S = 300.0
BASELINE_S = 1.0
ACK_PATIENCE_S = 60.0
FAREWELL_S = 0.4


class AgentError(Exception):
    """A sentence for the operator; the agent cannot go on."""


class OptionError(AgentError):
    """The options contradict each other or name something unusable."""


REPEAT_AFTER_S = 300.0
# Going and coming of the connection: a person who restarts a broker wants to see both.
CONNECTION_AFTER_S = 30.0


class Log:
    """Plain lines on standard error. What repeats is said once in a while, with a count."""

    def __init__(self, *, stream: IO[str] | None = None) -> None:
        self._stream = stream
        self._said: dict[str, tuple[float, int]] = {}

    def say(self, text: str) -> None:
        try:
            print(f"servwatch-agent: {text}", file=self._stream or sys.stderr, flush=True)
        except OSError:
            # The reader of our output is gone (a closed pipe, a full disk); measuring matters more.
            return

    def repeat(self, key: str, text: str, *, now_s: float, after_s: float = REPEAT_AFTER_S) -> None:
        """Says `text` unless the same `key` was said within the last `after_s`."""
        last_s, hidden = self._said.get(key, (float("-inf"), 0))
        if now_s - last_s < after_s:
            self._said[key] = (last_s, hidden + 1)
            return
        self._said[key] = (now_s, 0)
        self.say(f"{text} (and {hidden} times more since the last such line)" if hidden else text)


# --- options ----------------------------------------------------------------------------------------------

TOKEN_VARIABLE = "SERVWATCH_DEVICE_TOKEN"  # noqa: S105 - a name, not a secret
PORT_PLAIN = 1883
PORT_TLS = 8883
MIB = 1024 * 1024


class Options(NamedTuple):
    host: str
    port: int
    user: str
    token: str
    device: str
    interval_s: float
    spool: Path
    spool_max_bytes: int
    secret_file: Path | None
    tls: bool
    ca_file: Path | None
    once: bool
    show: bool

    def __repr__(self) -> str:
        """Without the token: what is printed ends up in logs."""
        return f"Options({self.user}, {self.device}, {self.broker})"

    @property
    def broker(self) -> str:
        return f"{self.host}:{self.port}"


def options_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="servwatch-agent",
        description="Measures this server and reports to Servwatch over MQTT.",
        epilog="The device token comes from --token-file, --first-run or the environment variable "
        f"{TOKEN_VARIABLE}, in this order; it is no option, because others can read a command line.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", help="broker (default: localhost)")
    add("--port", type=int, help=f"broker port (default: {PORT_PLAIN}, with TLS {PORT_TLS})")
    add("--user", help="user id of the account, like U000001")
    add("--token-file", type=Path, metavar="FILE", help="file that holds the device token alone")
    add("--first-run", type=Path, metavar="FILE", help="take broker, user and token from this JSON file")
    add("--device", help="device id (default: made from the host name)")
    add("--interval", type=float, default=10.0, metavar="SECONDS", help="from 0.1 to 3600 (default: 10)")
    add("--spool", type=Path, metavar="FOLDER", help="where unacknowledged measurements wait")
    add(
        "--spool-max-mib",
        type=int,
        default=64,
        metavar="MIB",
        help="1 to 65536 (default: 64); oldest go first",
    )
    add("--tls", action="store_true", help="encrypt and check the broker's certificate")
    add(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="trust this authority instead of the system's; implies --tls",
    )
    add(
        "--once", action="store_true", help="send one measurement, exit 0 when the broker has acknowledged it"
    )
    add("--print", action="store_true", dest="show", help="with --once: show the measurement, send nothing")
    add("--version", action="version", version=f"servwatch-agent {VERSION}")
    return parser


def options_read(arguments: list[str], *, environment: Mapping[str, str]) -> Options:
    given = options_parser().parse_args(arguments)
    if given.show and not given.once:
        raise OptionError("--print goes with --once.")
    if not 0.1 <= given.interval <= 3600:
        raise OptionError("--interval must be between 0.1 and 3600 seconds.")
    if not 1 <= given.spool_max_mib <= 65536:
        raise OptionError("--spool-max-mib must be between 1 and 65536.")
    first_run = first_run_read(given.first_run) if given.first_run else {}
    tls = bool(given.tls or given.ca_file)
    options = Options(
        host=given.host or first_run.get("mqtt_host", "localhost"),
        port=given.port if given.port is not None else port_default(first_run, tls=tls),
        user=given.user or first_run.get("user_id", ""),
        token=token_read(given.token_file, first_run=first_run, environment=environment),
        device=given.device if given.device is not None else device_id_default(socket.gethostname()),
        interval_s=given.interval,
        spool=given.spool or spool_default(environment),
        spool_max_bytes=given.spool_max_mib * MIB,
        secret_file=given.token_file or given.first_run,
        tls=tls,
        ca_file=given.ca_file,
        once=given.once,
        show=given.show,
    )
    options_check(options)
    return options


def options_check(options: Options) -> None:
    if not device_id_is_valid(options.device):
        raise OptionError(
            f"The device id {options.device!r} is not usable: 1 to 64 of A-Z a-z 0-9 . _ : - and none of "
            f"{' '.join(sorted(RESERVED_DEVICE_IDS))}. Choose another with --device."
        )
    if options.show:
        return
    if not host_is_valid(options.host):
        raise OptionError(f"--host {options.host!r} is not a host name or address.")
    if not 1 <= options.port <= 65535:
        raise OptionError(f"The port {options.port} is not between 1 and 65535.")
    if not re.fullmatch(r"[^\s\x00-\x1f+#/]{1,64}", options.user):
        raise OptionError("Name the account with --user (its user id, like U000001) or use --first-run.")
    if not options.token:
        raise OptionError(
            f"There is no device token: set the environment variable {TOKEN_VARIABLE} or use --token-file."
        )
    if not re.fullmatch(r"[^\s\x00-\x1f+#/]{1,256}", options.token):
        raise OptionError("The device token has characters that no token has; was it copied whole and alone?")
    if options.ca_file and not os.access(options.ca_file, os.R_OK):
        raise OptionError(f"The file {options.ca_file} (--ca-file) cannot be read.")


def text_read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(f"The file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"The file {path} is not text.") from error


def first_run_read(path: Path) -> dict[str, Any]:
    """The file that a fresh Servwatch writes about itself; the agent needs four keys of it."""
    try:
        content = json.loads(text_read(path))
    except ValueError as error:
        raise OptionError(f"The file {path} is not JSON.") from error
    kinds = {"mqtt_host": str, "mqtt_port": int, "user_id": str, "device_token": str}
    wrong = [
        key
        for key, kind in kinds.items()
        if not isinstance(content, dict) or type(content.get(key)) is not kind
    ]
    if wrong:
        raise OptionError(f"The file {path} lacks a usable {', '.join(wrong)}.")
    return {key: content[key] for key in kinds}


def token_read(path: Path | None, *, first_run: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """What was named on the command line wins over the environment."""
    if path:
        return text_read(path).strip()
    return str(first_run.get("device_token") or environment.get(TOKEN_VARIABLE, "").strip())


def port_default(first_run: Mapping[str, Any], *, tls: bool) -> int:
    return int(first_run.get("mqtt_port", PORT_TLS if tls else PORT_PLAIN))


def spool_default(environment: Mapping[str, str]) -> Path:
    """systemd names the folder of a service; a person's trial stays in their home."""
    if environment.get("STATE_DIRECTORY"):
        return Path(environment["STATE_DIRECTORY"].split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/servwatch-agent")
    return Path("~/.local/state/servwatch-agent").expanduser()


def host_is_valid(host: str) -> bool:
    """Python encodes names as IDNA when it looks them up and raises what is no OSError; so try that first."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return bool(host) and not re.search(r"[\s\x00/]", host)


def file_is_open_to_others(path: Path | None) -> bool:
    try:
        return path is not None and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


# --- names ------------------------------------------------------------------------------------------------

RESERVED_DEVICE_IDS = frozenset({"0", "json", "binary", "state", "subscribe", ".", ".."})
KEY_LENGTH_MAX = 100


def device_id_is_valid(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", text)) and text not in RESERVED_DEVICE_IDS


def device_id_default(host_name: str) -> str:
    """A valid device id that resembles the host name."""
    candidate = re.sub(r"[^A-Za-z0-9._:-]+", "-", host_name)[:64].strip("-")
    return candidate if device_id_is_valid(candidate) else f"host-{candidate}"[:64].rstrip("-.")


def key_clean(text: str) -> str:
    """A key that JSON stores everywhere: mount points may hold any byte but NUL, also what is no UTF-8."""
    readable = text.encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x1f\x7f]", "?", readable)[:KEY_LENGTH_MAX]


def key_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:KEY_LENGTH_MAX]


# --- measuring --------------------------------------------------------------------------------------------

DISKS_MAX = 32
DISK_DEVICES_MAX = 32
INTERFACES_MAX = 32
TEMPERATURES_MAX = 32
MOUNTS_KEPT_S = 60.0

# Read-only images: always full, and snaps bring dozens of them.
SKIPPED_FILE_SYSTEMS = frozenset({"squashfs", "iso9660", "udf", "cramfs", "erofs", "romfs"})
SKIPPED_DEVICES = re.compile(r"(loop|ram|zram|fd|sr)\d")
# Loopback, one end per container or virtual machine, their bridges, and the kernel's idle tunnel stubs.
SKIPPED_INTERFACES = re.compile(
    r"(lo\d*$|veth|docker|br-|virbr|vnet|tap|fwbr|fwpr|fwln|lxc|lxd|podman|cni|cali|flannel|cilium|kube-|nodelocaldns"
    r"|ovs-|ifb|dummy|tunl\d|ip6tnl\d|sit\d|(gre|gretap|erspan|ip6gre|ip_vti|ip6_vti)\d+$)"
)
# What a strange kernel, sensor or container can make of a single reading; the other readings go on.
READING_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    psutil.Error,
)

Metrics = dict[str, Any]
Rates = dict[str, dict[str, float]]


class Counters(NamedTuple):
    """Ever-growing counts at one moment; two make rates. Inner keys are the names of the rates."""

    at_s: float
    cpu: dict[str, float]
    groups: dict[str, Rates]


class Collector:
    """Measures; keeps the previous counters, so that each rate spans the time since the last measurement."""

    def __init__(self, *, log: Log, boot: BootWatch | None = None) -> None:
        self._log = log
        self._boot = boot
        self._mounts: list[str] = []
        self._mounts_read_s = float("-inf")
        self._before = self._counters()

    def collect(self) -> Metrics:
        after = self._counters()
        before, self._before = self._before, after
        metrics: Metrics = {"cpu": cpu_metrics(before.cpu, after=after.cpu)}
        elapsed_s = after.at_s - before.at_s
        rates = {
            name: rates_between(before.groups.get(name, {}), after=group, elapsed_s=elapsed_s)
            for name, group in after.groups.items()
        }
        readings: dict[str, Callable[[], Any]] = {
            "load": load_metrics,
            "memory": memory_metrics,
            "swap": lambda: {**swap_metrics(), **rates.get("swap", {}).get("all", {})},
            "disks": lambda: disk_metrics(self._mounts_known(now_s=after.at_s)),
            "uptime_s": uptime_s,
            "processes": process_metrics,
            "temperatures": temperature_metrics,
            "clock": clock_metrics,
            "agent": agent_metrics,
            "boot": self._boot.metrics if self._boot else dict,
        }
        for name, read in readings.items():
            value = self._reading(name, read)
            if value:
                metrics[name] = value
        for name in ("disk_io", "network"):
            if rates.get(name):
                metrics[name] = rates[name]
        return metrics

    def _counters(self) -> Counters:
        cpu = self._reading("cpu", cpu_counters) or {}
        groups = {"swap": swap_counters, "disk_io": disk_io_counters, "network": network_counters}
        read = {name: self._reading(name, function) or {} for name, function in groups.items()}
        return Counters(at_s=time.monotonic(), cpu=cpu, groups=read)

    def _reading(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except READING_ERRORS as error:
            self._log.repeat(
                f"reading {name}", f"Cannot read {name}: {error_text(error)}.", now_s=time.monotonic()
            )
            return None

    def _mounts_known(self, *, now_s: float) -> list[str]:
        """The mount table changes seldom and may have hundreds of lines."""
        if now_s - self._mounts_read_s >= MOUNTS_KEPT_S:
            self._mounts, self._mounts_read_s = mounts_worth_measuring(), now_s
        return self._mounts


def error_text(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def rates_between(before: Rates, *, after: Rates, elapsed_s: float) -> Rates:
    """Growth per second of what is in both. A counter that fell was reset: no rate, not a wrong one."""
    if elapsed_s <= 0:
        return {}
    rates: Rates = {}
    for name, counts in after.items():
        grown = {
            key: count - before[name][key] for key, count in counts.items() if key in before.get(name, {})
        }
        known = {key: round(growth / elapsed_s, 2) for key, growth in grown.items() if growth >= 0}
        if known:
            rates[name] = known
    return rates


def names_picked(names: Iterable[str], *, limit: int, last: tuple[str, ...] = ()) -> list[str]:
    """The same choice every time: sorted, with the names that begin like `last` dropped first."""
    return sorted(names, key=lambda name: (name.startswith(last) if last else False, name))[:limit]


def cpu_counters() -> dict[str, float]:
    times: dict[str, float] = psutil.cpu_times()._asdict()
    # Linux counts guests in user and nice too.
    return {name: seconds for name, seconds in times.items() if not name.startswith("guest")}


def cpu_metrics(before: Mapping[str, float], *, after: Mapping[str, float]) -> Metrics:
    """Percent of all processors together; without a usable span, since the start of the system."""
    if not after:
        return {"count": processor_count()}
    grown = {name: max(0.0, seconds - before.get(name, 0.0)) for name, seconds in after.items()}
    if sum(grown.values()) <= 0:
        grown = dict(after)
    total = sum(grown.values()) or 1.0
    metrics: Metrics = {name: round(100 * seconds / total, 2) for name, seconds in grown.items()}
    metrics.setdefault("idle", 0.0)
    metrics["total"] = round(max(0.0, 100 - metrics["idle"] - metrics.get("iowait", 0.0)), 2)
    metrics["count"] = processor_count()
    return metrics


@functools.lru_cache(maxsize=1)
def processor_count() -> int:
    return os.cpu_count() or 1


def load_metrics() -> Metrics:
    metrics: Metrics = {}
    averages = os.getloadavg()
    for minutes, load in ((1, averages[0]), (5, averages[1]), (15, averages[2])):
        metrics[f"load{minutes}"] = round(load, 2)
        metrics[f"load{minutes}_per_core"] = round(load / processor_count(), 3)
    return metrics


def memory_metrics() -> Metrics:
    memory = psutil.virtual_memory()
    names = ("total", "available", "used", "free", "buffers", "cached")
    metrics: Metrics = {f"{name}_bytes": getattr(memory, name) for name in names if hasattr(memory, name)}
    metrics["used_pct"] = memory.percent
    return metrics


def swap_metrics() -> Metrics:
    swap = psutil.swap_memory()
    return {
        "total_bytes": swap.total,
        "used_bytes": swap.used,
        "free_bytes": swap.free,
        "used_pct": swap.percent,
    }


def swap_counters() -> Rates:
    swap = psutil.swap_memory()
    return {"all": {"in_bytes_s": swap.sin, "out_bytes_s": swap.sout}}


def mounts_worth_measuring() -> list[str]:
    """Mount points of local disks, one a device; no network file systems: they may never answer."""
    shortest: dict[str, str] = {}
    for part in psutil.disk_partitions(all=False):
        if part.fstype in SKIPPED_FILE_SYSTEMS or not os.path.isdir(part.mountpoint):
            continue
        known = shortest.get(part.device)
        if known is None or len(part.mountpoint) < len(known):
            shortest[part.device] = part.mountpoint
    # In a container the root is an overlay, which is not a device of its own.
    return names_picked({"/", *shortest.values()}, limit=DISKS_MAX)


def disk_metrics(mounts: Iterable[str]) -> Metrics:
    metrics: Metrics = {}
    for mount in mounts:
        try:
            usage = os.statvfs(mount)
        except OSError:
            # Unmounted since the table was read.
            continue
        if usage.f_blocks:
            metrics[key_clean(mount)] = disk_usage(usage)
    return metrics


def disk_usage(usage: os.statvfs_result) -> Metrics:
    """As df counts: blocks kept for root are neither free nor used in the percentage."""
    used = usage.f_blocks - usage.f_bfree
    metrics: Metrics = {
        "total_bytes": usage.f_blocks * usage.f_frsize,
        "used_bytes": used * usage.f_frsize,
        "free_bytes": usage.f_bavail * usage.f_frsize,
        "used_pct": share_pct(used, of=used + usage.f_bavail),
    }
    if usage.f_files:
        metrics["inodes_used_pct"] = share_pct(usage.f_files - usage.f_ffree, of=usage.f_files)
    return metrics


def share_pct(part: float, *, of: float) -> float:
    return round(100 * part / of, 2) if of else 0.0


def disk_io_counters() -> Rates:
    devices = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
    wanted = [name for name in devices if not SKIPPED_DEVICES.match(name) and disk_is_whole(name)]
    picked = names_picked(wanted, limit=DISK_DEVICES_MAX, last=("dm-", "md"))
    return {key_clean(name): disk_io_count(devices[name]) for name in picked}


def disk_io_count(device: Any) -> dict[str, float]:
    counts: dict[str, float] = {
        "read_bytes_s": device.read_bytes,
        "write_bytes_s": device.write_bytes,
        "reads_s": device.read_count,
        "writes_s": device.write_count,
    }
    if hasattr(device, "busy_time"):
        # Milliseconds busy; a tenth of them per second is a percentage.
        counts["busy_pct"] = device.busy_time / 10
    return counts


@functools.lru_cache(maxsize=1024)
def disk_is_whole(name: str) -> bool:
    """Not a partition: those would count the same bytes again."""
    return not os.path.isdir("/sys/block") or os.path.isdir(f"/sys/block/{name.replace('/', '!')}")


def network_counters() -> Rates:
    interfaces = psutil.net_io_counters(pernic=True, nowrap=False)
    wanted = [name for name in interfaces if not SKIPPED_INTERFACES.match(name)]
    return {
        key_clean(name): network_count(interfaces[name])
        for name in names_picked(wanted, limit=INTERFACES_MAX, last=("wg", "tun", "br"))
    }


def network_count(interface: Any) -> dict[str, float]:
    return {
        "rx_bytes_s": interface.bytes_recv,
        "tx_bytes_s": interface.bytes_sent,
        "rx_packets_s": interface.packets_recv,
        "tx_packets_s": interface.packets_sent,
        "rx_errors_s": interface.errin,
        "tx_errors_s": interface.errout,
        "rx_drops_s": interface.dropin,
        "tx_drops_s": interface.dropout,
    }


def uptime_s() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return round(time.clock_gettime(time.CLOCK_BOOTTIME), 1)
    return round(time.time() - psutil.boot_time(), 1)


REBOOTED_FOR_S = 600.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class BootWatch:
    """Tells a machine that has started again from one that the agent meets for the first time.

    The agent's first boot is kept in `folder`; every other one is a restart, however often the agent itself restarts.
    """

    def __init__(self, folder: Path, *, boot_id: Path = BOOT_ID) -> None:
        self._again: bool | None = None
        try:
            own, kept = boot_id.read_text("ascii").strip(), folder / "boot"
            if not kept.exists():
                kept.write_text(f"{own}\n", encoding="ascii")
            self._again = kept.read_text("ascii").strip() != own
        except (OSError, ValueError):
            return  # not Linux, or no disk to remember on: then nothing is said

    def metrics(self) -> Metrics:
        """`rebooted` is 1 for ten minutes after a restart."""
        if self._again is None:
            return {}
        return {"rebooted": int(self._again and uptime_s() < REBOOTED_FOR_S)}


def clock_metrics() -> Metrics:
    """By how much the clock may be off by the kernel's own estimate, which grows while nothing corrects it.

    The kernel lets it grow to 16 s and then calls the clock unsynchronised.
    """
    adjtimex = clock_estimate()
    if adjtimex is None:
        return {}
    # struct timex begins with modes, offset, freq, maxerror, all but the first as long as the machine's long.
    state = bytearray(256)
    buffer = adjtimex.buffer_type.from_buffer(state)
    if adjtimex.call(buffer) < 0:
        return {}
    return {"error_s": round(struct.unpack_from("@Illl", state)[3] / 1_000_000, 3)}


class ClockEstimate(NamedTuple):
    call: Callable[[Any], int]
    buffer_type: Any


@functools.lru_cache(maxsize=1)
def clock_estimate() -> ClockEstimate | None:
    """The kernel's answer about its clock, asked for without changing anything; None where there is none."""
    try:
        import ctypes

        return ClockEstimate(ctypes.CDLL(None).adjtimex, ctypes.c_char * 256)
    except (ImportError, OSError, AttributeError):
        return None


def agent_metrics() -> Metrics:
    """The version as one number that can be compared: 1.2.3 is 10203."""
    major, minor, patch = (int(part) for part in VERSION.split("."))
    return {"version_number": 10_000 * major + 100 * minor + patch}


def process_metrics() -> Metrics:
    """Counts only: looking into each process would cost more than everything else here together."""
    metrics: Metrics = {"total": len(psutil.pids())}
    if sys.platform == "linux":
        with open("/proc/stat", "rb") as file:
            found = dict(re.findall(rb"^procs_(running|blocked) (\d+)", file.read(), re.MULTILINE))
        metrics.update({name.decode(): int(number) for name, number in found.items()})
        with open("/proc/loadavg", "rb") as file:
            metrics["threads"] = int(file.read().split()[3].split(b"/")[1])
    return metrics


def temperature_metrics() -> Metrics:
    read = getattr(psutil, "sensors_temperatures", None)
    metrics: Metrics = {}
    for chip, sensors in sorted((read() if read else {}).items()):
        for number, sensor in enumerate(sensors, start=1):
            key = f"{key_slug(f'{chip} {sensor.label or number}')}_c"
            if key in metrics:
                key = f"{key_slug(f'{chip} {sensor.label} {number}')}_c"
            if len(metrics) < TEMPERATURES_MAX and sensor.current is not None:
                metrics[key] = round(sensor.current, 1)
    return metrics


# --- envelopes --------------------------------------------------------------------------------------------

# A clock before this was never set: a machine without a battery starts in 1970.
CLOCK_EARLIEST_US = 1_767_225_600_000_000
CLOCK_JUMP_S = 5.0
UNDATED_MAX = 360


def time_iso(at_us: int) -> str:
    seconds, fraction = divmod(at_us, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:06d}Z"


def now_us() -> int:
    return time.time_ns() // 1000


def envelope_encode(metrics: Metrics, *, at_us: int) -> bytes:
    """One line. The same bytes are spooled, sent and sent again, so that a repetition can be recognised."""
    envelope = {"at": time_iso(at_us), "value": metrics}
    return json.dumps(envelope, separators=(",", ":"), allow_nan=False).encode("ascii")


class Dater:
    """Gives measurements their time; while the clock is unset it holds them, then dates them by age."""

    def __init__(self) -> None:
        self._undated: deque[tuple[float, Metrics]] = deque(maxlen=UNDATED_MAX)
        self._offset_s: float | None = None

    @property
    def held(self) -> int:
        return len(self._undated)

    def envelopes(self, metrics: Metrics, *, at_us: int, running_s: float) -> list[bytes]:
        self._undated.append((running_s, metrics))
        if at_us < CLOCK_EARLIEST_US:
            return []
        dated = [
            envelope_encode(value, at_us=at_us - round((running_s - measured_s) * 1_000_000))
            for measured_s, value in self._undated
        ]
        self._undated.clear()
        return dated

    def jump_s(self, *, at_us: int, running_s: float) -> float:
        """By how much the clock moved against the running time since the last call; small drift is none."""
        offset_s = at_us / 1_000_000 - running_s
        before_s, self._offset_s = self._offset_s, offset_s
        if before_s is None or abs(offset_s - before_s) < CLOCK_JUMP_S:
            return 0.0
        return offset_s - before_s


# --- spool ------------------------------------------------------------------------------------------------

BATCH_BYTES_MAX = 190 * 1024
BATCH_ENTRIES_MAX = 100
HELD_BYTES_MAX = MIB
SYNC_EVERY_S = 10.0
SEGMENT_NAME = re.compile(r"measurements-(\d{12})\.ndjson")
# A full or read-only disk at the start: keep what fits in memory and report it, rather than fall silent.
DISK_TROUBLES = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO})


class Batch(NamedTuple):
    """What one publish carries: `lines` of the oldest segment, of which `entries` were whole."""

    payload: bytes
    lines: int
    entries: int


class Segment:
    """A file of one entry a line, followed by what the disk has not taken yet (`held`)."""

    def __init__(self, path: Path, *, entries: int = 0, size_bytes: int = 0, closed: bool = False) -> None:
        self.path = path
        self.entries = entries
        self.size_bytes = size_bytes
        self.closed = closed
        self.acknowledged = 0
        self.held: list[bytes] = []

    @property
    def held_bytes(self) -> int:
        return sum(len(line) + 1 for line in self.held)


class Spool:
    """Measurements the broker has not acknowledged, oldest first, on disk and bounded in bytes.

    A segment is about as long as one publish may be and is closed when it is taken, so that an
    acknowledgement is the removal of a file. A crash between the two sends the same bytes again.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.dropped = 0
        self.damaged = 0
        self.trouble = ""
        self._max_bytes = max_bytes
        self._segment_bytes = min(BATCH_BYTES_MAX, max_bytes // 8)
        self._segments: deque[Segment] = deque()
        self._next_number = 1
        self._taken: Batch | None = None
        self._synced_s = float("-inf")
        self._lock: int | None = None
        self._unsynced: set[Path] = set()
        try:
            self._open()
        except OSError as error:
            if error.errno not in DISK_TROUBLES:
                raise AgentError(f"The spool folder {folder} cannot be used: {error_text(error)}.") from error
            self.trouble = error_text(error)

    @property
    def waiting(self) -> int:
        return sum(segment.entries - segment.acknowledged for segment in self._segments)

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self._segments)

    def append(self, line: bytes) -> None:
        """Keeps one entry; drops the oldest where the bound asks for it. A full disk does not raise."""
        while self.size_bytes + len(line) + 1 > self._max_bytes and self._drop_oldest():
            pass
        segment = self._segment_for(len(line) + 1)
        segment.held.append(line)
        segment.entries += 1
        segment.size_bytes += len(line) + 1
        while not self._settle() and self._held_bytes() > HELD_BYTES_MAX and self._drop_oldest():
            pass

    def take(self) -> Batch | None:
        """The oldest entries as one payload; they stay, and there is no other batch, until `acknowledge`."""
        while self._segments and self._taken is None:
            segment = self._segments[0]
            segment.closed = True
            try:
                lines = lines_that_fit(self._lines(segment)[segment.acknowledged :])
            except OSError as error:
                self._set_aside(segment, error=error)
                continue
            whole = [line for line in lines if entry_is_whole(line)]
            self.damaged += len(lines) - len(whole)
            batch = Batch(payload=payload_of(whole), lines=len(lines), entries=len(whole))
            if not whole:
                self._remove_lines(batch)
                continue
            self._taken = batch
            return batch
        return None

    def acknowledge(self) -> None:
        """The broker has the taken batch: forget it."""
        if self._taken is not None:
            self._remove_lines(self._taken)
            self._taken = None

    def close(self) -> None:
        if self._settle():
            try:
                self._sync()
            except OSError as error:
                self.trouble = error_text(error)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise AgentError(
                f"Another agent uses the spool folder {self.folder}; stop it or name another with --spool."
            ) from error
        for path in sorted(self.folder.iterdir()):
            match = SEGMENT_NAME.fullmatch(path.name)
            if match:
                self._segments.append(segment_found(path))
                self._next_number = int(match[1]) + 1
        # Only the newest is written to again, and not behind a torn line.
        for segment in list(self._segments)[:-1]:
            segment.closed = True
        self.dropped = count_read(self.folder / "dropped")

    def _segment_for(self, size_bytes: int) -> Segment:
        last = self._segments[-1] if self._segments else None
        if (
            last is None
            or last.closed
            or last.entries >= BATCH_ENTRIES_MAX
            or (last.size_bytes + size_bytes > self._segment_bytes)
        ):
            last = Segment(self.folder / f"measurements-{self._next_number:012d}.ndjson")
            self._next_number += 1
            self._segments.append(last)
        return last

    def _settle(self) -> bool:
        """Writes what is only in memory; says whether the disk has everything."""
        try:
            for segment in self._segments:
                if segment.held:
                    self._write(segment)
            # A single entry is acknowledged in a moment as a rule; a second one means the broker is away.
            if self.waiting > 1 and time.monotonic() - self._synced_s >= SYNC_EVERY_S:
                self._sync()
        except OSError as error:
            self.trouble = error_text(error)
            return False
        self.trouble = ""
        return True

    def _write(self, segment: Segment) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = memoryview(b"".join(line + b"\n" for line in segment.held))
        with open(segment.path, "ab", buffering=0) as file:
            size_before = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                # Half a line must not stay before the next one; shortening works on a full disk too.
                file.truncate(size_before)
                raise
        segment.held.clear()
        self._unsynced.add(segment.path)

    def _sync(self) -> None:
        """Survive a power cut, not only a crash of this program."""
        self._synced_s = time.monotonic()
        if not self._unsynced:
            return
        for path in (*self._unsynced, self.folder):
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                # Somebody removed it; that is found out when it is to be sent.
                continue
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._unsynced.clear()

    def _lines(self, segment: Segment) -> list[bytes]:
        try:
            lines = segment.path.read_bytes().splitlines()
        except FileNotFoundError:
            # Never written, or somebody removed it.
            lines = []
            self.damaged += segment.entries - len(segment.held)
        lines += segment.held
        segment.entries = len(lines)
        return lines

    def _set_aside(self, segment: Segment, *, error: OSError) -> None:
        """An unreadable file must not hold up the others; it stays on the disk for the next start."""
        self.damaged += segment.entries - segment.acknowledged
        self.trouble = error_text(error)
        self._segments.remove(segment)

    def _remove_lines(self, batch: Batch) -> None:
        segment = self._segments[0]
        segment.acknowledged += batch.lines
        if segment.acknowledged >= segment.entries:
            self._segments.popleft()
            self._unlink(segment)

    def _drop_oldest(self) -> bool:
        """Makes room; the batch that is under way stays, since it may be acknowledged any moment."""
        position = 1 if self._taken is not None else 0
        if len(self._segments) <= position:
            return False
        segment = self._segments[position]
        del self._segments[position]
        self.dropped += segment.entries - segment.acknowledged
        self._unlink(segment)
        count_write(self.folder / "dropped", count=self.dropped)
        return True

    def _unlink(self, segment: Segment) -> None:
        self._unsynced.discard(segment.path)
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            self.trouble = error_text(error)

    def _held_bytes(self) -> int:
        return sum(segment.held_bytes for segment in self._segments)


def segment_found(path: Path) -> Segment:
    content = path.read_bytes()
    torn = bool(content) and not content.endswith(b"\n")
    return Segment(path, entries=len(content.splitlines()), size_bytes=len(content), closed=torn)


def lines_that_fit(lines: list[bytes]) -> list[bytes]:
    """As many as one publish may carry, but one at least, or nothing would ever move."""
    size_bytes = 2
    for number, line in enumerate(lines[:BATCH_ENTRIES_MAX]):
        size_bytes += len(line) + 1
        if size_bytes > BATCH_BYTES_MAX:
            return lines[: max(1, number)]
    return lines[:BATCH_ENTRIES_MAX]


def entry_is_whole(line: bytes) -> bool:
    if len(line) > BATCH_BYTES_MAX:
        return False
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and entry.keys() == {"at", "value"}


def payload_of(entries: list[bytes]) -> bytes:
    """One envelope as it is, several as an array."""
    return entries[0] if len(entries) == 1 else b"[" + b",".join(entries) + b"]"


def count_read(path: Path) -> int:
    try:
        return int(path.read_bytes()[:20])
    except (OSError, ValueError):
        return 0


def count_write(path: Path, *, count: int) -> None:
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(f"{count}\n", encoding="ascii")
        new.replace(path)
    except OSError:
        # A full disk: the count lives on in memory and is written with the next one.
        return


# --- link -------------------------------------------------------------------------------------------------

KEEPALIVE_S = 30
CONNECTED, UNREACHABLE, REFUSED, LOST, ACKNOWLEDGED, STOP, BROKEN = (
    "connected",
    "unreachable",
    "refused",
    "lost",
    "acknowledged",
    "stop",
    "broken",
)


class Event(NamedTuple):
    kind: str
    text: str = ""
    number: int = 0


def chance() -> int:
    return os.urandom(1)[0]


class Link:
    """The connection. Its callbacks run in the library's thread and only report events."""

    def __init__(self, options: Options, *, events: queue.SimpleQueue[Event], client_id: str) -> None:
        self._events = events
        self._topic_json = f"{options.token}/json/{options.device}"
        self._topic_state = f"{options.token}/state/{options.device}"
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311)
        client.username_pw_set(options.user, options.token)
        if options.tls:
            self._tls_use(client, ca_file=options.ca_file)
        # Not all agents of a fleet at the same moment, after their broker has come back.
        client.reconnect_delay_set(min_delay=1 + chance() % 2, max_delay=45 + chance() % 30)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.connect_async(options.host, options.port, keepalive=KEEPALIVE_S)
        self._client = client

    def start(self) -> None:
        # paho's thread would die with a traceback, and we would measure for nobody.
        threading.excepthook = lambda thrown: self._events.put(
            Event(BROKEN, text=f"{thrown.exc_type.__name__}: {thrown.exc_value}")
        )
        self._client.loop_start()

    def publish_measurements(self, payload: bytes) -> int:
        """The number its acknowledgement will carry. The library repeats the message after a reconnect."""
        return self._client.publish(self._topic_json, payload, qos=1).mid

    def publish_state(self, pairs: Mapping[str, object]) -> int:
        return self._client.publish(self._topic_state, urlencode(pairs).encode("ascii"), qos=1).mid

    def leave(self) -> None:
        self._client.disconnect()

    def break_off(self) -> None:
        """Close the socket under the library: it connects again and repeats what is unacknowledged."""
        connection = self._client.socket()
        if not isinstance(connection, socket.socket):
            return
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _tls_use(self, client: mqtt.Client, *, ca_file: Path | None) -> None:
        try:
            client.tls_set(ca_certs=str(ca_file) if ca_file else None)
        except OSError as error:
            raise OptionError(f"The file {ca_file} (--ca-file) holds no usable certificate.") from error

    def _on_connect(
        self, client: object, userdata: object, flags: object, reason: Any, properties: object
    ) -> None:
        self._events.put(Event(REFUSED, text=str(reason)) if reason.is_failure else Event(CONNECTED))

    def _on_connect_fail(self, client: object, userdata: object) -> None:
        # The library calls this while it handles the error and does not pass it on.
        error = sys.exc_info()[1]
        self._events.put(Event(UNREACHABLE, text=error_text(error) if error else "no reason given"))

    def _on_disconnect(
        self, client: object, userdata: object, flags: object, reason: Any, properties: object
    ) -> None:
        self._events.put(Event(LOST, text=str(reason)))

    def _on_publish(
        self, client: object, userdata: object, mid: int, reason: object, properties: object
    ) -> None:
        self._events.put(Event(ACKNOWLEDGED, number=mid))


def refusal_text(options: Options, *, reason: str) -> str:
    text = f"The broker at {options.broker} refused this agent ({reason})."
    if reason in ("Not authorized", "Bad user name or password"):
        text += f" Check the user id ({options.user}) and the device token."
    return text


def unreachable_text(options: Options, *, reason: str) -> str:
    return f"The broker at {options.broker} cannot be reached: {reason}."


def closed_early_text(options: Options) -> str:
    advice = "speaks MQTT without TLS" if options.tls else "wants TLS (--tls)"
    return f"{options.broker} closed the connection before answering; perhaps it is no MQTT port or {advice}."


# --- the agent --------------------------------------------------------------------------------------------

QUICK_LOSS_S = 10.0
QUICK_LOSSES_SUSPICIOUS = 3


class Agent:
    """Measures every interval, keeps, sends one batch at a time and forgets what was acknowledged."""

    def __init__(self, options: Options, *, spool: Spool, events: queue.SimpleQueue[Event], log: Log) -> None:
        self._options = options
        self._spool = spool
        self._events = events
        self._log = log
        self._link = Link(options, events=events, client_id=f"{options.user}-{options.device}")
        self._collector = Collector(log=log, boot=BootWatch(options.spool))
        self._dater = Dater()
        self._connected_s: float | None = None
        self._refused = False
        self._quick_losses = 0
        self._under_way: tuple[int, Batch, float] | None = None
        self._state_mid = 0
        self._state_sent_s = float("-inf")
        self._acknowledged = 0
        self._stopped_by = ""
        self._failed = False

    def run(self) -> int:
        """Works until a signal arrives; the exit status."""
        self.start()
        due_s = time.monotonic() + min(BASELINE_S, self._options.interval_s)
        while not self._stopped_by:
            self.handle_next(timeout_s=due_s - time.monotonic())
            if not self._stopped_by and time.monotonic() >= due_s:
                self.measure()
                due_s = self._due_after(due_s)
        self.finish()
        return EXIT_FAILED if self._failed else EXIT_OK

    def start(self) -> None:
        self._announce()
        self._link.start()

    def measure(self) -> None:
        metrics = self._collector.collect()
        at_us, running_s = now_us(), time.monotonic()
        jump_s = self._dater.jump_s(at_us=at_us, running_s=running_s)
        if jump_s:
            self._log.say(f"The clock moved by {jump_s:+.0f} s (it was set, or the machine slept).")
        dropped = self._spool.dropped
        for line in self._dater.envelopes(metrics, at_us=at_us, running_s=running_s):
            self._spool.append(line)
        self._report_trouble(dropped_now=self._spool.dropped - dropped, now_s=running_s)
        self._check_patience(now_s=running_s)
        self._send()

    def _announce(self) -> None:
        waiting = f", {self._spool.waiting} measurements waiting from before" if self._spool.waiting else ""
        self._log.say(
            f"Version {VERSION} reports {self._options.device} to {self._options.broker} every "
            f"{self._options.interval_s:g} s, spool {self._spool.folder}{waiting}."
        )

    def _due_after(self, due_s: float) -> float:
        """The next beat; beats missed while the machine slept are left out."""
        now_s = time.monotonic()
        interval_s = self._options.interval_s
        return due_s + interval_s if due_s + interval_s > now_s else now_s + interval_s

    def handle_next(self, *, timeout_s: float) -> Event | None:
        """Takes one event and acts on it; None when none came in time."""
        try:
            event = self._events.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        handlers = {
            CONNECTED: self._on_connected,
            UNREACHABLE: self._on_unreachable,
            REFUSED: self._on_refused,
            LOST: self._on_lost,
            ACKNOWLEDGED: self._on_acknowledged,
            STOP: self._on_stop,
            BROKEN: self._on_broken,
        }
        handlers[event.kind](event)
        return event

    def _on_connected(self, event: Event) -> None:
        self._connected_s = time.monotonic()
        self._refused = False
        if self._under_way:
            self._under_way = (*self._under_way[:2], self._connected_s)
        self._state_sent_s = float("-inf")
        waiting = f"; {self._spool.waiting} measurements are waiting" if self._spool.waiting > 1 else ""
        self._log.repeat(
            "connected",
            f"Connected to {self._options.broker}{waiting}.",
            now_s=self._connected_s,
            after_s=CONNECTION_AFTER_S,
        )
        self._send()

    def _on_unreachable(self, event: Event) -> None:
        self._complain(unreachable_text(self._options, reason=event.text), key=f"unreachable {event.text}")

    def _on_refused(self, event: Event) -> None:
        self._refused = True
        self._complain(refusal_text(self._options, reason=event.text), key=f"refused {event.text}")

    def _on_lost(self, event: Event) -> None:
        if self._stopped_by:
            self._connected_s = None
            return
        if self._connected_s is None:
            if not self._refused:
                self._complain(closed_early_text(self._options), key="closed early")
            return
        self._complain(
            f"The connection to {self._options.broker} is lost ({event.text}).",
            key="lost",
            after_s=CONNECTION_AFTER_S,
        )
        self._suspect_double(lasted_s=time.monotonic() - self._connected_s)
        self._connected_s = None

    def _suspect_double(self, *, lasted_s: float) -> None:
        self._quick_losses = self._quick_losses + 1 if lasted_s < QUICK_LOSS_S else 0
        if self._quick_losses >= QUICK_LOSSES_SUSPICIOUS:
            self._log.repeat(
                "double",
                "Connections end soon after they begin: does another agent use the device id "
                f"{self._options.device}?",
                now_s=time.monotonic(),
            )

    def _on_acknowledged(self, event: Event) -> None:
        if event.number == self._state_mid:
            self._state_mid = 0
        if self._under_way and event.number == self._under_way[0]:
            self._acknowledged += self._under_way[1].entries
            self._under_way = None
            self._spool.acknowledge()
            self._send()

    def _on_stop(self, event: Event) -> None:
        self._stopped_by = signal.Signals(event.number).name

    def _on_broken(self, event: Event) -> None:
        self._failed = True
        self._stopped_by = f"an error in the MQTT library ({event.text})"

    def _complain(self, text: str, *, key: str, after_s: float = REPEAT_AFTER_S) -> None:
        self._log.repeat(
            key,
            f"{text} Measurements are kept ({self._spool.waiting} waiting), trying again.",
            now_s=time.monotonic(),
            after_s=after_s,
        )

    def _send(self) -> None:
        """One batch at a time, in order: the next one goes out when this one is acknowledged."""
        if self._connected_s is None or self._stopped_by:
            return
        now_s = time.monotonic()
        if now_s - self._state_sent_s >= STATE_EVERY_S and not self._state_mid:
            self._state_sent_s = now_s
            self._state_mid = self._link.publish_state(self._state())
        batch = self._spool.take() if self._under_way is None else None
        if batch:
            self._under_way = (self._link.publish_measurements(batch.payload), batch, now_s)

    def _state(self) -> dict[str, object]:
        return state_pairs(
            interval_s=self._options.interval_s,
            spooled=self._spool.waiting,
            dropped=self._spool.dropped,
            damaged=self._spool.damaged,
            clock=time_iso(now_us()),
        )

    def _check_patience(self, *, now_s: float) -> None:
        """A broker that answers pings but never acknowledges gets a new connection."""
        if self._under_way and self._connected_s is not None and now_s - self._under_way[2] > ACK_PATIENCE_S:
            self._under_way = (*self._under_way[:2], now_s)
            self._log.repeat(
                "patience",
                f"{self._options.broker} has not acknowledged for {ACK_PATIENCE_S:.0f} s; connecting again.",
                now_s=now_s,
            )
            self._link.break_off()

    def _report_trouble(self, *, dropped_now: int, now_s: float) -> None:
        if self._spool.trouble:
            text = (
                f"The disk does not take measurements ({self._spool.trouble}); the newest are kept in memory."
            )
            self._log.repeat(f"disk {self._spool.trouble}", text, now_s=now_s)
        if dropped_now:
            self._log.repeat(
                "dropped",
                f"The spool is full: the oldest measurements are dropped, {self._spool.dropped} so far.",
                now_s=now_s,
            )
        if self._dater.held:
            self._log.repeat(
                "clock", "The clock was never set; measurements wait for the right time.", now_s=now_s
            )

    def finish(self) -> None:
        """A last acknowledgement may be on its way; but a stop may not take longer than a second."""
        until_s = time.monotonic() + FAREWELL_S
        while self._connected_s is not None and self._under_way and time.monotonic() < until_s:
            self.handle_next(timeout_s=until_s - time.monotonic())
        self._link.leave()
        until_s = time.monotonic() + FAREWELL_S
        while self._connected_s is not None and time.monotonic() < until_s:
            self.handle_next(timeout_s=until_s - time.monotonic())
        self._spool.close()
        self._log.say(
            f"Stopped by {self._stopped_by}: {self._acknowledged} measurements acknowledged, "
            f"{self._spool.waiting} kept in {self._spool.folder}, {self._spool.dropped} dropped."
        )


def state_pairs(
    *, interval_s: float, spooled: int, dropped: int, damaged: int, clock: str
) -> dict[str, object]:
    system = os.uname()
    return {
        "agent_version": VERSION,
        "hostname": key_clean(system.nodename),
        "os": operating_system(),
        "kernel": system.release,
        "architecture": system.machine,
        "interval_s": f"{interval_s:g}",
        "spooled": spooled,
        "dropped": dropped,
        "damaged": damaged,
        "clock": clock,
    }


@functools.lru_cache(maxsize=1)
def operating_system() -> str:
    for path in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        try:
            found = re.search(
                r"^PRETTY_NAME=[\"']?([^\"'\n]+)", path.read_text("utf-8", "replace"), re.MULTILINE
            )
        except OSError:
            continue
        if found:
            return found[1]
    return os.uname().sysname


# --- start ------------------------------------------------------------------------------------------------

ONCE_PATIENCE_S = 15.0


def measurement_single(log: Log) -> bytes:
    """One measurement with rates over a short first span."""
    collector = Collector(log=log)
    time.sleep(BASELINE_S)
    metrics = collector.collect()
    return envelope_encode(metrics, at_us=now_us())


def show_once(log: Log) -> int:
    try:
        print(json.dumps(json.loads(measurement_single(log)), indent=2), flush=True)
    except BrokenPipeError:
        # The reader had enough (`| head`); keep the interpreter from complaining when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def send_once(options: Options, *, log: Log) -> int:
    """Touches no spool and has its own client id, so that it may run beside the agent of the same device."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    client_id = f"{options.user}-{options.device}-once-{os.urandom(4).hex()}"
    link = Link(options, events=events, client_id=client_id)
    payload = measurement_single(log)
    until_s = time.monotonic() + ONCE_PATIENCE_S
    connected = False
    link.start()
    while True:
        try:
            event = events.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            log.say(f"{options.broker} has not acknowledged within {ONCE_PATIENCE_S:.0f} s.")
            return EXIT_FAILED
        if event.kind == CONNECTED:
            connected = True
            link.publish_measurements(payload)
        elif event.kind == ACKNOWLEDGED:
            link.leave()
            log.say(f"{options.broker} acknowledged one measurement of {options.device}.")
            return EXIT_OK
        else:
            log.say(once_failure_text(options, event=event, connected=connected))
            return EXIT_FAILED


def once_failure_text(options: Options, *, event: Event, connected: bool) -> str:
    if connected and event.kind == LOST:
        return f"{options.broker} closed the connection instead of acknowledging ({event.text})."
    texts = {
        UNREACHABLE: unreachable_text(options, reason=event.text),
        REFUSED: refusal_text(options, reason=event.text),
        LOST: closed_early_text(options),
    }
    return texts.get(event.kind, f"The MQTT library failed: {event.text}.")


def signals_to(events: queue.SimpleQueue[Event]) -> None:
    """The first signal asks for an orderly stop, a second one ends at once."""

    def stop(number: int, frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        events.put(Event(STOP, number=number))

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)


def agent_run(options: Options, *, log: Log) -> int:
    if options.show:
        return show_once(log)
    if file_is_open_to_others(options.secret_file):
        log.say(
            f"Everybody on this machine can read the device token in {options.secret_file}; chmod it to 600."
        )
    if options.once:
        return send_once(options, log=log)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    spool = Spool(options.spool, max_bytes=options.spool_max_bytes)
    agent = Agent(options, spool=spool, events=events, log=log)
    signals_to(events)
    return agent.run()


def main(arguments: list[str] | None = None) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Spooled measurements are nobody else's business.
    os.umask(0o077)
    log = Log()
    try:
        options = options_read(sys.argv[1:] if arguments is None else arguments, environment=os.environ)
        return agent_run(options, log=log)
    except OptionError as error:
        log.say(str(error))
        return EXIT_USAGE
    except AgentError as error:
        log.say(str(error))
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
