"""The one place that writes records: a batch, with everything that must be true beside it, in one transaction.

The writer has a connection of its own (no ORM). Records are copied straight into their table; where one of them
is there already, the batch is done again, carefully: COPY into a temporary table, one INSERT that ignores
duplicates. Then, last and in the order of their keys, come the rows that writers share, so that no two writers
deadlock.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from struct import Struct
from typing import Any, NamedTuple

import orjson
import psycopg

from channels.keys import unit_of
from devices.registry import unknown_devices_note
from events.evaluation import Evaluator
from events.rulebook import AnyMeasured
from streams.database import Connection, connect
from streams.ledger import Ledger, Tally
from streams.newest import records_newest
from streams.rollups import late_note
from streams.storage import Kind, partitions_create, partitions_existing, storage_kind
from streams.structures import Structure

logger = logging.getLogger(__name__)

# Of the delivery log; a flood may leave some hundred thousand acknowledgements unread in the broker for minutes.
DELIVERIES_KEPT, DELIVERIES_KEPT_ALWAYS, DELIVERIES_KEPT_MINUTES = 500_000, 20_000, 10
TRIM_EVERY_BATCHES = 500
SHAPES_PER_DEVICE = 64  # a device that invents keys forever shares one latest row beyond this many
STREAMS_PER_CHANNEL = 10_000
STRUCTURES_REMEMBERED = 20_000

CAREFUL_BATCHES = 50  # after one that held a duplicate: they come in crowds

_RECORD_COLUMNS = "device_key, channel_key, at, digest, form, tag, value"
_INCOMING_SQL = """
CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
    device_key bigint, channel_key bigint, at timestamptz, digest bigint, form smallint, tag varchar(64), value jsonb
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS newest (
    device_key bigint, channel_key bigint, tag varchar(64), shape integer, at timestamptz, digest bigint,
    form smallint, value jsonb
) ON COMMIT DELETE ROWS
"""
_COPY_SQL = f"COPY {{}} ({_RECORD_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_COPY_NEWEST_SQL = (
    "COPY newest (device_key, channel_key, tag, shape, at, digest, form, value) FROM STDIN (FORMAT BINARY)"
)
_STORE_SQL = f"""
WITH stored AS (
    INSERT INTO streams_record ({_RECORD_COLUMNS}) SELECT {_RECORD_COLUMNS} FROM incoming
    ON CONFLICT DO NOTHING RETURNING device_key
)
SELECT device_key, count(*) FROM stored GROUP BY device_key
"""
# A newer measurement wins, whoever wrote it; of equal times the last written.
_LATEST_SQL = """
INSERT INTO channels_latest AS l (device_key, channel_key, tag, shape, at, digest, form, value)
SELECT device_key, channel_key, tag, shape, at, digest, form, value FROM newest
ORDER BY device_key, channel_key, tag, shape
ON CONFLICT (device_key, channel_key, tag, shape) DO UPDATE
SET at = excluded.at, digest = excluded.digest, form = excluded.form, value = excluded.value
WHERE excluded.at >= l.at
"""
_DEVICE_TRAFFIC_SQL = """
INSERT INTO devices_devicetraffic AS t
    (device_key, writer, received, stored, duplicate, refused, limited, last_seen)
SELECT u.device_key, %s, u.received, u.stored, u.duplicate, u.refused, u.limited, u.last_seen
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[])
     AS u (device_key, received, stored, duplicate, refused, limited, last_seen)
ORDER BY u.device_key
ON CONFLICT (device_key, writer) DO UPDATE
SET received = t.received + excluded.received, stored = t.stored + excluded.stored,
    duplicate = t.duplicate + excluded.duplicate, refused = t.refused + excluded.refused,
    limited = t.limited + excluded.limited, last_seen = greatest(t.last_seen, excluded.last_seen),
    usual_interval_s = CASE
        WHEN excluded.last_seen > t.last_seen AND excluded.received > 0 THEN
            -- A smoothed gap; one outage must not make it long, a new cadence must be learned all the same. The first
            -- gap counts in full: greatest() passes over NULL.
            0.8::float8 * coalesce(t.usual_interval_s, extract(epoch FROM excluded.last_seen - t.last_seen)::float8)
            + 0.2::float8 * least(
                extract(epoch FROM excluded.last_seen - t.last_seen)::float8 / excluded.received::float8,
                greatest(coalesce(4 * t.usual_interval_s, 86400), 1)
            )
        ELSE t.usual_interval_s
    END
