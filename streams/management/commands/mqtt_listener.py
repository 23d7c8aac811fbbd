"""`manage.py mqtt_listener`: takes messages from the broker and stores them, until told to stop."""

import asyncio
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from devices.broker import listener_login
from devices.broker_address import BrokerAddress
from servwatch_site.loop import collect_less
from streams.connectors.mqtt import Listener
from streams.pipeline import Street
from streams.writer import Writer


class Command(BaseCommand):
    help = "Take messages from the broker, store them, and acknowledge each only after its commit."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--slot", type=int, default=settings.LISTENER_SLOT, help="the session to hold")

    def handle(self, *args: Any, **options: Any) -> None:
        slot = options["slot"]
        try:
            address = BrokerAddress.from_url(settings.MQTT_URL)
        except ValueError as error:
            raise CommandError(str(error)) from None
        collect_less()
        committed = asyncio.run(self._listen(address, slot))
        self.stdout.write(f"Listener stopped; {committed} messages committed.")

    async def _listen(self, address: BrokerAddress, slot: int) -> int:
        listener = Listener(
            Street(Writer(name=f"mqtt-{slot}", slot=slot)),
            address=address,
            login=listener_login(slot),
            slot=slot,
            version=settings.MQTT_PROTOCOL,
            follows_log=settings.BROKER_IS_NAMED and slot == 0,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, listener, number)
        await listener.run()
        return listener.committed

    def _stop(self, listener: Listener, number: signal.Signals) -> None:
        """The first signal drains, the second ends at once: nothing unacknowledged is lost by it."""
        listener.stop()
        asyncio.get_running_loop().remove_signal_handler(number)
