"""The listener: takes messages from the broker, commits them through the street, then acknowledges.

One event loop owns the broker's connection, one thread owns the database's; between them a queue that stops
reading when it is full, because the broker knows no mercy. Nothing is acknowledged before its commit, and
acknowledgements go out in the order of receipt, on the connection their messages came on.

Of a broker that is not ours it also reads the log, for sessions and refused sign-ins. While it is away Mosquitto keeps
the lines for 20 seconds. After a longer time nobody counts as connected until a line says so: a client that stayed is
then missing from the list until it connects or subscribes anew, but none is in it that is gone. A restart of the broker
shows in its uptime, which it tells every few seconds.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import psycopg
from gmqtt.mqtt.handler import MQTTConnectError

from devices.broker import BROKER_LOG_TOPIC, BROKER_UPTIME_TOPIC, ListenerLogin
from devices.broker_address import BrokerAddress
from devices.broker_log import BrokerLog, broker_followed, broker_followed_until, log_kind
from streams.connectors.mqtt_client import ListenerClient, Packet
from streams.delivery import Walk, deliveries_discard, deliveries_load
from streams.pipeline import Clock, Street
from streams.plan import Early, Incoming
from streams.topics import SUBSCRIPTIONS

logger = logging.getLogger(__name__)

BATCH_MOST = 5_000
BATCH_AGE_S = 0.02
PAUSE_ABOVE, RESUME_BELOW = 12_000, 6_000
# Read, a payload takes several times its size.
BATCH_MOST_BYTES, PAUSE_ABOVE_BYTES, RESUME_BELOW_BYTES = 8 << 20, 24 << 20, 12 << 20
CONNECT_TIMEOUT_S = 10.0
DRAIN_S = 5.0
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LOG_KEPT_S = 20.0  # how long Mosquitto keeps a line of its log for a session that is away
FOLLOWED_EVERY_S = 5.0
UPTIME_DOUBT_S = 2.0
SLOT_LOCK = 7_227_100  # plus the slot's number

Result = TypeVar("Result")


class _Arrived(NamedTuple):
    """A message in the queue. A retained one is only acknowledged: it was stored when it was new.

    Nor is a line of the broker's log (`of_broker`) a message of a device.
    """

    client: ListenerClient
    message: Incoming
    dup: bool
    retained: bool
    of_broker: bool


class _Session(NamedTuple):
    """A mark in the queue: from here on the messages of a new connection. `missed`: lines of the broker's log."""

    client: ListenerClient
    present: bool
    missed: bool


