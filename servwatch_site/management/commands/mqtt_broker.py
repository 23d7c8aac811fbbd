"""`manage.py mqtt_broker`: Mosquitto with the accounts of the database, kept up to date.

One process on the broker's host writes the accounts. Here it also runs Mosquitto as its child; with `--pid-file` it
serves a Mosquitto that the system runs.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.utils import timezone

from devices.broker import BrokerLogin, broker_accounts
from devices.broker_log import BrokerLog
from servwatch_site.embedded.broker_accounts import problem, write_accounts
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.mosquitto import Broker, Listener, connected_peers
from servwatch_site.embedded.mosquitto_programs import find_broker
from servwatch_site.loop import StopFlag
from tokens.config import config_version
from tokens.crypto import purpose_key

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
WRITE_EVERY_S = 0.2
LAST_WRITE_S = 2.0
STDERR = 2  # where the lines of a child without a pipe would go


class Command(BaseCommand):
    help = "Run Mosquitto with Servwatch's accounts, or keep the accounts of a running one up to date."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dir", type=Path, default=None, help="folder of the broker's files")
        parser.add_argument(
            "--pid-file",
            type=Path,
            default=None,
            help="start no broker: write the accounts and reload this one",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        folder = (options["dir"] or settings.DATA_DIR / "broker").absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stop = StopFlag().install()
        try:
            if options["pid_file"] is not None:
                self._serve_running(folder, options["pid_file"], stop)
            else:
                self._run_own(folder, stop)
        except EmbeddedError as error:
            raise CommandError(str(error)) from None

    def _run_own(self, folder: Path, stop: StopFlag) -> None:
        program = find_broker(settings.DATA_DIR, say=self.stdout.write)
        log = BrokerLog()
        broker = Broker(
            program,
            directory=folder,
            listeners=_listeners(),
            on_line=lambda line: _note(log, line),
            queue_bytes=settings.BROKER_QUEUE_BYTES,
        )
        accounts = _Accounts(
            lambda logins: broker.write_accounts(logins, secret=_salt()), warn=self.stderr.write
        )
        sessions = _Sessions(log, warn=self.stderr.write)
        while not (accounts.follow() and sessions.begin()) and not stop.wait(LOOK_EVERY_S):
            pass  # without accounts there is nobody to let in: wait for the database
        if stop.is_set():
            return
        sessions.start()
        try:
            broker.start(say=self.stdout.write, should_stop=stop.is_set)
            while not stop.wait(LOOK_EVERY_S):
                code = broker.exit_code()
                if code is not None:
                    raise CommandError(f"Mosquitto ended with code {code}.")
                accounts.follow()
                broker.reload_if_due()
        finally:
            broker.stop()
            sessions.end()
        self.stdout.write("Broker stopped.")

    def _serve_running(self, folder: Path, pid_file: Path, stop: StopFlag) -> None:
        def write(logins: list[BrokerLogin]) -> None:
            if write_accounts(folder, logins, secret=_salt()):
                _reload(pid_file)

        accounts = _Accounts(write, warn=self.stderr.write)
        if accounts.follow():
            _reload(pid_file)  # also what an earlier run wrote and could not tell
        while not stop.wait(1.0):  # a reload a second at most
            accounts.follow()


class _Accounts:
    """Writes the broker's accounts when the configuration has changed; an outage of the database changes nothing."""

    def __init__(self, write: Callable[[list[BrokerLogin]], None], *, warn: Callable[[str], Any]) -> None:
        self._write = write
        self._warn = warn
        self._version = -1
        self._warned = False

    def follow(self) -> bool:
        """Whether the accounts on disk are those of the database, as far as it answers."""
        try:
            version = config_version()
            if version != self._version:
                self._write([login for login in broker_accounts() if self._is_usable(login)])
                self._version = version
        except DatabaseError:
            connection.close()
            if not self._warned:
                self._warn("The database does not answer; the broker keeps the accounts it has.")
            self._warned = True
            return self._version >= 0
        self._warned = False
        return True

    def _is_usable(self, login: BrokerLogin) -> bool:
        """One entry that cannot stand in the files must not keep the revocation of another from working."""
        found = problem(login)
        if found is not None:
            self._warn(f"ERROR: {found} It is left out.")
        return found is None


class _Sessions(threading.Thread):
    """Writes what the broker's log tells, apart from the accounts: neither waits for the other."""

    def __init__(self, log: BrokerLog, *, warn: Callable[[str], Any]) -> None:
        super().__init__(name="sessions", daemon=True)
        self._log = log
        self._warn = warn
        self._warned = False
        self._ended = threading.Event()

    def begin(self) -> bool:
        """Before the broker starts: whoever an earlier one had is gone. False while the database is away."""
        return self._in_database(self._log.load) and self._write(clear=True)

    def run(self) -> None:
        try:
            while not self._ended.wait(WRITE_EVERY_S):
                self._settle()
                if self._log.waiting:
                    self._write()
            self._write(clear=True)
        finally:
            connection.close()

    def end(self) -> None:
        """After the broker has ended. A database that is away learns it at the next start."""
        self._ended.set()
        self.join(timeout=LAST_WRITE_S)

    def _settle(self) -> None:
        if doubtful := self._log.doubtful(now=timezone.now()):
            self._log.settle(doubtful, connections=connected_peers())

    def _write(self, *, clear: bool = False) -> bool:
        if clear:
            self._log.clear()
        while self._log.waiting:
            if not self._in_database(self._log.write):
                return False
            self._log.committed()
            if not clear:
                break
        return True

    def _in_database(self, work: Callable[[Any], None]) -> bool:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                work(cursor)
        except DatabaseError as error:
            connection.close()
            if not self._warned:
                kind = type(error).__name__
                self._warn(
                    f"The database does not take the sessions ({kind}); they are written when it does."
                )
            self._warned = True
            return False
        self._warned = False
        return True


def _listeners() -> tuple[Listener, ...]:
    mqtt = Listener(settings.MQTT_HOST, settings.MQTT_PORT)
    if not settings.MQTT_WS_PORT:
        return (mqtt,)
    return (mqtt, Listener(settings.MQTT_HOST, settings.MQTT_WS_PORT, websockets=True))


def _note(log: BrokerLog, line: bytes) -> None:
    """Take a line, and pass it on when it holds no token. Whatever happens the broker must not wait for us."""
    try:
        if log.note(line, at=timezone.now()):
            os.write(STDERR, line)
    except Exception:
        logger.exception("A line of the broker's log could not be taken.")


def _reload(pid_file: Path) -> None:
    try:
        os.kill(int(pid_file.read_text(encoding="ascii").strip()), signal.SIGHUP)
    except (OSError, ValueError) as error:
        raise EmbeddedError(f"The broker of {pid_file} cannot be told to reload: {error}") from None


def _salt() -> str:
    return purpose_key("broker-salts").hex()
