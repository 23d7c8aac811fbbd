"""The loop that turns what is queued into messages that are sent. The worker runs it; several workers are harmless.

Most turns find nothing: one question tells so (events/due.py). When an attempt has ended, its result is written and
what may follow it is begun, no more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.utils import timezone

from events.due import Due, due_look
from events.http_client import HttpClient
from events.notifiers_store import OUTBOX_NOTIFY
from events.sending import DatabaseThread, Sender, deliveries_give_up
from events.settling import settle_due

logger = logging.getLogger(__name__)

# As Django says it, and as psycopg does on cursors of its own.
DATABASE_AWAY = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
EVERY_S = 1.0
GRACE_S = 5.0  # for what is on its way when the worker is told to stop
RETRY_S = 1.0
MOST_PAUSE = timedelta(
    seconds=30
)  # between two turns of a step; a longer one means that the clock was set back


class Step(NamedTuple):
    """What is done before anything is sent: `run(now=...)` returns how much there was. It may be repeated and
    interrupted, and several workers may do it at once. `every_s` 0: on each turn. `if_waiting`: only when notifications
    wait to be settled.
    """

    run: Callable[..., int]
    every_s: float = 0.0
    if_waiting: bool = False


# In this order. What needs rooms above this one is given to Outbox by the worker.
STEPS = (
    Step(settle_due, if_waiting=True),
    Step(deliveries_give_up, every_s=10.0),
)


class Outbox:
    """Each second, or at once when somebody says that something was queued."""

    def __init__(
        self, *, steps: Sequence[Step] = STEPS, clock: Callable[[], datetime] = timezone.now
    ) -> None:
        self._steps = steps
        self._next_at: dict[Step, datetime] = {}
        self._clock = clock
        self._wake = asyncio.Event()
        self._database = DatabaseThread()
        self._http = HttpClient(allow=settings.WEBHOOK_ALLOW)
        self._sender = Sender(http=self._http, database=self._database, clock=clock)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. A lost database is waited for."""
        told = False
        try:
            while not stop.is_set():
                try:
                    async with await _listening() as listener:
                        if told:
                            logger.info("Notifications are sent again.")
                            told = False
                        await self._until_lost(listener, stop)
                except (psycopg.Error, DatabaseError, OSError) as error:
                    if not told and not stop.is_set():
                        logger.warning("Notifications wait for the database: %s", type(error).__name__)
                    told = True
                except Exception:  # a fault of ours in one turn: the next one may do without it
                    logger.exception("Notifications could not be sent; it is tried again.")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_S)
        finally:
            await self._close()

    async def turn(self) -> bool:
        """One turn; returns whether there may be more to do at once."""
        found = 0
        due: Due | None = None
        for step in self._steps:
            now = self._clock()
            if step in self._next_at and now < self._next_at[step] < now + MOST_PAUSE:
                continue
            if step.if_waiting:
                if due is None:
                    due = await self._database.run(due_look, now=now)
                if not due.settle:
                    continue
            found += await self._do(step, now=now)
        if due is None:
            due = await self._database.run(due_look, now=self._clock())
        if due.send or found or self._sender.has_results:
            await self._sender.step()
        return found > 0

    async def _do(self, step: Step, *, now: datetime) -> int:
        """One step; one that fails keeps nobody from being told of what else there is."""
        try:
            found = await self._database.run(step.run, now=now)
        except DATABASE_AWAY:
            raise
        except Exception:
            logger.exception("A step towards sending failed; it is done again in %s.", MOST_PAUSE)
            self._next_at[step] = now + MOST_PAUSE - timedelta(seconds=1)
            return 0
        self._next_at[step] = now + timedelta(seconds=step.every_s)
        return found

    async def _until_lost(self, listener: psycopg.AsyncConnection[Any], stop: asyncio.Event) -> None:
        waking = asyncio.create_task(self._wake_on_notify(listener))
        stopping = asyncio.create_task(stop.wait())
        try:
            time, next_at = asyncio.get_running_loop().time, 0.0
            while not stop.is_set():
                if self._wake.is_set() or time() >= next_at:
                    self._wake.clear()
                    next_at = time() + EVERY_S
                    if await self.turn():
                        next_at = 0.0
                        continue
                else:
                    await self._sender.step()
                woken = asyncio.create_task(self._wake.wait())
                until = {woken, waking, stopping, *self._sender.sending}
                patience_s = max(next_at - time(), 0.0)
                await asyncio.wait(until, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if waking.done():
                    waking.result()  # raises what ended it
        finally:
            waking.cancel()
            stopping.cancel()
            await asyncio.gather(waking, stopping, return_exceptions=True)

    async def _wake_on_notify(self, listener: psycopg.AsyncConnection[Any]) -> None:
        async for _notify in listener.notifies():
            self._wake.set()

    async def _close(self) -> None:
        try:
            await self._sender.close(grace_s=GRACE_S)
        except DatabaseError as error:
            logger.warning("How the last notifications went could not be noted: %s", type(error).__name__)
        await self._http.close()
        await self._database.close()


async def _listening() -> psycopg.AsyncConnection[Any]:
    """A connection that hears of what is queued."""
    parameters = connection.get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold", "pool"):
        parameters.pop(name, None)
    own = {"autocommit": True, "application_name": "servwatch-outbox"}
    listener = await psycopg.AsyncConnection.connect(**{**parameters, **own})
    await listener.execute(f"LISTEN {OUTBOX_NOTIFY}")
    return listener
