"""From a measurement to what the receiver gets, by the worker's own loop."""

import asyncio
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from django.test import override_settings

from events.models import Delivery, Notification
from events.outbox import STEPS, Outbox, Step
from events.tests.outbox import LOOPBACK
from events.tests.receiver import Receiver
from events.tests.street import AlertsTestCase
from servwatch_site.tests import listening
from servwatch_site.tests.waiting import wait_until
from streams.tests.test_worker import database_away

ROOT = Path(__file__).resolve().parents[2]


class LoopTest(AlertsTestCase):
    """The loop of the worker within the test, woken by what the write street says."""

    def setUp(self) -> None:
        super().setUp()
        self.receiver = self.enterContext(Receiver())
        self.enterContext(override_settings(WEBHOOK_ALLOW=LOOPBACK))
        self.rule(notify_type="http", post_url=f"{self.receiver.url}/hook")

    def test_it_sends_what_a_batch_has_queued_and_ends_when_told(self) -> None:
        asyncio.run(self.fire_while_it_runs())
        assert [request.json()["state"] for request in self.receiver.received] == ["firing", "resolved"]
        assert Delivery.objects.filter(status="delivered").count() == 2
        assert not Notification.objects.filter(settled_at=None).exists()

    async def fire_while_it_runs(self) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(Outbox().run(stop))
        loop = asyncio.get_running_loop()

        def both() -> None:
            self.say({"cpu": 95}, at_s=50)
            wait_until(lambda: len(self.receiver.received) == 1, what="the first webhook")
            self.say({"cpu": 5}, at_s=51)
            wait_until(lambda: len(self.receiver.received) == 2, what="the second webhook")

        await loop.run_in_executor(None, both)
        stop.set()
        await asyncio.wait_for(running, 20)

    def test_a_step_that_fails_keeps_nobody_from_being_told(self) -> None:
        def broken(*, now: datetime) -> int:
            raise ZeroDivisionError

        self.say({"cpu": 95}, at_s=50)
        with self.assertLogs("events.outbox", "ERROR") as log:
            asyncio.run(self.turns(Outbox(steps=(Step(broken), *STEPS))))
        assert len(log.output) == 1  # and it is left alone for a while
        assert len(self.receiver.received) == 1

    async def turns(self, outbox: Outbox) -> None:
        """Three turns, and the end."""
        for _ in range(3):
            await outbox.turn()
        stop = asyncio.Event()
        stop.set()
        await outbox.run(stop)


class WorkerTest(AlertsTestCase):
    """`manage.py worker` in a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.receiver = self.enterContext(Receiver())
        self.rule(notify_type="http", post_url=f"{self.receiver.url}/hook-secret-4711")
        self.log = self.enterContext(tempfile.TemporaryFile())
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"],
            cwd=ROOT,
            env={
                **os.environ,
                "DATABASE_URL": listening.test_database_url(),
                "SERVWATCH_WEBHOOK_ALLOW": "127.0.0.0/8",
            },
            stderr=self.log,
        )
        self.addCleanup(self._end)

    def test_it_sends_also_after_the_database_was_away(self) -> None:
        self.say({"cpu": 95}, at_s=50)
        wait_until(lambda: len(self.receiver.received) == 1, what="the first webhook")
        with database_away():
            wait_until(lambda: "wait for the database" in self.said(), what="the outbox' word")
        self.say({"cpu": 5}, at_s=51)
        wait_until(lambda: len(self.receiver.received) == 2, what="the webhook after the outage")
        assert "sent again" in self.said() and "ERROR events" not in self.said()
        assert "secret" not in self.said()

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()

    def _end(self) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=20) == 0
