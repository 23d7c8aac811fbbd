"""Roll-ups of records per minute and hour, made by the worker after the records were written.

**The border.** Roll-ups are complete up to `rolled_until`; readers take what is newer from the records. The worker
moves the border in this order, and each step may be interrupted and done again:

1. It commits `late_from`, the new border. Whoever writes a record older than that must note its minutes as due.
2. It draws a transaction number, the barrier, and waits until every transaction with a smaller one has ended. A
   writer looks at `late_from` after it has got its number, so that a later one is sure to have seen it.
3. It makes the rows of the next minutes and moves `rolled_until`, in one transaction.

**Late and removed records** are noted as due in the transaction that writes or removes them. Readers read due minutes
from the records until the worker has made their rows anew. Notes are only ever added beside and taken away by
the worker, which saw their records: nobody waits for anybody.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from streams.database import Connection, connect
from streams.priority import give_way
from streams.rollup_rows import (
    EVERY_DEVICE,
    HOUR,
    MINUTE,
    MINUTES,
    Cursor,
    Span,
    hours_make,
    hours_within,
    minutes_make,
    spans_merged,
)
from streams.storage import RECORDS, partitions_create, partitions_existing

logger = logging.getLogger(__name__)

LOCK = 7_227_002  # one number for everybody who makes roll-ups
GRACE = timedelta(seconds=10)  # records of a minute are still on their way for so long
BUDGET_S = 45.0  # of one run
BARRIER_S = 5.0  # how long one run waits for other transactions; the next run goes on waiting
POLL_S = 0.02
AHEAD = timedelta(hours=1)  # a border further ahead was set by a wrong clock

BUSY_RECORDS = 2_000  # in a step
QUICK_S, SLOW_S = 1.0, 4.0  # a step that takes less or more is followed by a longer or shorter one
LONGEST_STEP = 60  # minutes

EXPIRE_ROWS = 5_000
DUE_ROWS = 5_000  # looked at in one step
DUE_SPANS = 500  # made anew in one step

_LATE_SQL = """
INSERT INTO streams_rollupdue (device_key, channel_key, low, high)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::timestamptz[])
"""
# Around a DELETE of records that is the {delete} and returns all their columns.
DELETE_NOTED_SQL = """
WITH gone AS ({delete} RETURNING r.device_key, r.channel_key, r.at), due AS (
    INSERT INTO streams_rollupdue (device_key, channel_key, low, high)
    SELECT device_key, channel_key, date_trunc('minute', min(at), 'UTC'),
           date_trunc('minute', max(at), 'UTC') + interval '1 minute'
    FROM gone
    GROUP BY device_key, channel_key, date_trunc('hour', at, 'UTC')
)
SELECT count(*) FROM gone
"""
_BUSY_SQL = """
SELECT c.id, found.n FROM channels_channel AS c CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (
        SELECT 1 FROM streams_record AS r
        WHERE r.channel_key = c.id AND r.at >= %(low)s AND r.at < %(high)s LIMIT %(most)s
    ) AS few
) AS found
WHERE found.n > 0
"""
_WITH_MINUTES_SQL = f"""
SELECT c.id FROM channels_channel AS c
WHERE EXISTS (SELECT 1 FROM {MINUTES} AS m WHERE m.channel_key = c.id AND m.at >= %s AND m.at < %s)
"""
_EXPIRE_STEP_SQL = """
DELETE FROM streams_rolluphour AS h USING (
    SELECT device_key, at, channel_key, tag FROM streams_rolluphour WHERE channel_key = %s AND at < %s LIMIT %s
) AS old
WHERE h.device_key = old.device_key AND h.at = old.at AND h.channel_key = old.channel_key AND h.tag = old.tag
"""
_FIRST_SQL = """
SELECT min(found.at) FROM channels_channel AS c CROSS JOIN LATERAL (
    SELECT r.at FROM streams_record AS r WHERE r.channel_key = c.id ORDER BY r.at LIMIT 1
) AS found
"""


@dataclass(frozen=True)
class Mark:
    """As it stands in the database; streams/models.py says what the fields mean."""

    late_from: datetime
    rolled_until: datetime | None
    barrier: int | None

    @property
    def pending(self) -> bool:
        return self.rolled_until != self.late_from


class Measured(Protocol):
    """What has to be known of a record that is written."""

    @property
    def device_key(self) -> int: ...
    @property
    def channel_key(self) -> int: ...
    @property
    def at(self) -> datetime: ...


def late_note(cursor: Cursor, rows: Sequence[Measured]) -> None:
    """Note which records of a batch belong to minutes that may be rolled up already.

    Called by the writer within the batch's transaction, after its records are stored: by then the transaction has
    its number, which the barrier relies on.
    """
    if not rows:
        return
    cursor.execute("SELECT late_from FROM streams_rollupmark")
    mark = cursor.fetchone()
    if mark is None or min(row.at for row in rows) >= mark[0]:
        return
    spans = spans_merged(
        Span(row.channel_key, _minute(row.at), _minute(row.at) + MINUTE, row.device_key)
        for row in rows
        if row.at < mark[0]
    )
    columns = zip(*((span.device_key, span.channel_key, span.low, span.high) for span in spans), strict=True)
    cursor.execute(_LATE_SQL, [list(column) for column in columns])


def rollups_make(
    *, now: Callable[[], datetime], stop: Callable[[], bool] = lambda: False, budget_s: float = BUDGET_S
) -> bool:
    """Roll up what there is, step by step until nothing is left, the time is over or `stop` says so.

    True when nothing is left. Does nothing while another process is at it.
    """
    ends = time.monotonic() + budget_s
    with connect(name="rollups") as own:
        if not _locked(own):
            return False
        give_way(own)
        roller = Roller(own)
        while not stop():
            if not roller.step(now=now()):
                return True
            if time.monotonic() > ends:
                break
    return False


def hours_expire(own: Connection, *, before: datetime) -> int:
    """Delete the hours of days that no channel keeps, in small steps; returns how many rows went."""
    limit = before.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    gone = 0
    for (channel_key,) in own.execute("SELECT id FROM channels_channel").fetchall():
        while count := own.execute(_EXPIRE_STEP_SQL, [channel_key, limit, EXPIRE_ROWS]).rowcount:
            gone += count
    return gone


def _locked(own: Connection) -> bool:
    """The lock ends with the connection."""
    row = own.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone()
    return bool(row and row[0])


class Roller:
    """Makes roll-ups on a connection of its own, which has the lock."""

    def __init__(self, own: Connection) -> None:
        self._own = own
        self._minutes = 10  # of the next step
        own.prepare_threshold = None  # each plan is made for its own days
        own.execute("SET TIME ZONE 'UTC'")
        own.execute(
            "SET enable_seqscan = off"
        )  # an index is right, also for a table that is new and has no statistics
        own.execute("SET jit = off")
        own.execute("SET work_mem = '64MB'")
        own.execute("SET max_parallel_workers_per_gather = 0")

    def step(self, *, now: datetime) -> bool:
        """Some minutes more, then some that are due; returns whether there was anything to do."""
        moved = self._move(now=now)
        return self._due() or moved

    # --- the border ---

    def _move(self, *, now: datetime) -> bool:
        mark = self._mark()
        if mark is not None and mark.late_from > now + AHEAD:
            return self._take_back(now=now)
        if mark is None or not mark.pending:
            border = _minute(now - GRACE)
            if mark is not None and border <= mark.late_from:
                return False
            self._announce(border)
            mark = self._mark()
        if mark is None or not self._all_know(mark):
            return False
        begin = mark.rolled_until or self._first(mark)
        self._roll(mark, begin)
        return True

    def _mark(self) -> Mark | None:
        row = self._own.execute("SELECT late_from, rolled_until, barrier FROM streams_rollupmark").fetchone()
        return None if row is None else Mark(*row)

    def _announce(self, border: datetime) -> None:
        self._own.execute(
            "INSERT INTO streams_rollupmark AS m (id, late_from) VALUES (1, %s)"
            " ON CONFLICT (id) DO UPDATE SET late_from = excluded.late_from, barrier = NULL",
            [border],
        )

    def _all_know(self, mark: Mark) -> bool:
        """Whether no transaction is left that may not know of `late_from`; waits a little for it."""
        if (
            mark.barrier is None
        ):  # a transaction of its own, so that the number is drawn after `late_from` is seen
            self._own.execute(
                "UPDATE streams_rollupmark SET barrier = pg_current_xact_id()::text::bigint WHERE late_from = %s",
                [mark.late_from],
            )
        ends = time.monotonic() + BARRIER_S
        while not self._barrier_passed():
            if time.monotonic() > ends:
                logger.warning("Roll-ups wait for a transaction that has been open for long.")
                return False
            time.sleep(POLL_S)
        return True

    def _barrier_passed(self) -> bool:
        """A number that this server has not reached yet comes from another one, whose transactions are no more."""
        row = self._own.execute(
            "SELECT pg_snapshot_xmin(s)::text::bigint > m.barrier OR pg_snapshot_xmax(s)::text::bigint <= m.barrier"
            " FROM streams_rollupmark AS m, pg_current_snapshot() AS s"
        ).fetchone()
        return bool(row and row[0])

    def _first(self, mark: Mark) -> datetime:
        """Where to begin when there are no roll-ups yet: the hour of the first record."""
        row = self._own.execute(_FIRST_SQL).fetchone()
        first = row[0] if row else None
        return mark.late_from if first is None else min(_hour(first), mark.late_from)

    def _take_back(self, *, now: datetime) -> bool:
        """Begin again from now: a clock that was far ahead had moved the border there."""
        border = _minute(now - GRACE)
        logger.warning("The border of the roll-ups lay ahead of the clock and is taken back.")
        with self._own.transaction():
            self._own.execute("DELETE FROM streams_rollupminute WHERE at >= %s", [border])
            self._own.execute("DELETE FROM streams_rolluphour WHERE at >= %s", [_hour(border)])
            self._own.execute(
                "UPDATE streams_rollupmark SET late_from = %(border)s, barrier = NULL,"
                " rolled_until = CASE WHEN rolled_until > %(border)s THEN %(border)s ELSE rolled_until END",
                {"border": border},
            )
        return True

    def _roll(self, mark: Mark, begin: datetime) -> None:
        """The rows of the next minutes, within one hour."""
        end = min(mark.late_from, begin + self._minutes * MINUTE, _hour(begin) + HOUR)
        began = time.monotonic()
        self._days_ensure({begin})
        with self._own.transaction(), self._own.cursor() as cursor:
            if begin < end:
                self._minutes_make(cursor, begin, end)
            if end == _hour(end):
                self._hours_make(cursor, end - HOUR)
            cursor.execute(
                "UPDATE streams_rollupmark SET rolled_until = %s WHERE rolled_until IS NOT DISTINCT FROM %s",
                [end, mark.rolled_until],
            )
            if cursor.rowcount != 1:
                raise RuntimeError("somebody else moved the border of the roll-ups")
        self._pace(time.monotonic() - began)

    def _minutes_make(self, cursor: Cursor, begin: datetime, end: datetime) -> None:
        cursor.execute(_BUSY_SQL, {"low": begin, "high": end, "most": BUSY_RECORDS})
        counts: dict[int, int] = dict(cursor.fetchall())
        busy = {key for key, count in counts.items() if count >= BUSY_RECORDS}
        minutes_make(cursor, [Span(key, begin, end) for key in sorted(counts)], busy=busy)

    def _hours_make(self, cursor: Cursor, hour: datetime) -> None:
        cursor.execute(_WITH_MINUTES_SQL, [hour, hour + HOUR])
        hours_make(cursor, [Span(key, hour, hour + HOUR) for (key,) in cursor.fetchall()])

    def _pace(self, took_s: float) -> None:
        if took_s < QUICK_S:
            self._minutes = min(self._minutes * 2, LONGEST_STEP)
        elif took_s > SLOW_S:
            self._minutes = max(self._minutes // 2, 1)

    # --- what came late or went ---

    def _due(self) -> bool:
        """Make some of the due minutes anew; returns whether there were any."""
        mark = self._mark()
        if mark is None or mark.rolled_until is None:
            return False
        rows = self._own.execute(
            "SELECT id, device_key, channel_key, low, high FROM streams_rollupdue ORDER BY id LIMIT %s",
            [DUE_ROWS],
        ).fetchall()
        spans, done = _due_spans(rows, until=mark.rolled_until)
        if not done:
            return False
        self._days_ensure({span.low for span in spans})
        whole = [span._replace(device_key=None) for span in spans if span.device_key == EVERY_DEVICE]
        with self._own.transaction(), self._own.cursor() as cursor:
            for some in (whole, [span for span in spans if span.device_key != EVERY_DEVICE]):
                minutes_make(cursor, some)
                hours_make(cursor, hours_within(some, until=mark.rolled_until))
            cursor.execute("DELETE FROM streams_rollupdue WHERE id = ANY(%s)", [done])
        return True

    def _days_ensure(self, times: set[datetime]) -> None:
        """Make the partitions that these times need: where there are records, there are to be roll-ups."""
        days = {at.date() for at in times}
        with self._own.transaction(), self._own.cursor() as cursor:
            days &= partitions_existing(cursor, table=RECORDS.table)
            if days - partitions_existing(cursor, table=MINUTES):
                partitions_create(cursor, days, table=MINUTES)


def _due_spans(rows: Sequence[tuple[Any, ...]], *, until: datetime) -> tuple[list[Span], list[int]]:
    """The spans to make anew, DUE_SPANS at most, and the ids of the notes that are then done.

    What lies beyond the border needs no note: the rows there will be made from the records as they are now.
    """
    spans: dict[tuple[int, int, datetime], Span] = {}
    done = []
    for ident, device_key, channel_key, low, high in rows:
        key = (device_key, channel_key, _hour(low))
        high = min(high, until)
        if low < high and key not in spans and len(spans) >= DUE_SPANS:
            continue
        done.append(ident)
        if low < high:
            had = spans.get(key)
            low, high = (min(low, had.low), max(high, had.high)) if had else (low, high)
            spans[key] = Span(channel_key, low, high, device_key)
    return spans_merged(spans.values()), done


def _minute(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(second=0, microsecond=0)


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
