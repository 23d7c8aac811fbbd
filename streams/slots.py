"""Slots: which of several listeners takes whose messages, and who serves which slot.

A slot is a durable session at the broker with a delivery log. Every slot is sent everything; the devices are dealt out
among the slots, and of a foreign device's message a slot only tells the broker that it has it. So a device's messages
keep their order, and the broker needs nothing but durable sessions: Mosquitto forgets shared subscriptions at each
restart (docs/decisions/0014).

How the devices are dealt out changes at a mark: a message of ours, which lies between the same two messages in every
session. What comes before it belongs to the old deal, what comes after to the new one, however late a slot reads it.

Everything here that takes a cursor runs in the caller's transaction; what decides is pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zlib import crc32

import orjson
import psycopg

Cursor = psycopg.Cursor[tuple[Any, ...]]
Connection = psycopg.Connection[tuple[Any, ...]]

# Advisory locks: this number, then the slot's number or one of these. Who dies lets go of them.
LOCKS = 7_227_100
LEADER, PRESENT, SERVES = 1_000, 1_001, 2_000  # SERVES: plus the slot's number, for others to read
SLOTS_MOST = 16
TOPICS_REMEMBERED = 100_000

_shares: dict[str, int] = {}


def topic_share(topic: str) -> int:
    """A number by which devices are dealt out: the same for all topics of a device."""
    share = _shares.get(topic)
    if share is None:
        levels = topic.split("/", 3)
        device = levels[2] if len(levels) > 2 else levels[-1]
        share = crc32(f"{levels[0]}/{device}".encode("utf-8", "surrogatepass"))
        if len(_shares) >= TOPICS_REMEMBERED:
            _shares.clear()
        if len(topic) < 256:
            _shares[topic] = share
    return share


class Mark(NamedTuple):
    """What the leader says to all slots every second: the deal in force, and when it said so (seconds since 1970)."""

    epoch: int
    parts: int
    at: float

    def encode(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def decode(cls, payload: bytes) -> "Mark | None":
        """None when it is no mark."""
        try:
            found = orjson.loads(payload)
            return cls(int(found["epoch"]), int(found["parts"]), float(found["at"]))
        except (ValueError, KeyError, TypeError):
            return None


class SlotState(NamedTuple):
    """How far a slot is. `parts`: among how many slots the devices are dealt out; a slot beyond them takes none.

    `before`: `parts` before the last mark. `in_doubt`: other slots may not have reached that mark, and the broker may
    have forgotten it: what belongs to the slot by either deal is taken, so that a message may be stored twice but none
    is lost.
    """

    slot: int
    parts: int = 1
    before: int = 1
    epoch: int = 0
    session_at: datetime | None = None
    leaving: bool = False
    in_doubt: bool = False

    @property
    def takes_all(self) -> bool:
        return self.parts == 1 and self.slot == 0

    def takes(self, topic: str) -> bool:
        """Whether the message belongs to this slot."""
        share = topic_share(topic)
        return share % self.parts == self.slot or (self.in_doubt and share % self.before == self.slot)

    def after(self, mark: Mark) -> "SlotState":
        return self._replace(parts=mark.parts, before=self.parts, epoch=mark.epoch, in_doubt=False)


def slots_plan(
    states: Mapping[int, SlotState], *, wanted: int, now: datetime, settle: timedelta
) -> tuple[list[int], Mark]:
    """What the leader does next: slots to be made, and the mark to be given.

    From fewer to more: first every new slot needs a session that the broker has saved, which takes it `settle`; then
    comes the mark. From more to fewer the mark comes at once. The next change waits until all have reached the last.
    """
    if not states:
        return [0], Mark(0, 1, now.timestamp())
    newest = max(states.values(), key=lambda state: state.epoch)
    mark = Mark(newest.epoch, newest.parts, now.timestamp())
    under_way = any(state.epoch < mark.epoch or state.leaving for state in states.values())
    if under_way or mark.parts == wanted:
        return [], mark
    missing = [slot for slot in range(wanted) if slot not in states]
    if missing:
        return missing, mark
    sessions = [states[slot].session_at for slot in range(wanted)]
    if all(at is not None and at <= now - settle for at in sessions):
        return [], mark._replace(epoch=mark.epoch + 1, parts=wanted)
    return [], mark


def slots_leaving(states: Mapping[int, SlotState], *, wanted: int) -> list[int]:
    """Slots that no deal needs any more, which all have reached: they end, since nothing of theirs is left."""
    if not states:
        return []
    epoch = max(state.epoch for state in states.values())
    if any(state.epoch < epoch for state in states.values()):
        return []
    return [slot for slot, state in states.items() if slot >= max(wanted, state.parts) and not state.leaving]


class Survey(NamedTuple):
    """Who is there now. Processes are named by the number of their connection.

    `served`: the slots of each process that is there; `taken`: all slots that somebody holds.
    """

    me: int
    served: Mapping[int, frozenset[int]]
    taken: frozenset[int]
    states: Mapping[int, SlotState]

    @property
    def mine(self) -> frozenset[int]:
        return self.served.get(self.me, frozenset())


def slot_to_take(survey: Survey, *, free_for: Mapping[int, int]) -> int | None:
    """A slot without a listener that this process should serve now; `free_for`: how often each was seen free.

    Who serves fewest takes it. A process that only lost its connection for a moment is given that moment; and if nobody
    takes a slot, anybody does.
    """
    fewest = min((len(slots) for slots in survey.served.values()), default=0)
    alone = len(survey.served) <= 1
    for slot in sorted(set(survey.states) - survey.taken):
        seen = free_for.get(slot, 0)
        if seen >= 4 or (len(survey.mine) <= fewest and (alone or seen >= 2)):
            return slot
    return None


def slot_to_hand_over(survey: Survey) -> int | None:
    """The slot to be given up for a process that serves two fewer, None when all is even."""
    fewest = min((len(slots) for slots in survey.served.values()), default=0)
    if len(survey.mine) < fewest + 2:
        return None
    return max(survey.mine)


# --- the database ---


def slot_hold(connection: Connection, slot: int, *, turn: int | None) -> int | None:
    """Hold a slot as long as this connection lives. Returns the turn, or None when the slot is another's.

    Without a `turn` a new one begins. With one it goes on after a lost connection, unless somebody served the slot in
    between: what this listener has read since then was delivered to that one as well.
    """
    # A dead machine lets go within ten seconds, not after the hours that a connection is kept by default.
    for setting in ("tcp_keepalives_idle = 3", "tcp_keepalives_interval = 1", "tcp_keepalives_count = 3"):
        connection.execute(f"SET {setting}")
    connection.execute("SET tcp_user_timeout = 6000")
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCKS, slot]).fetchone()
    if row is None or not row[0]:
        return None
    if turn is None:
        row = connection.execute(
            "INSERT INTO streams_listenerslot AS s (slot, turn) VALUES (%s, 1)"
            " ON CONFLICT (slot) DO UPDATE SET turn = s.turn + 1 RETURNING turn",
            [slot],
        ).fetchone()
        return int(row[0]) if row else None
    row = connection.execute("SELECT turn FROM streams_listenerslot WHERE slot = %s", [slot]).fetchone()
    return turn if row and row[0] == turn else None


def slot_state(cursor: Cursor, slot: int) -> SlotState:
    """How far the slot is; it is in doubt while another slot has not reached the same mark."""
    cursor.execute(
        "SELECT slot, parts, before, epoch, session_at, leaving,"
        " EXISTS (SELECT 1 FROM streams_listenerslot AS o WHERE o.epoch < s.epoch AND NOT o.leaving)"
        " FROM streams_listenerslot AS s WHERE slot = %s",
        [slot],
    )
    row = cursor.fetchone()
    return SlotState(*row) if row else SlotState(slot)


def slot_reached(cursor: Cursor, state: SlotState) -> None:
    """The slot has reached a mark, and the broker knows that it has everything before it."""
    cursor.execute(
        "UPDATE streams_listenerslot SET parts = %s, before = %s, epoch = %s WHERE slot = %s AND epoch < %s",
        [state.parts, state.before, state.epoch, state.slot, state.epoch],
    )


def slot_session_begun(cursor: Cursor, slot: int, *, present: bool, at: datetime) -> None:
    """The broker has the slot's session and its subscriptions."""
    cursor.execute(
        "UPDATE streams_listenerslot SET session_at = CASE WHEN %s THEN coalesce(session_at, %s) ELSE %s END"
        " WHERE slot = %s",
        [present, at, at, slot],
    )