"""
_ACCOUNT_TRAFFIC_SQL = """
INSERT INTO tokens_accounttraffic AS t
    (account_key, writer, received, stored, duplicate, refused, limited, repeated_keys)
SELECT u.account_key, %s, u.received, u.stored, u.duplicate, u.refused, u.limited, u.repeated_keys
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
     AS u (account_key, received, stored, duplicate, refused, limited, repeated_keys)
ORDER BY u.account_key
ON CONFLICT (account_key, writer) DO UPDATE
SET received = t.received + excluded.received, stored = t.stored + excluded.stored,
    duplicate = t.duplicate + excluded.duplicate, refused = t.refused + excluded.refused,
    limited = t.limited + excluded.limited, repeated_keys = t.repeated_keys + excluded.repeated_keys
"""
_REFUSALS_SQL = """
INSERT INTO devices_refusalcount AS t (account_key, device_key, reason, writer, count)
SELECT u.account_key, u.device_key, u.reason, %s, u.count
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[]) AS u (account_key, device_key, reason, count)
ORDER BY 1, 2, 3
ON CONFLICT (account_key, device_key, reason, writer) DO UPDATE SET count = t.count + excluded.count
"""
_ANSWERS_SQL = """
INSERT INTO streams_keptanswer (account_key, key_digest, request_digest, status, body, created_at)
SELECT * FROM unnest(%s::bigint[], %s::bytea[], %s::bytea[], %s::smallint[], %s::bytea[], %s::timestamptz[])
ON CONFLICT (account_key, key_digest) DO NOTHING
"""
_REFUSED_SQL = """
COPY streams_refusedmessage
    (account_key, device_key, device_id, source, kind, tag, payload, reason, detail, received_at) FROM STDIN
"""


class Row(NamedTuple):
    """One record. `shape` is that of its latest row; `value` is JSON text."""

    device_key: int
    channel_key: int
    at: datetime
    digest: int
    form: int
    tag: str | None
    shape: int
    value: str


class RefusedRow(NamedTuple):
    """One refused measurement, in the order of the COPY's columns."""

    account_key: int
    device_key: int
    device_id: str
    source: str
    kind: str
    tag: str
    payload: bytes
    reason: str
    detail: str
    received_at: datetime


class AnswerRow(NamedTuple):
    """An answer to be given again for the same Idempotency-Key. `body` is JSON."""

    account_key: int
    key_digest: bytes
    request_digest: bytes
    status: int
    body: bytes
    created_at: datetime


class KeyTaken(Exception):
    """Another process has committed an answer under one of the batch's keys; nothing of the batch is stored."""


@dataclass
class Batch:
    """What one transaction writes. `version`: of the configuration it was planned by."""

    version: int = 0
    rows: list[Row] = field(default_factory=list)
    measured: list[AnyMeasured] = field(default_factory=list)  # what rules are to be held against
    refused: list[RefusedRow] = field(default_factory=list)
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    streams: dict[int, set[Structure]] = field(default_factory=dict)
    unknown: list[tuple[int, str, str, int]] = field(default_factory=list)
    deliveries: list[tuple[int, int]] = field(default_factory=list)  # packet id, digest
    answers: list[AnswerRow] = field(default_factory=list)
    acks: list[tuple[int, int]] = field(default_factory=list)  # command id, device key
    ledger: Ledger = field(default_factory=Ledger)


