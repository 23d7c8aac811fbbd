"""The listener of one slot: takes messages from the broker, commits them through the street, then acknowledges.

One event loop owns the broker's connection, one thread owns the database's; between them a queue that stops
reading when it is full, because the broker knows no mercy. Nothing is acknowledged before its commit, and
acknowledgements go out in the order of receipt, on the connection their messages came on.

Of several slots each is sent everything and takes what streams/slots.py deals out to it; the rest it acknowledges in
its turn. The lock that holds the slot lives on the connection that commits: whoever has lost it cannot commit any more.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import psycopg
from gmqtt.mqtt.handler import MQTTConnectError

from devices.broker import BROKER_UPTIME_TOPIC, ListenerLogin, listener_mark_topic
from devices.broker_address import BrokerAddress
from streams.connectors.log_follower import LOG_SUBSCRIPTIONS, Line, LogFollower
from streams.connectors.mqtt_client import ListenerClient, Packet
from streams.delivery import Deliveries, Walk, deliveries_discard, deliveries_load
from streams.lag import BATCH_SECONDS, BATCH_SIZES, LagMeter, SlotReport, Spread
from streams.payload import FORM_JSON, Measurement, digest_of
from streams.pipeline import Clock, Street
from streams.plan import Early, Incoming
from streams.slots import Mark, SlotState, slot_end, slot_hold, slot_reached, slot_session_begun, slot_state
from streams.topics import SUBSCRIPTIONS

logger = logging.getLogger(__name__)

BATCH_MOST = 5_000
BATCH_AGE_S = 0.02
TOPICS_REMEMBERED = 50_000
PAUSE_ABOVE, RESUME_BELOW = 12_000, 6_000
# The broker's packet ids begin again after 65,535: to acknowledge one that stands for two messages loses one of them.
MOST_UNACKNOWLEDGED = 50_000
# Read, a payload takes several times its size.
BATCH_MOST_BYTES, PAUSE_ABOVE_BYTES, RESUME_BELOW_BYTES = 8 << 20, 24 << 20, 12 << 20
CONNECT_TIMEOUT_S = 10.0
DRAIN_S = 5.0
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

Result = TypeVar("Result")
Cursor = psycopg.Cursor[tuple[Any, ...]]


class SlotTaken(Exception):
    """Another listener holds the slot."""


class _Arrived(NamedTuple):
    """A message in the queue. A retained one is only acknowledged: it was stored when it was new.

    Nor is a line of the broker's log (`of_broker`) a message of a device.
    """

    client: ListenerClient
    message: Incoming
    dup: bool
    retained: bool
    of_broker: bool


class _Foreign(NamedTuple):
    """Messages of other slots' devices, one after the other: only to be acknowledged, in their turn."""

    client: ListenerClient
    packet_ids: list[int]


class _Marked(NamedTuple):
    """A mark in its place among the messages. `state`: the deal it brings, None when that is not new."""

    client: ListenerClient
    packet_id: int
    mark: Mark
    state: SlotState | None


class _Session(NamedTuple):
    """From here on the messages of a new connection. `missed`: lines of the broker's log."""

    client: ListenerClient
    present: bool
    missed: bool


class _Batch(NamedTuple):
    """What is committed together: all of one connection, in order."""

    client: ListenerClient | None
    arrived: list[_Arrived]
    packet_ids: list[int]
    marks: list[Mark]


class _Held(NamedTuple):
    """Acknowledgements that wait from a new deal's mark on, until the broker has all those from before it.

    Otherwise it might send a message from before the mark again, to be judged by the new deal.
    """

    client: ListenerClient
    state: SlotState
    packet_ids: list[int]


