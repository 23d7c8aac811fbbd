"""One listener process: serves its share of the slots, takes over those of dead processes, and may lead the others.

Every second it looks who is there (advisory locks, which the dead let go of) and evens out what it serves. One process
leads: it makes and ends slots as the settings ask, and gives the marks.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import psycopg
from django.conf import settings

from devices.broker import listener_login
from devices.broker_address import BrokerAddress
from streams.connectors.leader import Leader
from streams.connectors.mqtt import Listener
from streams.database import Connection, connect
from streams.lag import MARK_EVERY_S, SlotReport
from streams.listener_reports import BrokerNumbers, broker_load_note, slots_report
from streams.pipeline import Street
from streams.slots import (
    LEADER,
    LOCKS,
    PRESENT,
    SERVES,
    Mark,
    Survey,
    slot_to_hand_over,
    slot_to_take,
    slots_leave,
    slots_leaving,
    slots_make,
    slots_plan,
    survey,
)
from streams.writer import Writer

logger = logging.getLogger(__name__)

HAND_OVER_EVERY = 5  # looks, at most: whoever cannot take what it is given must not make the others restless
# Longer than twice the embedded broker's pause between savings: then a crash of it does not forget a new session.
SETTLE = timedelta(seconds=12)

Result = TypeVar("Result")


class _Served(NamedTuple):
    listener: Listener
    task: asyncio.Task[None]


class SlotKeeper:
    """Runs until told to stop. `wanted`: how many slots the installation is to have."""

    def __init__(
        self,
        *,
        address: BrokerAddress,
        version: int,
        wanted: int,
        follows_log: bool,
        settle: timedelta = SETTLE,
    ) -> None:
        self._address = address
        self._version = version
        self._wanted = wanted
        self._follows_log = follows_log
        self._settle = settle
        self._name = f"{socket.gethostname()}:{os.getpid()}"[:128]
        self._serving: dict[int, _Served] = {}
        self._ended = 0
        self._free_for: dict[int, int] = {}
        self._looks = 0
        self._handed_over_at = -HAND_OVER_EVERY
        self._leader = Leader(address)
        self._leads = False
        self._connection: Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keeper")
        self._stopping = asyncio.Event()
        self._told: str | None = None
        self._filling = False
        self._dropped: int | None = None

    @property
    def committed(self) -> int:
        """Messages committed since the start."""
        return self._ended + sum(served.listener.committed for served in self._serving.values())

    @property
    def slots(self) -> list[int]:
        """Those that are served here and have been connected."""
        return sorted(slot for slot, served in self._serving.items() if served.listener.connections)

    def stop(self) -> None:
        """Commit and acknowledge what is here, leave the slots to others. From the event loop only."""
        self._stopping.set()

    async def run(self) -> None:
        try:
            while not self._stopping.is_set():
                if await self._look():
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), MARK_EVERY_S)
        finally:
            for served in self._serving.values():
                served.listener.stop()
            await asyncio.gather(*(served.task for served in self._serving.values()))
            await self._leader.close()
            await self._in_thread(self._disconnect)
            self._thread.shutdown()

    async def _look(self) -> bool:
        """Look once, and do what is to be done. True when that is to be looked at in turn."""
        self._reap()
        found = await self._patiently(self._survey)
        if found is None:
            return False
        self._looks += 1
        self._even_out(found._replace(served={**found.served, found.me: frozenset(self._serving)}))
        self._pass_on(found)
        changed = self._leads and await self._lead(found)
        if self._leads:
            self._watch_queue(self._leader.numbers_now())
        reports = [served.listener.report() for served in self._serving.values()]
        numbers = self._leader.numbers_now() if self._leads else None
        await self._patiently(lambda: self._report(reports, numbers))
        return changed

    # --- which slots ---

    def _even_out(self, found: Survey) -> None:
        free = set(found.states) - found.taken
        self._free_for = {slot: self._free_for.get(slot, 0) + 1 for slot in free}
        while (slot := slot_to_take(found, free_for=self._free_for)) is not None:
            self._serve(slot)
            found = found._replace(
                taken=found.taken | {slot}, served={**found.served, found.me: frozenset(self._serving)}
            )
        surplus = slot_to_hand_over(found)
        if surplus is not None and self._looks - self._handed_over_at >= HAND_OVER_EVERY:
            self._handed_over_at = self._looks
            logger.info("Handing slot %d over to another listener.", surplus)
            self._serving[surplus].listener.stop()
        if not self._serving and found.states:
            self._say("Standing by: every slot has a listener.")

    def _serve(self, slot: int) -> None:
        listener = Listener(
            Street(Writer(name=f"mqtt-{slot}", slot=slot)),
            address=self._address,
            login=listener_login(slot),
            slot=slot,
            version=self._version,
            follows_log=self._follows_log and slot == 0,
        )
        self._say(None)
        self._serving[slot] = _Served(listener, asyncio.create_task(listener.run(), name=f"slot {slot}"))

    def _reap(self) -> None:
        """Forget listeners that have ended. One that failed ends the process: its supervisor starts it anew."""
        for slot, served in list(self._serving.items()):
            if served.task.done():
                del self._serving[slot]
                self._ended += served.listener.committed
                served.task.result()

    def _pass_on(self, found: Survey) -> None:
        """What the listeners must know of the others."""
        epochs = {state.epoch for state in found.states.values()}
        for slot, served in self._serving.items():
            state = found.states.get(slot)
            if state is not None and state.leaving:
                served.listener.leave()
            elif len(epochs) == 1:
                served.listener.all_reached(*epochs)

    # --- leading ---

    async def _lead(self, found: Survey) -> bool:
        """True when slots were made or told to end."""
        states, wanted = found.states, self._wanted
        if (
            self._filling and states
        ):  # a full queue may drop the mark of a new deal for one slot and not for another
            wanted = max(states.values(), key=lambda state: state.epoch).parts
        missing, mark = slots_plan(states, wanted=wanted, now=datetime.now(UTC), settle=self._settle)
        leaving = slots_leaving(states, wanted=wanted)
        if states:
            self._leader.give(mark)
        if not missing and not leaving:
            return False
        return bool(await self._patiently(lambda: self._change(missing, leaving, mark)))

    def _change(self, missing: list[int], leaving: list[int], mark: Mark) -> bool:
        with self._connected().transaction(), self._connected().cursor() as cursor:
            slots_make(cursor, missing, mark=mark)
            slots_leave(cursor, leaving)
        return True

    def _watch_queue(self, numbers: BrokerNumbers) -> None:
        """Warn before the broker drops messages, and when it has."""
        bound, held = settings.BROKER_QUEUE_BYTES, numbers.message_bytes
        filling = bool(bound and held and held >= bound / 2)
        if filling and not self._filling:
            logger.error("The broker's queue is half full; at %d bytes it drops messages.", bound)
        self._filling = filling
        if numbers.dropped is not None:
            if filling and self._dropped is not None and numbers.dropped > self._dropped:
                logger.error("The broker has dropped %d messages.", numbers.dropped - self._dropped)
            self._dropped = numbers.dropped

    # --- the database ---

    def _survey(self) -> Survey:
        connection = self._connected()
        with connection.transaction(), connection.cursor() as cursor:
            self._tell_slots(cursor)
            self._leads = self._leads or self._lock(cursor, LEADER)
            return survey(cursor)

    def _tell_slots(self, cursor: psycopg.Cursor[tuple[object, ...]]) -> None:
        """Let the others see which slots are served here."""
        cursor.execute("SELECT objid FROM pg_locks WHERE pid = pg_backend_pid() AND classid = %s", [LOCKS])
        told = {int(str(number)) - SERVES for (number,) in cursor.fetchall() if int(str(number)) >= SERVES}
        for slot in set(self._serving) - told:
            cursor.execute("SELECT pg_try_advisory_lock_shared(%s, %s)", [LOCKS, SERVES + slot])
        for slot in told - set(self._serving):
            cursor.execute("SELECT pg_advisory_unlock_shared(%s, %s)", [LOCKS, SERVES + slot])

    def _lock(self, cursor: psycopg.Cursor[tuple[object, ...]], number: int) -> bool:
        row = cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCKS, number]).fetchone()
        return bool(row and row[0])

    def _report(self, reports: list[SlotReport], numbers: BrokerNumbers | None) -> bool:
        with self._connected().transaction(), self._connected().cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")  # the next one comes in a second
            slots_report(cursor, reports, served_by=self._name, now=datetime.now(UTC))
            if numbers is not None and numbers.messages is not None:
                broker_load_note(cursor, numbers)
        return True

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._leads = False
            self._connection = connect(name="keeper")
            self._connection.execute("SELECT pg_advisory_lock_shared(%s, %s)", [LOCKS, PRESENT])
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _patiently(self, work: Callable[[], Result]) -> Result | None:
        """None when the database does not answer; the next look tries again."""
        try:
            return await self._in_thread(work)
        except psycopg.Error as error:
            self._leads = False
            self._say(f"The database does not say who else is there: {type(error).__name__}.")
            return None

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _say(self, sentence: str | None) -> None:
        """Once, until there is something else to say."""
        if sentence is not None and sentence != self._told:
            logger.info(sentence)
        self._told = sentence
