"""The log of a broker that is not ours, as the listener reads it: sessions and refused sign-ins.

While the listener is away Mosquitto keeps the lines for 20 seconds. After a longer time nobody counts as connected
until a line says so: a client that stayed is then missing from the list until it connects or subscribes anew, but none
is in it that is gone. A restart of the broker shows in its uptime, which it tells every few seconds.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from devices.broker import BROKER_LOG_TOPIC, BROKER_UPTIME_TOPIC
from devices.broker_log import BrokerLog, broker_followed, broker_followed_until, log_kind
from streams.connectors.mqtt_client import Packet

LOG_KEPT_S = 20.0  # how long Mosquitto keeps a line of its log for a session that is away
FOLLOWED_EVERY_S = 5.0
UPTIME_DOUBT_S = 2.0
# At QoS 1 its lines wait for us while we are away.
LOG_SUBSCRIPTIONS = ((BROKER_LOG_TOPIC, 1), (BROKER_UPTIME_TOPIC, 0))

Cursor = psycopg.Cursor[tuple[Any, ...]]
# Runs work in a transaction until the database takes it; false when told to stop meanwhile.
Transact = Callable[[Callable[[Cursor], None]], Awaitable[bool]]


class Line(NamedTuple):
    """A line of the log. `again`: it was sent on an earlier connection already."""

    topic: str
    text: bytes
    at: datetime
    again: bool


class LogFollower:
    """Follows the log on one slot's session. Not for two threads at once."""

    def __init__(self, transact: Transact) -> None:
        self._transact = transact
        self._log = BrokerLog()
        self._loaded = False
        self._until: datetime | None = None
        self._written_at = 0.0
        self._before: datetime | None = None
        self._connected_at: datetime | None = None
        self._uptime_s: float | None = None

    async def load(self) -> None:
        """Begin with what the database has. Before the first connection."""
        if not self._loaded:
            self._loaded = await self._transact(self._load)

    def connected(self, *, present: bool, at: datetime) -> bool:
        """A connection begins; whether the broker had more to say meanwhile than it kept for us."""
        missed = not present or self._until is None or at - self._until > timedelta(seconds=LOG_KEPT_S)
        self._before, self._connected_at = self._until, at
        self._uptime_s = None  # of a broker that has restarted soon it may be as long as the one we know
        return missed

    def heard(self, at: datetime) -> None:
        """Something came, so nothing is missing until now."""
        self._until = at

    def forget(self) -> None:
        """Lines were missed: nobody is known to be connected."""
        self._log.clear()

    def note_uptime(self, packet: Packet, *, at: datetime) -> bool:
        """The broker says every few seconds how long it has run: nobody is connected since before that.

        True when that is news.
        """
        seconds = packet.payload.split(b" ")[0]
        if packet.retain or not seconds.isdigit():
            return False  # a retained one may be as old as the pause between two
        uptime_s, known_s = float(seconds[:12]), self._uptime_s
        self._uptime_s = uptime_s
        if known_s is not None and uptime_s >= known_s:
            return False
        before = at - timedelta(seconds=uptime_s + UPTIME_DOUBT_S)
        if (
            self._connected_at
            and self._before
            and before > self._before - timedelta(seconds=2 * UPTIME_DOUBT_S)
        ):
            before = self._connected_at  # it restarted while we were away: all we knew then are gone
        self._log.clear(before=before)
        return True

    async def take(self, lines: Sequence[Line]) -> bool:
        """Write what these lines tell. False when told to stop meanwhile."""
        for line in lines:
            at = line.at
            if line.again and self._connected_at is not None:
                at = min(at, self._connected_at - timedelta(microseconds=1))  # it tells of the time before
            self._log.note(line.text, at=at, kind=log_kind(line.topic))
        return await self._write()

    async def tend(self, *, now_s: float) -> None:
        """Write what waits, and now and then until when nothing is missing."""
        if not self._loaded:
            return
        if self._log.waiting:
            await self._write()
        until = self._until
        if until is not None and now_s - self._written_at > FOLLOWED_EVERY_S:
            self._written_at = now_s
            await self._transact(lambda cursor: broker_followed(cursor, until))

    def _load(self, cursor: Cursor) -> None:
        self._log.load(cursor)
        self._until = broker_followed_until(cursor)

    async def _write(self) -> bool:
        while self._log.waiting:
            if not await self._transact(self._log.write):
                return False
            self._log.committed()
        return True
