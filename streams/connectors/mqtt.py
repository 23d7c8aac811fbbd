"""The listener: takes messages from the broker, commits them through the street, then acknowledges.

One event loop owns the broker's connection, one thread owns the database's; between them a queue that stops
reading when it is full, because the broker knows no mercy. Nothing is acknowledged before its commit, and
acknowledgements go out in the order of receipt, on the connection their messages came on.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import psycopg
from gmqtt.mqtt.handler import MQTTConnectError

from devices.broker import BROKER_LOG_TOPIC, ListenerLogin
from devices.refused_sign_ins import RefusedSignIns
from streams.connectors.mqtt_client import ListenerClient, Packet
from streams.delivery import Walk, deliveries_discard, deliveries_load
from streams.pipeline import Clock, Street
from streams.plan import Incoming
from streams.topics import SUBSCRIPTIONS

logger = logging.getLogger(__name__)

BATCH_MOST = 2_000
BATCH_AGE_S = 0.02
PAUSE_ABOVE, RESUME_BELOW = 4_000, 2_000
CONNECT_TIMEOUT_S = 10.0
DRAIN_S = 5.0
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SLOT_LOCK = 7_227_100  # plus the slot's number

Result = TypeVar("Result")


@dataclass(frozen=True)
class BrokerAddress:
    host: str
    port: int
    tls: bool

    @classmethod
    def from_url(cls, url: str) -> "BrokerAddress":
        """From `mqtt://host:port` or `mqtts://host:port`. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise ValueError("MQTT_URL must look like mqtt://host:1883 or mqtts://host:8883.")
        tls = parts.scheme == "mqtts"
        return cls(parts.hostname, parts.port or (8883 if tls else 1883), tls)


class _Arrived(NamedTuple):
    """A message in the queue. A retained one is only acknowledged: it was stored when it was new."""

    client: ListenerClient
    message: Incoming
    dup: bool
    retained: bool


class _Session(NamedTuple):
    """A mark in the queue: from here on the messages of a new connection."""

    client: ListenerClient
    present: bool


class Listener:
    """Runs until told to stop. `slot` names the durable session and its delivery log."""

    def __init__(
        self, street: Street, *, address: BrokerAddress, login: ListenerLogin, slot: int, version: int
    ) -> None:
        self._street = street
        self._address = address
        self._login = login
        self._slot = slot
        self._version = version
        self._clock = Clock()
        self._queue: deque[_Arrived | _Session] = deque()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._walk = Walk([])
        self._client: ListenerClient | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._sign_ins = RefusedSignIns()
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
                await self._pause(1.0)
                continue
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
        return ListenerClient(
            client_id=self._login.client_id,
            user=self._login.username,
            password=self._login.password,
            version=self._version,
            subscriptions=[*((topic, 1) for topic in SUBSCRIPTIONS), (BROKER_LOG_TOPIC, 0)],
            on_packet=self._packet,
            on_connected=self._session,
        )

    def _session(self, client: ListenerClient, present: bool) -> None:
        self._queue.append(_Session(client, present))
        self._wake.set()

    def _packet(self, client: ListenerClient, packet: Packet) -> None:
        if packet.topic.startswith("$SYS/"):
            self._sign_ins.note(packet.payload, at=self._clock.stamp())
            return
        message = Incoming(
            packet.topic,
            packet.payload,
            self._clock.stamp(),
            packet_id=packet.packet_id,
            digest=delivery_digest(packet),
        )
        self._queue.append(_Arrived(client, message, packet.dup, packet.retain))
        if len(self._queue) > PAUSE_ABOVE:
            client.brake(True)
        self._wake.set()

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
        if self._sign_ins.waiting:
            await self._in_thread_patiently(self._write_sign_ins)
        if not self._queue:
            return
        if isinstance(self._queue[0], _Session):
            await self._begin_session()
            return
        if len(self._queue) < BATCH_MOST and not self._stopping.is_set():
            await asyncio.sleep(BATCH_AGE_S)
        await self._commit(self._take())
        if len(self._queue) < RESUME_BELOW and self._client is not None and not self._stopping.is_set():
            self._client.brake(False)

    def _take(self) -> list[_Arrived]:
        """The next batch: messages of one connection, in order. Of a lost one only what cannot come again."""
        taken: list[_Arrived] = []
        client = None
        while self._queue and len(taken) < BATCH_MOST:
            head = self._queue[0]
            if isinstance(head, _Session) or client not in (None, head.client):
                break
            self._queue.popleft()
            client = head.client
            if client.lost.is_set() and head.message.packet_id:
                continue
            taken.append(head)
        return taken

    async def _commit(self, batch: list[_Arrived]) -> None:
        """Commit, then acknowledge. Tries for ever: not one may be left behind while others go on."""
        messages = [self._told_apart(arrived) for arrived in batch if not arrived.retained]
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

    def _write_sign_ins(self) -> bool:
        with self._street.writer.transaction() as cursor:
            self._sign_ins.write(cursor)
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