class Listener:
    """Runs until told to stop. `slot` names the durable session and its delivery log.

    `follows_log`: the broker runs elsewhere, so that its log is read here; by one listener of the installation.
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
        self._version = version
        self._clock = Clock()
        self._queue: deque[_Arrived | _Session] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._walk = Walk([])
        self._client: ListenerClient | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._log = BrokerLog() if follows_log else None
        self._log_loaded = False
        self._followed_until: datetime | None = None
        self._followed_written_at = 0.0
        self._heard_before: datetime | None = None
        self._connected_at: datetime | None = None
        self._uptime_s: float | None = None
        self.committed = 0
        self.connections = 0

    def stop(self) -> None:
        """Take nothing more in, commit and acknowledge what is here, leave. From the event loop only."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        connecting = asyncio.create_task(self._stay_connected())
        try:
            await self._commit_loop()
        finally:
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
            if self._client is not None:
                await self._client.close()
            await self._in_thread(self._street.writer.close)
            self._thread.shutdown()

    # --- the broker's side ---

    async def _stay_connected(self) -> None:
        tries = _backoff()
        while not self._stopping.is_set():
            if not await self._in_thread_patiently(self._hold_slot):
                logger.info("Slot %d is held by another listener; waiting for it.", self._slot)
                self._log_loaded = False  # the other one goes on with it
                await self._pause(1.0)
                continue
            if self._log is not None and not self._log_loaded:
                await self._in_thread_patiently(self._load_log)
            client = self._new_client()
            try:
                await client.connect(
                    self._address.host, self._address.port, tls=self._address.tls, timeout_s=CONNECT_TIMEOUT_S
                )
            except (OSError, MQTTConnectError) as error:
                wait_s = next(tries)
                logger.warning("No connection to the broker (%s); trying again in %.1f s.", error, wait_s)
                await client.close()
                await self._pause(wait_s)
                continue
            tries = _backoff()
            await self._until_lost(client)

    async def _until_lost(self, client: ListenerClient) -> None:
        self._client = client
        await client.subscribed.wait()
        if not client.lost.is_set():
            self.connections += 1
            logger.info("Connected to the broker at %s:%d.", self._address.host, self._address.port)
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

    def _new_client(self) -> ListenerClient:
        # At QoS 1 its lines wait for us while we are away.
        log_topics = [(BROKER_LOG_TOPIC, 1), (BROKER_UPTIME_TOPIC, 0)] if self._log is not None else []
        return ListenerClient(
            client_id=self._login.client_id,
            user=self._login.username,
            password=self._login.password,
            version=self._version,
            subscriptions=[*((topic, 1) for topic in SUBSCRIPTIONS), *log_topics],
            on_packets=self._packets,
            on_connected=self._session,
        )

    def _session(self, client: ListenerClient, present: bool) -> None:
        self._queue.append(_Session(client, present, self._missed_lines(present=present)))
        self._heard_before, self._connected_at = self._followed_until, self._clock.stamp()
        self._wake.set()

    def _packets(self, client: ListenerClient, packets: Sequence[Packet]) -> None:
        """Queue what one read brought; a moment of its own for each message."""
        stamps = self._clock.stamps(len(packets))
        self._followed_until = stamps[-1]
        for packet, at in zip(packets, stamps, strict=True):
            of_broker = packet.topic.startswith("$SYS/")
            if of_broker and packet.topic == BROKER_UPTIME_TOPIC:
                self._note_uptime(packet, at=at)
                continue
            early = None if of_broker else self._street.parse_early(packet.topic, packet.payload)
            message = incoming(packet, at, early)
            self._queue.append(_Arrived(client, message, packet.dup, packet.retain, of_broker))
            self._queued_bytes += len(packet.payload)
        if len(self._queue) > PAUSE_ABOVE or self._queued_bytes > PAUSE_ABOVE_BYTES:
            client.brake(True)
        self._wake.set()

    def _missed_lines(self, *, present: bool) -> bool:
        """Whether the broker had more to say while we were away than it kept for us."""
        if not present or self._followed_until is None:
            return True
        return self._clock.stamp() - self._followed_until > timedelta(seconds=LOG_KEPT_S)

    def _note_uptime(self, packet: Packet, *, at: datetime) -> None:
        """The broker says every few seconds how long it has run: nobody is connected since before that."""
        seconds = packet.payload.split(b" ")[0]
        if self._log is None or packet.retain or not seconds.isdigit():
            return  # a retained one may be as old as the pause between two
        uptime_s = float(seconds[:12])
        if self._uptime_s is None or uptime_s < self._uptime_s:
            before = at - timedelta(seconds=uptime_s + UPTIME_DOUBT_S)
            if (
                self._connected_at
                and self._heard_before
                and before > self._heard_before - timedelta(seconds=2 * UPTIME_DOUBT_S)
            ):
                before = self._connected_at  # it restarted while we were away: all we knew then are gone
            self._log.clear(before=before)
            self._wake.set()
        self._uptime_s = uptime_s

    # --- the database's side ---

    async def _commit_loop(self) -> None:
        loop = asyncio.get_running_loop()
        drain_until = float("inf")
        while True:
            if self._stopping.is_set() and drain_until == float("inf"):
                drain_until = loop.time() + DRAIN_S
                if self._client is not None:
                    self._client.brake(True)
            if self._stopping.is_set() and (not self._queue or loop.time() > drain_until):
                return
            await self._work()

    async def _work(self) -> None:
        """Wait for something to do, at most a second, and do one unit of it."""
        if not self._queue:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 1.0)
        if self._log is not None and self._log_loaded:
            await self._tend_log(self._log)
        if not self._queue:
            return
        if isinstance(self._queue[0], _Session):
            await self._begin_session()
            return
        if len(self._queue) < BATCH_MOST and not self._stopping.is_set():
            await asyncio.sleep(BATCH_AGE_S)
        await self._commit(self._take())
        few = len(self._queue) < RESUME_BELOW and self._queued_bytes < RESUME_BELOW_BYTES
        if few and self._client is not None and not self._stopping.is_set():
            self._client.brake(False)

    def _take(self) -> list[_Arrived]:
        """The next batch: messages of one connection, in order. Of a lost one only what cannot come again."""
        taken: list[_Arrived] = []
        client = None
        size = 0
        while self._queue and len(taken) < BATCH_MOST and size < BATCH_MOST_BYTES:
            head = self._queue[0]
            if isinstance(head, _Session) or client not in (None, head.client):
                break
            self._queue.popleft()
            size += len(head.message.payload)
            client = head.client
            if client.lost.is_set() and head.message.packet_id:
                continue
            taken.append(head)
        self._queued_bytes -= size
        return taken

    async def _commit(self, batch: list[_Arrived]) -> None:
        """Commit, then acknowledge. Tries for ever: not one may be left behind while others go on."""
        of_devices = [arrived for arrived in batch if not arrived.of_broker]
        if len(of_devices) < len(batch) and not await self._take_lines(batch):
            return
        messages = [self._told_apart(arrived) for arrived in of_devices if not arrived.retained]
        if messages and not await self._in_thread_patiently(lambda: self._street.process(messages)):
            return  # told to stop during an outage: nothing is acknowledged, so everything comes again
        self.committed += len(messages)
        if batch:
            packet_ids = [arrived.message.packet_id for arrived in batch if arrived.message.packet_id]
            batch[0].client.acknowledge(packet_ids)

    def _told_apart(self, arrived: _Arrived) -> Incoming:
        message = arrived.message
        if not message.packet_id or self._walk.over:
            return message
        known = self._walk.was_committed(packet_id=message.packet_id, digest=message.digest, dup=arrived.dup)
        return message._replace(redelivered=True) if known else message

    async def _begin_session(self) -> None:
        mark = self._queue.popleft()
        if not isinstance(mark, _Session) or mark.client.lost.is_set():
            return
        if self._log is not None and mark.missed:
            self._log.clear()
        log = await self._in_thread_patiently(lambda: (self._read_log(present=mark.present),))
        self._walk = Walk(log[0] if log else [])

    def _read_log(self, *, present: bool) -> list[tuple[int, int]]:
        with self._street.writer.transaction() as cursor:
            if present:
                return deliveries_load(cursor, slot=self._slot)
            deliveries_discard(cursor, slot=self._slot)
            return []

    def _hold_slot(self) -> bool:
        """Hold the slot's advisory lock on the writer's connection; false while another listener has it."""
        row = self._street.writer.connection.execute(
            "SELECT pg_try_advisory_lock(%s)", [SLOT_LOCK + self._slot]
        ).fetchone()
        return bool(row and row[0])

    def _load_log(self) -> bool:
        assert self._log is not None  # noqa: S101 - only then is it called
        with self._street.writer.transaction() as cursor:
            self._log.load(cursor)
            self._followed_until = broker_followed_until(cursor)
        self._log_loaded = True
        return True

    async def _take_lines(self, batch: Sequence[_Arrived]) -> bool:
        """The lines of the broker's log, before they are acknowledged. False when told to stop meanwhile."""
        if self._log is None:
            return True
        for arrived in batch:
            if arrived.of_broker:
                message = arrived.message
                self._log.note(message.payload, at=message.received_at, kind=log_kind(message.topic))
        return await self._write_log(self._log)

    async def _tend_log(self, log: BrokerLog) -> None:
        if log.waiting:
            await self._write_log(log)
        until, now = self._followed_until, asyncio.get_running_loop().time()
        if until is not None and now - self._followed_written_at > FOLLOWED_EVERY_S:
            self._followed_written_at = now
            await self._in_thread_patiently(lambda: self._write_followed(until))

    async def _write_log(self, log: BrokerLog) -> bool:
        while log.waiting:
            if not await self._in_thread_patiently(lambda: self._write_log_once(log)):
                return False
        return True

    def _write_log_once(self, log: BrokerLog) -> bool:
        with self._street.writer.transaction() as cursor:
            log.write(cursor)
        log.committed()
        return True

    def _write_followed(self, until: datetime) -> bool:
        with self._street.writer.transaction() as cursor:
            broker_followed(cursor, until)
        return True

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _in_thread_patiently(self, work: Callable[[], Result]) -> Result | None:
        """Do it again until the database answers. None only when told to stop meanwhile."""
        tries = _backoff()
        while True:
            try:
                return await self._in_thread(work)
            except psycopg.Error as error:
                wait_s = next(tries)
                logger.warning(
                    "The database does not take the data (%s); trying again in %.1f s.", _brief(error), wait_s
                )
                if self._stopping.is_set():
                    return None
                await self._pause(wait_s)

    async def _pause(self, wait_s: float) -> None:
        """Sleep, but not beyond a stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), wait_s)


def incoming(packet: Packet, at: datetime, early: Early | None = None) -> Incoming:
    """A device's message for the street."""
    digest = delivery_digest(packet)
    return Incoming(
        packet.topic, packet.payload, at, "mqtt", packet.packet_id, digest, False, None, None, early
    )


def delivery_digest(packet: Packet) -> int:
    """64 signed bits of topic and payload, for the delivery log."""
    text = packet.topic.encode() + b"\0" + packet.payload
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)


def _backoff() -> Iterator[float]:
    yield from BACKOFF_S
    while True:
        yield BACKOFF_S[-1]


def _brief(error: psycopg.Error) -> str:
    """The first line of an error: the rest may quote data."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