class Writer:
    """Owns one database connection. Raises psycopg errors; the caller retries the batch or splits it.

    `name` keeps this writer's counters apart from others'; `slot` is the listener slot of the delivery log. Every new
    connection goes to `on_connect` first, and is not used when that raises.
    """

    def __init__(self, *, name: str, slot: int | None = None) -> None:
        self.name = name
        self.slot = slot
        self.on_connect: Callable[[Connection], None] = lambda _connection: None
        self._connection: Connection | None = None
        self._kind = Kind.MISSING
        self._days: set[date] = set()
        self._shapes: dict[int, set[int]] = {}
        self._streams: dict[int, dict[str, str]] = {}
        self._seen: defaultdict[int, set[Structure]] = defaultdict(set)
        self._tags: set[tuple[int, str]] = set()
        self._batches = 0
        self._careful = 0
        self.evaluator = Evaluator(records_newest)

    @property
    def connection(self) -> Connection:
        """The open connection, made anew after a loss."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
            self._connection.execute("SET TIME ZONE 'UTC'")
            for statement in _INCOMING_SQL.split(";"):
                self._connection.execute(statement)
            with self._connection.cursor() as cursor:
                self._kind = storage_kind(cursor)
            self.forget()
        return self._connection

    def _connect(self) -> Connection:
        connection = connect(name=self.name)
        try:
            self.on_connect(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def forget(self) -> None:
        """Drop what was remembered of the database's contents; the next batch asks again."""
        self._days.clear()
        self._streams.clear()
        self._seen.clear()
        self._tags.clear()
        self.evaluator.forget()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        """One transaction on the writer's connection.

        After a failure nothing that was remembered from within it is trusted; a broken connection is closed,
        to be made anew.
        """
        connection = self.connection
        try:
            with connection.transaction(), connection.cursor() as cursor:
                yield cursor
        except BaseException:
            self.forget()
            if connection.broken:
                self.close()
            raise

    def transaction_number(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> str:
        """By which `has_committed` knows the transaction that is open."""
        cursor.execute("SELECT pg_current_xact_id()::text")
        return str((cursor.fetchone() or ("",))[0])

    def has_committed(self, number: str) -> bool:
        """What became of a transaction whose COMMIT was not answered. Raises OperationalError while it is open."""
        try:
            row = self.connection.execute("SELECT pg_xact_status(%s::xid8)", [number]).fetchone()
        except psycopg.DataError:
            return False  # another server has taken over, which has not come so far
        if row is not None and row[0] == "in progress":
            raise psycopg.OperationalError("the transaction that was cut off has not ended yet")
        return row is not None and row[0] == "committed"

    def days_ensure(self, rows: Sequence[Row]) -> None:
        """Make the partitions these records need, in a short transaction before the batch's own."""
        if self._kind is not Kind.PARTITIONS:
            return
        days = _days_of(rows)
        if days <= self._days:
            return
        with self.transaction() as cursor:
            self._days = partitions_existing(cursor)
            if not days <= self._days:
                partitions_create(cursor, days)
                self._days |= days

    @property
    def careful(self) -> bool:
        """Whether duplicates are to be expected: `write` should be."""
        return self._careful > 0

    def beware(self) -> None:
        """A duplicate was met: more of them may follow."""
        self._careful = CAREFUL_BATCHES

    def write(self, cursor: psycopg.Cursor[tuple[Any, ...]], batch: Batch, *, careful: bool = True) -> bool:
        """Everything of the batch, within the caller's transaction. Raises KeyTaken.

        Returns whether notifications may have been queued.

        A duplicate among the records is passed over when `careful`, which costs a third more; otherwise it raises
        UniqueViolation.
        """
        found = self.evaluator.find(cursor, batch.measured, version=batch.version)
        queued = False
        if batch.answers:
            self._answers(cursor, batch.answers)
        stored = self._records(cursor, batch.rows, careful=careful) if batch.rows else {}
        late_note(cursor, batch.rows)
        batch.ledger.settle(stored)
        if batch.refused:
            with cursor.copy(_REFUSED_SQL) as copy:
                for refused in batch.refused:
                    copy.write_row(refused)
        if batch.streams:
            self._streams_note(cursor, batch.streams)
        if batch.unknown:
            unknown_devices_note(cursor, batch.unknown, now=datetime.now(UTC))
        if batch.rows:
            self._tags_note(cursor, batch.rows)
            self._latest(cursor, batch.rows)
            queued = self.evaluator.settle(cursor, found, stored)
        if batch.states:
            self._states(cursor, batch.states)
        if batch.acks:
            self._acks(cursor, batch.acks)
        self._counters(cursor, batch.ledger)
        if batch.deliveries and self.slot is not None:
            self._deliveries(cursor, batch.deliveries)
        return queued

    def _records(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], rows: Sequence[Row], *, careful: bool
    ) -> Mapping[int, int]:
        """Device key -> how many were new."""
        with cursor.copy(_COPY_SQL.format("incoming" if careful else "streams_record")) as copy:
            copy.write(records_binary(rows))
        if not careful:
            return Counter(row.device_key for row in rows)
        self._careful = max(0, self._careful - 1)
        cursor.execute(_STORE_SQL)
        return dict(cursor.fetchall())

    def _latest(self, cursor: psycopg.Cursor[tuple[Any, ...]], rows: Sequence[Row]) -> None:
        newest: dict[tuple[int, int, str | None, int], Row] = {}
        for row in rows:
            key = (row.device_key, row.channel_key, row.tag, row.shape)
            known = newest.get(key)
            if known is None or row.at >= known.at:
                newest[key] = row
        bounded: dict[tuple[int, int, str | None, int], Row] = {}
        for (device_key, channel_key, tag, shape), row in newest.items():
            key = (device_key, channel_key, tag, self._shape(device_key, shape))
            known = bounded.get(key)
            if known is None or row.at >= known.at:
                bounded[key] = row
        with cursor.copy(_COPY_NEWEST_SQL) as copy:
            copy.write(_newest_binary((shape, row) for (_, _, _, shape), row in bounded.items()))
        cursor.execute(_LATEST_SQL)

    def _shape(self, device_key: int, shape: int) -> int:
        """The shape, or 0 for a device that has too many."""
        shapes = self._shapes.setdefault(device_key, set())
        if shape not in shapes:
            if len(shapes) >= SHAPES_PER_DEVICE:
                return 0
            shapes.add(shape)
        return shape

    def _streams_note(
        self,
        cursor: psycopg.Cursor[tuple[Any, ...]],
        seen: dict[int, set[Structure]],
    ) -> None:
        """Key paths a channel has not had before become streams; a second type makes a stream mixed."""
        new: dict[tuple[int, str], str] = {}
        for channel_key, structures in sorted(seen.items()):
            for structure in structures - self._seen[channel_key]:
                known = self._known_streams(cursor, channel_key)
                for path, kind in structure.keys:
                    have = known.get(path)
                    if have is None and len(known) >= STREAMS_PER_CHANNEL:
                        continue
                    if have not in (kind, "mixed"):
                        known[path] = new[(channel_key, path)] = kind if have is None else "mixed"
            self._seen[channel_key] |= structures
        if sum(map(len, self._seen.values())) > STRUCTURES_REMEMBERED:
            self._seen.clear()
        if new:
            self._streams_insert(cursor, new)

    def _known_streams(self, cursor: psycopg.Cursor[tuple[Any, ...]], channel_key: int) -> dict[str, str]:
        known = self._streams.get(channel_key)
        if known is None:
            cursor.execute("SELECT key, type FROM channels_stream WHERE channel_id = %s", [channel_key])
            known = self._streams[channel_key] = dict(cursor.fetchall())
        return known

    def _streams_insert(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], new: dict[tuple[int, str], str]
    ) -> None:
        pairs = sorted(new)
        cursor.execute(
            """
            INSERT INTO channels_stream AS s (channel_id, key, label, unit, type, created_at)
            SELECT u.channel_id, u.key, '', u.unit, u.type, now()
            FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) AS u (channel_id, key, unit, type)
            ON CONFLICT (channel_id, key) DO UPDATE SET type = 'mixed' WHERE s.type <> excluded.type
            """,
            [
                [channel_key for channel_key, _ in pairs],
                [path for _, path in pairs],
                [unit_of(path) for _, path in pairs],
                [new[pair] for pair in pairs],
            ],
        )

    def _tags_note(self, cursor: psycopg.Cursor[tuple[Any, ...]], rows: Sequence[Row]) -> None:
        new = {(row.channel_key, row.tag) for row in rows if row.tag is not None} - self._tags
        for channel_key, tag in sorted(new):
            cursor.execute(
                "INSERT INTO channels_tag (channel_id, name, created_at) VALUES (%s, %s, now())"
                " ON CONFLICT (channel_id, name) DO NOTHING",
                [channel_key, tag],
            )
        self._tags |= new

    def _states(self, cursor: psycopg.Cursor[tuple[Any, ...]], states: dict[int, dict[str, Any]]) -> None:
        keys = sorted(states)
        cursor.execute(
            "UPDATE devices_device d SET state = u.state::jsonb"
            " FROM unnest(%s::bigint[], %s::text[]) AS u (id, state) WHERE d.id = u.id",
            [keys, [orjson.dumps(states[key]).decode() for key in keys]],
        )

    def _acks(self, cursor: psycopg.Cursor[tuple[Any, ...]], acks: Sequence[tuple[int, int]]) -> None:
        """A command is delivered when its own device says so, also before its sender has noted that it was sent."""
        pairs = sorted(set(acks))
        cursor.execute(
            "UPDATE devices_command c SET state = 'delivered', delivered_at = now(),"
            " sent_at = coalesce(c.sent_at, now())"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS u (id, device_id)"
            " WHERE c.id = u.id AND c.device_id = u.device_id AND c.state IN ('queued', 'sent')",
            [[command_id for command_id, _ in pairs], [device_key for _, device_key in pairs]],
        )

    def _counters(self, cursor: psycopg.Cursor[tuple[Any, ...]], ledger: Ledger) -> None:
        if ledger.devices:
            seen = array_text(tally.last_seen for tally in ledger.devices.values())
            cursor.execute(_DEVICE_TRAFFIC_SQL, [self.name, *_columns(ledger.devices), seen])
        accounts = ledger.accounts()
        if accounts:
            repeated = array_text(tally.repeated_keys for tally in accounts.values())
            cursor.execute(_ACCOUNT_TRAFFIC_SQL, [self.name, *_columns(accounts), repeated])
        if ledger.refusals:
            keys = sorted(ledger.refusals)
            columns: list[list[Any]] = [list(column) for column in zip(*keys, strict=True)]
            counts = [ledger.refusals[key] for key in keys]
            cursor.execute(_REFUSALS_SQL, [self.name, *columns, counts])

    def _answers(self, cursor: psycopg.Cursor[tuple[Any, ...]], answers: Sequence[AnswerRow]) -> None:
        """First of all, and in the order of keys: whoever comes second waits here, holding nothing else."""
        columns = [list(column) for column in zip(*sorted(answers), strict=True)]
        cursor.execute(_ANSWERS_SQL, columns)
        if cursor.rowcount != len(answers):
            raise KeyTaken

    def _deliveries(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], deliveries: Sequence[tuple[int, int]]
    ) -> None:
        """Append to the delivery log of the slot, and now and then drop what is too old to come again."""
        cursor.execute(
            "INSERT INTO streams_deliverybatch (slot, packet_ids, digests, received_at)"
            " VALUES (%s, %s::int[], %s::bigint[], now())",
            [
                self.slot,
                array_text(packet_id for packet_id, _ in deliveries),
                array_text(digest for _, digest in deliveries),
            ],
        )
        self._batches += 1
        if self._batches % TRIM_EVERY_BATCHES == 0:
            cursor.execute(
                """
                DELETE FROM streams_deliverybatch WHERE slot = %s AND id < (
                    SELECT min(id) FROM (
                        SELECT id, received_at,
                               sum(cardinality(packet_ids)) OVER (ORDER BY id DESC) - cardinality(packet_ids)
                                   AS newer
                        FROM streams_deliverybatch WHERE slot = %s
                    ) AS log
                    WHERE newer < %s AND (newer < %s OR received_at > now() - make_interval(mins => %s))
                )
                """,
                [
                    self.slot,
                    self.slot,
                    DELIVERIES_KEPT,
                    DELIVERIES_KEPT_ALWAYS,
                    DELIVERIES_KEPT_MINUTES,
                ],
            )


