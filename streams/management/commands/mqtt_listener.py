"""`manage.py mqtt_listener`: takes messages from the broker and stores them, until told to stop."""

import asyncio
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from devices.broker_address import BrokerAddress
from servwatch_site.loop import collect_less
from streams.connectors.slot_keeper import SlotKeeper


class Command(BaseCommand):
    help = "Take messages from the broker, store them, and acknowledge each only after its commit."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            address = BrokerAddress.from_url(settings.MQTT_URL)
        except ValueError as error:
            raise CommandError(str(error)) from None
        collect_less()
        committed = asyncio.run(self._listen(address))
        self.stdout.write(f"Listener stopped; {committed} messages committed.")

    async def _listen(self, address: BrokerAddress) -> int:
        keeper = SlotKeeper(
            address=address,
            version=settings.MQTT_PROTOCOL,
            wanted=settings.LISTENER_SLOTS,
            follows_log=settings.BROKER_IS_NAMED,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, keeper, number)
        await keeper.run()
        return keeper.committed

    def _stop(self, keeper: SlotKeeper, number: signal.Signals) -> None:
        """The first signal drains, the second ends at once: nothing unacknowledged is lost by it."""
        keeper.stop()
        asyncio.get_running_loop().remove_signal_handler(number)
