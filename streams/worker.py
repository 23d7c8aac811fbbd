"""The worker's life. procrastinate ends a worker that loses its database; this one begins again when it is back."""

import asyncio
import contextlib
import logging

import psycopg
from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.utils import timezone
from procrastinate.contrib.django import app
from procrastinate.contrib.django.utils import connector_params
from procrastinate.exceptions import ConnectorException
from procrastinate.psycopg_connector import PsycopgConnector

from events.outbox import STEPS, Outbox, Step
from streams import upkeep
from streams.ingest_progress import silence_step
from streams.live import alerts_tell

logger = logging.getLogger(__name__)
# Of a lost database it tells in tracebacks, once for each of its parts; it is told here. Jobs that fail are still told.
for _name in ("procrastinate.worker.worker", "procrastinate.utils", "psycopg.pool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class _LostInALine(logging.Filter):
    """A job whose database went away is told in a line: where in it that happened says nothing to anybody."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OperationalError | InterfaceError | psycopg.OperationalError):
            reason = (str(error).splitlines() or [""])[0]
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}: {reason}", None
            record.exc_info = None
        return True


logging.getLogger("procrastinate.worker").addFilter(_LostInALine())

JOBS_AT_ONCE = 4
LAST_JOBS_S = 5.0  # how long jobs may take to end when the worker is told to stop
POOL_PATIENCE_S = 3.0  # with a database that does not answer while the worker ends
RETRY_S = 1.0


class Worker:
    """Runs jobs, and sends notifications, until `stop()`, which is called from the event loop."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no new jobs; those that run have some seconds to end."""
        self._stopping.set()

    async def run(self) -> None:
        # It survives a lost database by itself.
        steps = [Step(silence_step, every_s=1.0), Step(alerts_tell, if_waiting=True), *STEPS]
        outbox = asyncio.create_task(Outbox(steps=steps).run(self._stopping))
        try:
            await self._run_jobs()
        finally:
            self._stopping.set()
            await outbox

    async def _run_jobs(self) -> None:
        told = False
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(_days_maintain)  # at once: tomorrow must exist before it begins
                if told:
                    logger.info("The database answers again; the worker goes on.")
                    told = False
                await self._until_lost()
            except (psycopg.Error, DatabaseError, ConnectorException) as error:
                if not told and not self._stopping.is_set():
                    logger.warning("The worker waits for the database: %s", type(error).__name__)
                told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), RETRY_S)

    async def _until_lost(self) -> None:
        """Run jobs until told to stop, or until the database is lost: then it raises, or just returns."""
        parameters = {**connector_params(), "application_name": "servwatch-worker"}
        connector = PsycopgConnector(kwargs=parameters, timeout=POOL_PATIENCE_S)
        with app.replace_connector(connector):
            async with app.open_async():
                working = asyncio.ensure_future(
                    app.run_worker_async(
                        concurrency=JOBS_AT_ONCE,
                        delete_jobs="successful",
                        shutdown_graceful_timeout=LAST_JOBS_S,
                        install_signal_handlers=False,
                    )
                )
                stopping = asyncio.ensure_future(self._stopping.wait())
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working


def _days_maintain() -> None:
    try:
        upkeep.days_maintain(now=timezone.now())
    finally:
        connections.close_all()  # a thread of the pool: its connection must not lie about