def records_binary(rows: Sequence[Row]) -> bytes:
    """Records as COPY's binary format, in the order of its columns. Source: PostgreSQL's documentation of COPY."""
    parts = [_BINARY_BEGIN]
    for row in rows:
        value = row.value.encode()
        at_us = (row.at - _BINARY_EPOCH) // _MICROSECOND
        head = _BINARY_HEAD(7, 8, row.device_key, 8, row.channel_key, 8, at_us, 8, row.digest, 2, row.form)
        if row.tag is None:
            parts += (head, _BINARY_NO_TAG(-1, len(value) + 1, 1), value)
        else:
            tag = row.tag.encode()
            parts += (head, _BINARY_SIZE(len(tag)), tag, _BINARY_VALUE(len(value) + 1, 1), value)
    parts.append(_BINARY_END)
    return b"".join(parts)


def _newest_binary(rows: Iterable[tuple[int, Row]]) -> bytes:
    """The same for latest values, each behind the shape that it is kept under."""
    parts = [_BINARY_BEGIN]
    for shape, row in rows:
        value, tag = row.value.encode(), (row.tag or "").encode()
        at_us = (row.at - _BINARY_EPOCH) // _MICROSECOND
        head = _BINARY_NEWEST_HEAD(8, 8, row.device_key, 8, row.channel_key, len(tag))
        rest = _BINARY_NEWEST_REST(4, shape, 8, at_us, 8, row.digest, 2, row.form, len(value) + 1, 1)
        parts += (head, tag, rest, value)
    parts.append(_BINARY_END)
    return b"".join(parts)


