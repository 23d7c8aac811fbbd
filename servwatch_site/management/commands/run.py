"""`manage.py run`: everything on this machine, on embedded defaults, until Ctrl-C. `make run` calls it."""

import os
import signal
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import Error as DatabaseError
from django.db import connection

from servwatch_site.embedded import parts, ports
from servwatch_site.embedded.banner import banner
from servwatch_site.embedded.console import Console
from servwatch_site.embedded.data_folder import held
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.mosquitto_programs import find_broker, find_publisher
from servwatch_site.embedded.parts import Installation
from servwatch_site.embedded.supervisor import Supervisor
from servwatch_site.first_run import FirstRun, prepare
from servwatch_site.loop import StopFlag

READY_PATIENCE_S = 60.0


class Command(BaseCommand):
    help = "Start database, broker, web, listener, worker and agent on this machine, until Ctrl-C."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        installation = Installation(
            data_dir=settings.DATA_DIR,
            http_host=settings.HTTP_HOST,
            http_port=settings.HTTP_PORT,
            mqtt_host=settings.MQTT_HOST,
            mqtt_port=settings.MQTT_PORT,
            own_database=not os.environ.get("DATABASE_URL"),
            own_broker=not os.environ.get("MQTT_URL"),
            mqtt_ws_port=settings.MQTT_WS_PORT,
        )
        _set_environment(installation)
        try:
            with held(installation.data_dir):
                self._run(installation)
        except EmbeddedError as error:
            self.stderr.write(str(error))
            sys.exit(1)

    def _run(self, installation: Installation) -> None:
        console = Console(sys.stdout)
        stop = StopFlag().install()
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup, and stays so
            signal.signal(signal.SIGHUP, lambda _number, _frame: stop.set())
        supervisor = Supervisor(installation.data_dir, console, stop)
        supervisor.end_leftovers()
        _check_ports(installation)
        try:
            if self._start(installation, supervisor, console):
                supervisor.watch()
        finally:
            console.say("Stopping.")
            supervisor.shut_down()
        console.say("Stopped. All data is kept.")

    def _start(self, installation: Installation, supervisor: Supervisor, console: Console) -> bool:
        """Everything in its order; false when a stop came first."""
        if installation.own_broker:  # a missing one is said before anything starts
            find_broker(installation.data_dir, say=console.say)
        console.say("Starting.")
        database = parts.database(installation, say=console.say)
        if installation.own_database and not supervisor.start_stage([database]):
            return False
        call_command("collectstatic", verbosity=0, interactive=False)
        run = _prepare(installation)
        if installation.own_broker and not supervisor.start_stage([parts.broker(installation)]):
            return False
        listeners = [parts.listener(number + 1) for number in range(settings.LISTENERS)]
        services = [*listeners, parts.worker(), parts.web(installation)]
        if not supervisor.start_stage(services, patience_s=READY_PATIENCE_S):
            return False
        if not supervisor.start_stage([parts.agent(installation)]):
            return False
        console.say(banner(run, data_dir=installation.data_dir, publisher=_publisher(installation.data_dir)))
        return True


def _set_environment(installation: Installation) -> None:
    """For this process and all children."""
    os.umask(0o077)
    os.environ["SERVWATCH_DATA_DIR"] = str(installation.data_dir)
    if not installation.own_database:
        return
    for name in [name for name in os.environ if name.startswith("PG") and name.isalpha()]:
        del os.environ[name]  # PGPORT and the like would lead past our own server


def _check_ports(installation: Installation) -> None:
    wanted = {"SERVWATCH_HTTP_PORT": installation.http_port}
    if installation.own_broker:
        wanted["SERVWATCH_MQTT_PORT"] = installation.mqtt_port
        if installation.mqtt_ws_port:
            wanted["SERVWATCH_MQTT_WS_PORT"] = installation.mqtt_ws_port
    for (one, port), (other, other_port) in combinations(wanted.items(), 2):
        if port == other_port:
            raise EmbeddedError(f"{one} and {other} are both {port}; they must differ.")
    ports.check_free(
        host=installation.http_host,
        port=installation.http_port,
        purpose="the console",
        setting="SERVWATCH_HTTP_PORT",
        host_setting="SERVWATCH_HTTP_HOST",
    )
    if installation.own_broker:
        ports.check_free(
            host=installation.mqtt_host,
            port=installation.mqtt_port,
            purpose="MQTT",
            setting="SERVWATCH_MQTT_PORT",
            host_setting="SERVWATCH_MQTT_HOST",
        )
        if installation.mqtt_ws_port:
            ports.check_free(
                host=installation.mqtt_host,
                port=installation.mqtt_ws_port,
                purpose="MQTT over WebSocket",
                setting="SERVWATCH_MQTT_WS_PORT",
                host_setting="SERVWATCH_MQTT_HOST",
            )


def _prepare(installation: Installation) -> FirstRun:
    """Bring the database up to date and make the first account."""
    broker = urlsplit(settings.MQTT_URL)
    try:
        call_command("migrate", verbosity=0, interactive=False)
        return prepare(
            base_url=settings.BASE_URL,
            mqtt_host=broker.hostname or installation.mqtt_host,
            mqtt_port=broker.port or installation.mqtt_port,
            data_dir=installation.data_dir,
        )
    except DatabaseError as error:
        log = installation.data_dir / "log" / "postgres.log"
        hint = f"{log} may say more" if installation.own_database else "Start it, or correct DATABASE_URL"
        said = " ".join(str(error).split()).rstrip("?.")
        raise EmbeddedError(f"The database cannot be prepared: {said}. {hint}.") from error
    finally:
        connection.close()


def _publisher(data_dir: Path) -> str:
    program = find_publisher(data_dir, say=lambda _sentence: None)
    return program.shell_words() if program else "mosquitto_pub"
