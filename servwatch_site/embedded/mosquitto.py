"""The embedded broker: its configuration, its accounts, and the process itself."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from servwatch_site.embedded import processes
from servwatch_site.embedded.broker_accounts import Account, BrokerAccount, write_accounts
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.leftovers import Leftovers
from servwatch_site.embedded.mosquitto_programs import Program

__all__ = ["Broker", "BrokerAccount", "Listener", "render_config", "write_accounts"]

PAYLOAD_MAX_BYTES = 1024 * 1024
# A packet is a payload, a topic of at most 64 KiB with its length, and the header.
PACKET_MAX_BYTES = PAYLOAD_MAX_BYTES + 64 * 1024 + 16
AUTOSAVE_S = 5
RELOAD_PAUSE_S = 1.0
STOP_S = 8.0
LAST_WORDS_S = 1.0
LINE_MAX_BYTES = 64 * 1024
# A queued message of 200 bytes takes about four times as much memory; the queue may fill a quarter of it.
QUEUE_SHARE = 16
QUEUE_MIN_BYTES = 64 * 1024 * 1024

# As root: keep the owner of the files and give up every power of root but low ports.
POWERLESS = ("setpriv", "--bounding-set=-all,+net_bind_service", "--inh-caps=-all", "--no-new-privs")

CONFIG = """\
# Written by Servwatch at every start; changes here are lost.
{listeners}
allow_anonymous false
password_file {directory}/passwords
acl_file {directory}/acl
{user}
# Nothing that was acknowledged to a device may be lost while the listener is away.
persistence true
persistence_location {directory}/
autosave_interval {autosave_s}
# Bytes are the bound. The number only must not be 0, which means "no bound" for the queue, but makes Mosquitto
# 2.0 cut the connection of every client that publishes to a topic it may not.
max_queued_messages 100000000
max_queued_bytes {queue_bytes}
max_inflight_messages 1000
max_packet_size {packet_bytes}
set_tcp_nodelay true

# Connects, disconnects, refusals and subscriptions; the last hold device tokens.
log_dest stderr
{log_topic}log_type error
log_type warning
log_type notice
log_type subscribe
log_type unsubscribe
connection_messages true
log_timestamp true
log_timestamp_format %Y-%m-%dT%H:%M:%S
sys_interval 2
"""


@dataclass(frozen=True)
class Listener:
    host: str
    port: int
    websockets: bool = False


def render_config(
    *,
    directory: Path,
    listeners: Iterable[Listener],
    queue_bytes: int,
    as_root: bool,
    log_topic: bool = True,
) -> str:
    """The whole configuration. Paths may hold spaces, a line break they cannot.

    `log_topic`: the log is on `$SYS/broker/log/#` too, for whoever may read that.
    """
    if "\n" in str(directory):
        raise EmbeddedError(
            f"Mosquitto cannot keep its files in {str(directory)!r}: there is a line break in it."
        )
    return CONFIG.format(
        listeners="\n".join(_listener_lines(listener) for listener in listeners),
        directory=directory,
        user="user root\n" if as_root else "",
        autosave_s=AUTOSAVE_S,
        queue_bytes=queue_bytes,
        packet_bytes=PACKET_MAX_BYTES,
        log_topic="log_dest topic\n" if log_topic else "",
    )


def queue_bytes_for(memory_bytes: int) -> int:
    return max(QUEUE_MIN_BYTES, memory_bytes // QUEUE_SHARE)


def memory_bytes() -> int:
    """The machine's memory, or the container's where that is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


