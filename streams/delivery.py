"""Tells a redelivery from a new message after a broken connection (design: the delivery log).

The broker sends again, in order and with DUP set, what it has no acknowledgement for: first deliveries that were
committed, then ones never seen. A packet id alone proves nothing (ids wrap, and go back after a broker's crash);
an equal id *and* digest, found going forward only, does. The first that does not match ends the walk.
"""

from collections.abc import Sequence
from typing import Any

import psycopg

from streams.writer import DELIVERIES_KEPT


class Walk:
    """A forward-only cursor over committed deliveries: (packet id, digest) in order of receipt. Pure."""

    def __init__(self, log: Sequence[tuple[int, int]]) -> None:
        self._places: dict[tuple[int, int], list[int]] = {}
        for place, delivery in enumerate(log):
            self._places.setdefault(delivery, []).append(place)
        self._next = 0
        self.over = not log

    def was_committed(self, *, packet_id: int, digest: int, dup: bool) -> bool:
        """Whether this delivery stands in the log. Call it for each message with a packet id, in order."""
        if self.over:
            return False
        if dup:
            for place in self._places.get((packet_id, digest), ()):
                if place >= self._next:
                    self._next = place + 1
                    return True
        self.over = True
        self._places.clear()
        return False


def deliveries_load(cursor: psycopg.Cursor[tuple[Any, ...]], *, slot: int) -> list[tuple[int, int]]:
    """The newest deliveries of a slot in order of receipt, as (packet id, digest)."""
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
    return [
        delivery
        for packet_ids, digests in cursor.fetchall()
        for delivery in zip(packet_ids, digests, strict=True)
    ]


def deliveries_discard(cursor: psycopg.Cursor[tuple[Any, ...]], *, slot: int) -> None:
    """Forget the log: the broker has no session for the slot, so nothing old can come again."""
    cursor.execute("DELETE FROM streams_deliverybatch WHERE slot = %s", [slot])
