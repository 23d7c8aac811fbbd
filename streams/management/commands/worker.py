"""`manage.py worker`: runs the jobs and sends notifications, until told to stop."""

import asyncio
import signal
from typing import Any

from django.core.management.base import BaseCommand

from streams.worker import Worker


class Command(BaseCommand):
    help = "Run the background jobs, such as days ahead, retention and purges, and send notifications."

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(self._work())
        self.stdout.write("Worker stopped.")

    async def _work(self) -> None:
        worker = Worker()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, worker, number)
        await worker.run()

    def _stop(self, worker: Worker, number: signal.Signals) -> None:
        """The first signal lets the jobs end, the second ends at once."""
        worker.stop()
        asyncio.get_running_loop().remove_signal_handler(number)