def slot_end(cursor: Cursor, slot: int) -> None:
    """The slot has no session any more."""
    cursor.execute("DELETE FROM streams_deliverybatch WHERE slot = %s", [slot])
    cursor.execute("DELETE FROM streams_listenerslot WHERE slot = %s", [slot])


def slots_make(cursor: Cursor, slots: Sequence[int], *, mark: Mark) -> None:
    """New slots, beyond those among which the devices are dealt out until the next mark."""
    for slot in slots:
        cursor.execute(
            "INSERT INTO streams_listenerslot (slot, parts, before, epoch) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [slot, mark.parts, mark.parts, mark.epoch],
        )


def slots_leave(cursor: Cursor, slots: Iterable[int]) -> None:
    """Tell whoever serves them that these slots may end."""
    cursor.execute("UPDATE streams_listenerslot SET leaving = true WHERE slot = ANY(%s)", [list(slots)])


def survey(cursor: Cursor) -> Survey:
    """Who is there and serves what, and how far each slot is."""
    cursor.execute(
        "SELECT pid, objid FROM pg_locks"
        " WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid = %s"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [LOCKS],
    )
    locks = [(int(pid), int(number)) for pid, number in cursor.fetchall()]
    cursor.execute(
        "SELECT slot, parts, before, epoch, session_at, leaving FROM streams_listenerslot ORDER BY slot"
    )
    states = {row[0]: SlotState(*row) for row in cursor.fetchall()}
    present = {pid for pid, number in locks if number == PRESENT}
    return Survey(
        me=cursor.connection.info.backend_pid,
        served={
            pid: frozenset(number - SERVES for other, number in locks if other == pid and number >= SERVES)
            for pid in present
        },
        taken=frozenset(number for _pid, number in locks if number < LEADER),
        states=states,
    )