class Listener:
    """Serves a slot until told to stop, or until another listener holds it (`slot_taken`).

    `slot` names the durable session and its delivery log. `follows_log`: the broker runs elsewhere, so that its log is
    read here; by one listener of the installation.
    """

    def __init__(
        self,
        street: Street,
        *,
        address: BrokerAddress,
        login: ListenerLogin,
        slot: int,
        version: int,
        follows_log: bool = False,
    ) -> None:
        self._street = street
        self._address = address
        self._login = login
        self._slot = slot
        self._turn: int | None = None
        self._version = version
        self._mark_topic = listener_mark_topic()
        self._clock = Clock()
        self._state = SlotState(slot)
        self._queue: deque[_Arrived | _Foreign | _Marked | _Session] = deque()
        self._queued_bytes = 0
        self._queued_ids = (
            0  # messages in the queue that wait for their acknowledgement, those of other slots too
        )
        self._held: _Held | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._leaving = False
        self._walk = Walk(Deliveries())
        self._client: ListenerClient | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._log = LogFollower(self._transact) if follows_log else None
        self._lag = LagMeter()
        self._committing: Sequence[_Arrived] = ()
        self._batch_sizes, self._batch_durations = Spread(BATCH_SIZES), Spread(BATCH_SECONDS)
        self.slot_taken = False
        self.committed = 0
        self.connections = 0

    def stop(self) -> None:
        """Take nothing more in, commit and acknowledge what is here, leave. From the event loop only."""
        self._stopping.set()
        self._wake.set()

    def leave(self) -> None:
        """Stop, and end the slot's session: no deal needs it any more."""
        self._leaving = True
        self.stop()

    def all_reached(self, epoch: int) -> None:
        """All slots have reached this mark: nothing is in doubt any more."""
        if self._state.in_doubt and self._state.epoch == epoch:
            self._state = self._state._replace(in_doubt=False)

    def report(self) -> SlotReport:
        """What it tells of itself; from any thread."""
        here = [*self._committing[:1], *(item for item in islice(self._queue, 8) if type(item) is _Arrived)]
        oldest_at = here[0].message.received_at.timestamp() if here else None
        client = self._client
        return SlotReport(
            slot=self._slot,
            connected=client is not None and not client.lost.is_set(),
            lag_s=self._lag.lag_s(now=time.time(), oldest_at=oldest_at),
            queued=len(self._committing) + len(self._queue),
            committed=self.committed,
            batch_sizes=list(self._batch_sizes.counts),
            batch_durations=list(self._batch_durations.counts),
            batch_seconds=self._batch_durations.total,
        )

    async def run(self) -> None:
        self._street.writer.on_connect = self._hold_slot
        connecting = asyncio.create_task(self._stay_connected())
        try:
            await self._commit_loop()
        finally:
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
            if self._client is not None:
                await self._client.close()
            if self._leaving and not self._queue and not self.slot_taken:
                await self._end_session()
            await self._in_thread(self._street.writer.close)
            self._thread.shutdown()

    # --- the broker's side ---

    async def _stay_connected(self) -> None:
        tries = _backoff()
        while not self._stopping.is_set():
            state = await self._in_thread_patiently(self._read_state)
            if state is None:
                return
            if self._log is not None:
                await self._log.load()
            self._state = state
            client = self._new_client()
            try:
                await self._connect(client)
            except (OSError, MQTTConnectError) as error:
                wait_s = next(tries)
                logger.warning("No connection to the broker (%s); trying again in %.1f s.", error, wait_s)
                await client.close()
                await self._pause(wait_s)
                continue
            tries = _backoff()
            await self._until_lost(client)

    async def _connect(self, client: ListenerClient) -> None:
        await client.connect(
            self._address.host, self._address.port, tls=self._address.tls, timeout_s=CONNECT_TIMEOUT_S
        )

    async def _until_lost(self, client: ListenerClient) -> None:
        self._client = client
        await client.subscribed.wait()
        if not client.lost.is_set():
            self.connections += 1
            logger.info("Connected to the broker at %s:%d.", self._address.host, self._address.port)
            await self._transact(
                partial(slot_session_begun, slot=self._slot, present=client.present, at=self._clock.stamp())
            )
        await client.lost.wait()
        await client.close()
        if client.refused_subscription is not None:
            logger.error(
                "The broker refuses the subscription to %s. Its access list must let the listener read it.",
                client.refused_subscription,
            )
            await self._pause(5.0)
        elif not self._stopping.is_set():
            logger.warning("The connection to the broker is lost; connecting again.")
            await self._pause(BACKOFF_S[0])

    def _new_client(self, *, durable: bool = True) -> ListenerClient:
        topics = [(topic, 1) for topic in (*SUBSCRIPTIONS, self._mark_topic)]
        return ListenerClient(
            client_id=self._login.client_id,
            user=self._login.username,
            password=self._login.password,
            version=self._version,
            subscriptions=[*topics, *(LOG_SUBSCRIPTIONS if self._log is not None else ())] if durable else (),
            on_packets=self._packets,
            on_connected=self._session,
            durable=durable,
        )

    async def _end_session(self) -> None:
        """End the durable session at the broker, then forget the slot. What fails here is done by the next one."""
        client = self._new_client(durable=False)
        try:
            await self._connect(client)
            await client.close()
            await self._in_thread(partial(self._in_transaction, partial(slot_end, slot=self._slot)))
        except (OSError, MQTTConnectError, psycopg.Error) as error:
            logger.warning("The session of slot %d could not be ended yet: %s", self._slot, error)
        else:
            logger.info("Slot %d is not needed any more; its session is ended.", self._slot)

    def _session(self, client: ListenerClient, present: bool) -> None:
        missed = self._log is not None and self._log.connected(present=present, at=self._clock.stamp())
        self._queue.append(_Session(client, present, missed))
        self._wake.set()

    def _packets(self, client: ListenerClient, packets: Sequence[Packet]) -> None:
        """Queue what one read brought; a moment of its own for each message."""
        stamps = self._clock.stamps(len(packets))
        if self._log is not None:
            self._log.heard(stamps[-1])
        takes_all = self._state.takes_all
        for packet, at in zip(packets, stamps, strict=True):
            of_broker = packet.topic.startswith("$SYS/")
            if of_broker:
                if packet.topic == BROKER_UPTIME_TOPIC:
                    self._note_uptime(packet, at)
                    continue
            elif packet.topic == self._mark_topic:
                self._note_mark(client, packet)
                takes_all = self._state.takes_all
                continue
            elif not takes_all and not self._state.takes(packet.topic):
                self._pass_over(client, packet)
                continue
            early = None if of_broker else self._street.parse_early(packet.topic, packet.payload)
            message = incoming(packet, at, early)
            self._queue.append(_Arrived(client, message, packet.dup, packet.retain, of_broker))
            self._queued_bytes += len(packet.payload)
            self._queued_ids += 1
        if self._queued_ids > PAUSE_ABOVE or self._queued_bytes > PAUSE_ABOVE_BYTES:
            client.brake(True)
        if self._queued_ids + (len(self._held.packet_ids) if self._held else 0) > MOST_UNACKNOWLEDGED:
            client.begin_anew("more messages at once than can be told apart")
        self._wake.set()

    def _note_uptime(self, packet: Packet, at: datetime) -> None:
        if self._log is not None:
            self._log.note_uptime(packet, at=at)

    def _note_mark(self, client: ListenerClient, packet: Packet) -> None:
        """From here on the mark's deal decides whose messages come."""
        mark = Mark.decode(packet.payload)
        if mark is None:
            self._pass_over(client, packet)
            return
        state = self._state.after(mark) if mark.epoch > self._state.epoch else None
        self._state = state or self._state
        self._queue.append(_Marked(client, packet.packet_id, mark, state))
        self._queued_ids += 1

    def _pass_over(self, client: ListenerClient, packet: Packet) -> None:
        if not packet.packet_id:
            return
        last = self._queue[-1] if self._queue else None
        if type(last) is _Foreign and last.client is client:
            last.packet_ids.append(packet.packet_id)
        else:
            self._queue.append(_Foreign(client, [packet.packet_id]))
        self._queued_ids += 1

    # --- the database's side ---

    async def _commit_loop(self) -> None:
        loop = asyncio.get_running_loop()
        drain_until = float("inf")
        while True:
            if self._stopping.is_set() and drain_until == float("inf"):
                drain_until = loop.time() + DRAIN_S
                if self._client is not None:
                    self._client.brake(True)
            if self._stopping.is_set() and (not self._queue or loop.time() > drain_until or self.slot_taken):
                return
            await self._work()

    async def _work(self) -> None:
        """Wait for something to do, at most a second, and do one unit of it."""
        if not self._queue:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 1.0)
        if self._log is not None:
            await self._log.tend(now_s=asyncio.get_running_loop().time())
        if self._held is not None:
            await self._release(self._held)
        if not self._queue:
            return
        head = self._queue[0]
        if isinstance(head, _Session):
            await self._begin_session()
            return
        if isinstance(head, _Marked) and head.state is not None:
            await self._begin_deal(head, head.state)
            return
        await asyncio.sleep(self._wait_s(head))
        await self._commit(self._take())
        self._resume()

    def _wait_s(self, head: object) -> float:
        """How long the oldest message may still wait for company; one that waited for the last commit need not."""
        if len(self._queue) >= BATCH_MOST or self._stopping.is_set():
            return 0.0
        if not isinstance(head, _Arrived):
            return BATCH_AGE_S
        waited_s = (datetime.now(UTC) - head.message.received_at).total_seconds()
        return min(max(BATCH_AGE_S - waited_s, 0.0), BATCH_AGE_S)

    def _resume(self) -> None:
        few = self._queued_ids < RESUME_BELOW and self._queued_bytes < RESUME_BELOW_BYTES
        if few and self._client is not None and not self._stopping.is_set():
            self._client.brake(False)

    def _take(self) -> _Batch:
        """The next batch: what came on one connection, in order. Of a lost one only what cannot come again."""
        arrived: list[_Arrived] = []
        packet_ids: list[int] = []
        marks: list[Mark] = []
        client: ListenerClient | None = None
        size = 0
        while self._queue and len(arrived) < BATCH_MOST and size < BATCH_MOST_BYTES:
            head = self._queue[0]
            if isinstance(head, _Session) or client not in (None, head.client):
                break
            lost = head.client.lost.is_set()
            if isinstance(head, _Arrived):
                packet_id = head.message.packet_id
                size += len(head.message.payload)
                if not (lost and packet_id):
                    arrived.append(head)
                    if packet_id:
                        packet_ids.append(packet_id)
            elif isinstance(head, _Foreign):
                packet_ids.extend(head.packet_ids)  # on a lost connection nothing is acknowledged
                self._queued_ids -= len(head.packet_ids) - 1
            elif head.state is None:
                packet_ids.append(head.packet_id)
                marks.append(head.mark)
            else:
                break
            self._queue.popleft()
            self._queued_ids -= 1
            client = head.client
        self._queued_bytes -= size
        return _Batch(client, arrived, packet_ids, marks)

    async def _commit(self, batch: _Batch) -> None:
        """Commit, then acknowledge. Tries for ever: not one may be left behind while others go on."""
        of_devices = [arrived for arrived in batch.arrived if not arrived.of_broker]
        if len(of_devices) < len(batch.arrived) and not await self._take_lines(batch.arrived):
            return
        messages = [self._told_apart(arrived) for arrived in of_devices if not arrived.retained]
        self._committing = of_devices
        began = time.monotonic()
        if messages and not await self._in_thread_patiently(lambda: self._street.process(messages)):
            return  # told to stop during an outage: nothing is acknowledged, so everything comes again
        self._committing = ()
        if messages:
            self.committed += len(messages)
            self._batch_sizes.add(len(messages))
            self._batch_durations.add(time.monotonic() - began)
        if self._held is not None and self._held.client is batch.client:
            self._held.packet_ids.extend(batch.packet_ids)
        elif batch.client is not None:
            batch.client.acknowledge(batch.packet_ids)
        for (
            mark
        ) in batch.marks:  # of a lost connection too: what came before them is committed or comes again
            self._lag.reached(mark.at, now=time.time())

    def _told_apart(self, arrived: _Arrived) -> Incoming:
        message = arrived.message
        if not message.packet_id or self._walk.over:
            return message
        known = self._walk.was_committed(packet_id=message.packet_id, digest=message.digest, dup=arrived.dup)
        return message._replace(redelivered=True) if known else message

    async def _take_lines(self, batch: Sequence[_Arrived]) -> bool:
        """The lines of the broker's log, before they are acknowledged. False when told to stop meanwhile."""
        if self._log is None:
            return True
        lines = [(arrived.message, arrived.dup) for arrived in batch if arrived.of_broker]
        return await self._log.take(
            [Line(line.topic, line.payload, line.received_at, dup) for line, dup in lines]
        )

    async def _begin_session(self) -> None:
        session = self._queue.popleft()
        if not isinstance(session, _Session) or session.client.lost.is_set():
            return
        self._held = None
        if self._log is not None and session.missed:
            self._log.forget()
        log = await self._in_thread_patiently(lambda: self._read_log(present=session.present))
        self._walk = Walk(log if log is not None else Deliveries())

    async def _begin_deal(self, marked: _Marked, state: SlotState) -> None:
        """Everything before the mark is committed and acknowledged; let the broker answer that it has read that."""
        if self._held is not None and not self._held.client.lost.is_set():
            self._held.client.brake(False)  # two deals in a row: the answer to the first must come in
            await asyncio.sleep(BATCH_AGE_S)
            return
        self._queue.popleft()
        self._queued_ids -= 1
        if marked.client.lost.is_set():
            return
        self._held = _Held(marked.client, state, [marked.packet_id])
        marked.client.ask(self._mark_topic)

    async def _release(self, held: _Held) -> None:
        """Keep the new deal and acknowledge what waited for it, once the broker has answered."""
        if held.client.lost.is_set():
            self._held = None  # the mark and what came after it come again
        elif held.client.subscribed.is_set() and await self._transact(
            partial(slot_reached, state=held.state)
        ):
            held.client.acknowledge(held.packet_ids)
            self._held = None

    def _read_state(self) -> SlotState:
        with self._street.writer.transaction() as cursor:
            return slot_state(cursor, self._slot)

    def _read_log(self, *, present: bool) -> Deliveries:
        with self._street.writer.transaction() as cursor:
            if present:
                return deliveries_load(cursor, slot=self._slot)
            deliveries_discard(cursor, slot=self._slot)
            return Deliveries()

    def _hold_slot(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._turn = slot_hold(connection, self._slot, turn=self._turn)
        if self._turn is None:
            raise SlotTaken

    async def _transact(self, work: Callable[[Cursor], None]) -> bool:
        """Do this in a transaction, however long the database is away; false when told to stop meanwhile."""
        return await self._in_thread_patiently(partial(self._in_transaction, work)) is not None

    def _in_transaction(self, work: Callable[[Cursor], None]) -> bool:
        with self._street.writer.transaction() as cursor:
            work(cursor)
        return True

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _in_thread_patiently(self, work: Callable[[], Result]) -> Result | None:
        """Do it again until the database answers. None only when told to stop meanwhile, or without the slot."""
        tries = _backoff()
        while not self.slot_taken:
            try:
                return await self._in_thread(work)
            except SlotTaken:
                self.slot_taken = True
                self.stop()
            except psycopg.Error as error:
                wait_s = next(tries)
                logger.warning(
                    "The database does not take the data (%s); trying again in %.1f s.", _brief(error), wait_s
                )
                if self._stopping.is_set():
                    return None
                await self._pause(wait_s)
        return None

    async def _pause(self, wait_s: float) -> None:
        """Sleep, but not beyond a stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), wait_s)


def incoming(packet: Packet, at: datetime, early: Early | None = None) -> Incoming:
    """A device's message for the street."""
    digest = delivery_digest(packet, early)
    return Incoming(
        packet.topic, packet.payload, at, "mqtt", packet.packet_id, digest, False, None, None, early
    )


def delivery_digest(packet: Packet, early: Early | None = None) -> int:
    """64 signed bits of topic and payload, for the delivery log. `early`: what the payload holds, if it is known."""
    content = None
    if early is not None and isinstance(early.parsed, list) and len(early.parsed) == 1:
        found = early.parsed[0]
        if (
            isinstance(found, Measurement)
            and found.tag is None
            and found.at is None
            and found.form == FORM_JSON
        ):
            content = found.digest  # of the whole payload, and of nothing else
    if content is None:
        content = digest_of(None, packet.payload)
    return content ^ _topic_digest(packet.topic)


def _topic_digest(topic: str) -> int:
    known = _topic_digests.get(topic)
    if known is None:
        if len(_topic_digests) >= TOPICS_REMEMBERED:
            _topic_digests.clear()
        digest = blake2b(topic.encode(), digest_size=8).digest()
        known = _topic_digests[topic] = int.from_bytes(digest, "big", signed=True)
    return known


_topic_digests: dict[str, int] = {}


def _backoff() -> Iterator[float]:
    yield from BACKOFF_S
    while True:
        yield BACKOFF_S[-1]


def _brief(error: psycopg.Error) -> str:
    """The first line of an error: the rest may quote data."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
