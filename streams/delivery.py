"""Tells a redelivery from a new message after a broken connection (design: the delivery log).

The broker sends again, in order and with DUP set, what it has no acknowledgement for: first deliveries that were
committed, then ones never seen. A packet id alone proves nothing (ids wrap, and go back after a broker's crash);
an equal id *and* digest, found going forward only, does. The first that does not match ends the walk.

The log is long, since acknowledgements may wait in the broker: of all connections that have something to read
Mosquitto reads one packet in turn, so that in a flood of publishers it takes in fewer than we send.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Self

import psycopg

from streams.writer import DELIVERIES_KEPT


class Deliveries:
    """Committed deliveries in order of receipt, as two columns."""

    def __init__(self) -> None:
        self.packet_ids = array("i")
        self.digests = array("q")

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Self:
        """Of (packet id, digest)."""
        found = cls()
        for packet_id, digest in pairs:
            found.packet_ids.append(packet_id)
            found.digests.append(digest)
        return found

    def __len__(self) -> int:
        return len(self.digests)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.packet_ids, self.digests, strict=True)


class Walk:
    """A forward-only cursor over committed deliveries. Pure."""

    def __init__(self, log: Deliveries) -> None:
        self._log = log
        self._next = 0
        self.over = not log

    def was_committed(self, *, packet_id: int, digest: int, dup: bool) -> bool:
        """Whether this delivery stands in the log. Call it for each message with a packet id, in order."""
        if self.over:
            return False
        if dup and self._advance(packet_id, digest):
            return True
        self.over = True
        self._log = Deliveries()
        return False

    def _advance(self, packet_id: int, digest: int) -> bool:
        place = self._next
        try:
            while True:
                place = self._log.digests.index(digest, place)
                if self._log.packet_ids[place] == packet_id:
                    self._next = place + 1
                    return True
                place += 1
        except ValueError:
            return False


def deliveries_load(cursor: psycopg.Cursor[tuple[Any, ...]], *, slot: int) -> Deliveries:
    """The newest deliveries of a slot."""
    cursor.execute(
        """
        SELECT packet_ids, digests FROM (
            SELECT id, packet_ids, digests,
                   sum(cardinality(packet_ids)) OVER (ORDER BY id DESC) - cardinality(packet_ids) AS newer
            FROM streams_deliverybatch WHERE slot = %s
        ) AS log WHERE newer < %s ORDER BY id
        """,
        [slot, DELIVERIES_KEPT],
    )
    found = Deliveries()
    for packet_ids, digests in cursor:
        found.packet_ids.extend(packet_ids)
        found.digests.extend(digests)
    return found


def deliveries_discard(cursor: psycopg.Cursor[tuple[Any, ...]], *, slot: int) -> None:
    """Forget the log: the broker has no session for the slot, so nothing old can come again."""
    cursor.execute("DELETE FROM streams_deliverybatch WHERE slot = %s", [slot])