_MICROSECOND = timedelta(microseconds=1)
_BINARY_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_BINARY_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_BINARY_END = b"\xff\xff"
# Each value behind its length: three bigint, a time in microseconds, a smallint; then a text and jsonb (version 1).
_BINARY_HEAD = Struct(">hiqiqiqiqih").pack
_BINARY_SIZE = Struct(">i").pack
_BINARY_VALUE = Struct(">ib").pack
_BINARY_NO_TAG = Struct(">iib").pack
# Two bigint, the tag; then an integer, a time, a bigint, a smallint, jsonb.
_BINARY_NEWEST_HEAD = Struct(">hiqiqi").pack
_BINARY_NEWEST_REST = Struct(">iiiqiqihib").pack


def array_text(values: Iterable[object]) -> str:
    """An array of numbers or times as PostgreSQL writes it: four times faster than passing a list. None is NULL."""
    return "{" + ",".join(["NULL" if value is None else f'"{value}"' for value in values]) + "}"


def _days_of(rows: Sequence[Row]) -> set[date]:
    """The days in UTC that these records belong to."""
    if not rows:
        return set()
    ats = [row.at for row in rows]
    first, last = min(ats).astimezone(UTC).date(), max(ats).astimezone(UTC).date()
    if (last - first).days <= 1:
        return {first, last}
    return {at.astimezone(UTC).date() for at in ats}


def _columns(tallies: Mapping[int, Tally]) -> list[str]:
    """Keys and counts as columns, for unnest()."""
    counts = tallies.values()
    return [
        array_text(tallies),
        array_text(tally.received for tally in counts),
        array_text(tally.stored for tally in counts),
        array_text(tally.duplicate for tally in counts),
        array_text(tally.refused for tally in counts),
        array_text(tally.limited for tally in counts),
    ]
