"""`manage.py run`: everything on this machine, on embedded defaults, until Ctrl-C. `make run` calls it."""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
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
        )
        os.environ["SERVWATCH_DATA_DIR"] = str(installation.data_dir)
        os.umask(0o077)
        try:
            with held(installation.data_dir):
                self._run(installation)
        except EmbeddedError as error:
            raise CommandError(str(error)) from None

    def _run(self, installation: Installation) -> None:
        console = Console(sys.stdout)
        stop = StopFlag().install()
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
        if installation.own_broker:
            find_broker(
                installation.data_dir, say=console.say
            )  # a missing one is said before anything starts
        console.say("Starting.")
        if installation.own_database and not supervisor.start_stage([parts.database(installation)]):
            return False
        call_command("migrate", verbosity=0)
        call_command("collectstatic", verbosity=0, interactive=False)
        run = _prepare(installation)
        connection.close()
        if installation.own_broker and not supervisor.start_stage([parts.broker(installation)]):
            return False
        if not supervisor.start_stage([parts.listener(), parts.worker(), parts.web(installation)]):
            return False
        if not supervisor.start_stage([parts.agent(installation)]):
            return False
        console.say(banner(run, data_dir=installation.data_dir, publisher=_publisher(installation.data_dir)))
        return True


def _check_ports(installation: Installation) -> None:
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


def _prepare(installation: Installation) -> FirstRun:
    broker = urlsplit(settings.MQTT_URL)
    return prepare(
        base_url=settings.BASE_URL,
        mqtt_host=broker.hostname or installation.mqtt_host,
        mqtt_port=broker.port or installation.mqtt_port,
        data_dir=installation.data_dir,
    )


def _publisher(data_dir: Path) -> str:
    program = find_publisher(data_dir, say=lambda _sentence: None)
    return program.shell_words() if program else "mosquitto_pub"