class Broker:
    """Mosquitto as a child that ends with this process.

    `on_line` gets every line it says, in a thread of its own, and must be quick: the broker waits for it. Without
    one its lines go where ours go, and onto the log topic. `queue_bytes`: what it keeps for a session; by default as
    the machine's memory allows.
    """

    def __init__(
        self,
        program: Program,
        *,
        directory: Path,
        listeners: tuple[Listener, ...],
        on_line: Callable[[bytes], None] | None = None,
        queue_bytes: int | None = None,
    ) -> None:
        self._program = program
        self._queue_bytes = queue_bytes or queue_bytes_for(memory_bytes())
        self._directory = directory
        self._listeners = listeners
        self._leftovers = Leftovers(directory / "process.json")
        self._on_line = on_line
        self._reader: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reload_wanted = False
        self._reloaded_at = 0.0

    @property
    def pid(self) -> int:
        return self._running().pid

    def write_accounts(self, accounts: Iterable[Account], *, secret: str) -> None:
        """Bring the files up to date; `reload_if_due` puts a change in force."""
        if write_accounts(self._directory, accounts, secret=secret):
            self._reload_wanted = self._process is not None

    def start(self, *, say: Callable[[str], None], should_stop: Callable[[], bool] = lambda: False) -> None:
        """Start it and wait until its ports answer. The account files must be there."""
        self._leftovers.end_all(say=say)
        config = self._directory / "mosquitto.conf"
        text = render_config(
            directory=self._directory,
            listeners=self._listeners,
            queue_bytes=self._queue_bytes,
            as_root=os.geteuid() == 0,
            log_topic=self._on_line is None,
        )
        config.touch(mode=0o600)
        config.write_text(text, encoding="utf-8")
        command = [str(self._program.path), "-c", str(config)]
        self._process = processes.spawn(
            _wrapped(command, self._directory),
            env=self._program.environment(),
            output=None if self._on_line is None else subprocess.PIPE,
        )
        if self._on_line is not None and self._process.stdout is not None:
            self._reader = threading.Thread(
                target=_read_lines,
                args=(self._process.stdout, self._on_line),
                name="log of mosquitto",
                daemon=True,
            )
            self._reader.start()
        self._leftovers.remember("mosquitto", pid=self._process.pid, stop_signal=signal.SIGTERM)
        self._reloaded_at = time.monotonic()
        self._wait_until_open(should_stop=should_stop)

    def reload_if_due(self) -> bool:
        """Let a running broker read its accounts again, at most once a second; answers whether it did."""
        if not self._reload_wanted or time.monotonic() - self._reloaded_at < RELOAD_PAUSE_S:
            return False
        self._running().send_signal(signal.SIGHUP)
        self._reload_wanted = False
        self._reloaded_at = time.monotonic()
        return True

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running().poll()

    def stop(self) -> None:
        """SIGTERM makes it save its queues first."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join(timeout=LAST_WORDS_S)
        self._process = None
        self._leftovers.forget("mosquitto")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmbeddedError("The broker has not been started.")
        return self._process

    def _wait_until_open(self, *, should_stop: Callable[[], bool]) -> None:
        """Without a time limit: reading back a large queue takes as long as it takes."""
        process = self._running()
        while not all(answers(listener.host, listener.port) for listener in self._listeners):
            if process.poll() is not None:
                if self._reader is not None:
                    self._reader.join(timeout=LAST_WORDS_S)
                raise EmbeddedError(
                    f"Mosquitto ended at once with code {process.returncode}; its lines above say why."
                )
            if should_stop():
                return
            time.sleep(processes.POLL_S)


def answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection((reachable(host), port), timeout=1):
            return True
    except OSError:
        return False


def reachable(host: str) -> str:
    """The address at which this machine reaches a server bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared only


def connected_peers() -> set[tuple[str, int]]:
    """Address and port of the other end of every connection to this machine."""
    return {
        (ipv4_mapped(other.raddr[0]), other.raddr[1])
        for other in psutil.net_connections(kind="tcp")
        if other.raddr and other.status == psutil.CONN_ESTABLISHED
    }


def ipv4_mapped(address: str) -> str:
    return address.removeprefix("::ffff:")


def _read_lines(pipe: IO[bytes], on_line: Callable[[bytes], None]) -> None:
    with pipe:
        while line := pipe.readline(LINE_MAX_BYTES):
            on_line(line)


def _listener_lines(listener: Listener) -> str:
    if not listener.websockets:
        return f"listener {listener.port} {listener.host}\nprotocol mqtt\n"
    # Mosquitto 2.0 gives the address to its WebSocket library, which opens one of the wrong family on all addresses.
    try:
        family, _kind, _protocol, _name, address = socket.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror:
        raise EmbeddedError(f"{listener.host!r} is no address of this machine.") from None
    domain = "ipv6" if family == socket.AF_INET6 else "ipv4"
    return f"listener {listener.port} {address[0]}\nsocket_domain {domain}\nprotocol websockets\n"


def _wrapped(command: list[str], directory: Path) -> list[str]:
    if os.geteuid() == 0 and shutil.which("setpriv"):
        powerless = [*POWERLESS, "--pdeathsig", "TERM", "--"]
        trial = [*powerless, "test", "-w", str(directory)]
        if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            return [*powerless, *command]
    return processes.guarded(command, death_signal=signal.SIGTERM)
