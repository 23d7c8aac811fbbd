"""How the installation is doing, for the console and the metrics: listeners, broker, database, worker."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection

from streams.models import BrokerLoad, ListenerSlot
from streams.storage import Engine, Kind, engine_detect, storage_kind

SILENT = timedelta(seconds=10)  # a listener that has told nothing for so long counts as gone
BEHIND_S = 3.0
BROKER_FRESH = timedelta(seconds=30)


@dataclass(frozen=True)
class SlotNow:
    """A slot and how it is now. `silent`: nobody serves it. `lag_s` None: not known."""

    row: ListenerSlot
    silent: bool
    lag_s: float | None

    @property
    def behind(self) -> bool:
        return self.lag_s is not None and self.lag_s >= BEHIND_S

    @property
    def word(self) -> str:
        """One word: silent, unconnected, behind or current."""
        if self.silent:
            return "silent"
        if not self.row.connected:
            return "unconnected"
        return "behind" if self.behind else "current"


@dataclass(frozen=True)
class BrokerNow:
    """What the broker holds for those who have not taken it; `limit_bytes` None: its bound is not known."""

    messages: int
    message_bytes: int
    dropped: int
    limit_bytes: int | None
    at: datetime

    @property
    def share(self) -> float:
        """Of the bound, beyond which the broker drops messages; 0 where it is not known."""
        return self.message_bytes / self.limit_bytes if self.limit_bytes else 0.0

    @property
    def filling(self) -> bool:
        return self.share >= 0.5


@dataclass(frozen=True)
class ListenersNow:
    """All listeners together. `since`: until when one told anything, or None when none ever did."""

    slots: list[SlotNow]
    broker: BrokerNow | None
    since: datetime | None
    running: bool

    @property
    def lag_s(self) -> float | None:
        """Age of the oldest message that is acknowledged to a device and not stored, at least."""
        known = [slot.lag_s for slot in self.slots if slot.lag_s is not None]
        return max(known, default=None)

    @property
    def messages(self) -> int:
        """How many of those there are: what waits in the listeners, or with the broker where that tells."""
        here = sum(slot.row.queued for slot in self.slots)
        return max(here, self.broker.messages if self.broker else 0)

    @property
    def word(self) -> str:
        """One word: never, down, unconnected, behind or current."""
        if not self.running:
            return "never" if self.since is None else "down"
        if any(slot.word == "unconnected" for slot in self.slots):
            return "unconnected"
        return "behind" if any(slot.behind for slot in self.slots) else "current"


@dataclass(frozen=True)
class DatabaseNow:
    """The server, what it offers for time series, and what is made of that."""

    version: str
    engine: Engine
    kind: Kind
    size_bytes: int


@dataclass(frozen=True)
class WorkerNow:
    """`heartbeat_at` None: no worker runs. `waiting`: jobs that are due."""

    heartbeat_at: datetime | None
    waiting: int


def listeners_now(*, now: datetime) -> ListenersNow:
    """Two small queries."""
    rows = list(ListenerSlot.objects.order_by("slot"))
    reported = [row.reported_at for row in rows if row.reported_at is not None]
    newest = max(reported, default=None)
    return ListenersNow(
        slots=[_slot_now(row, now=now) for row in rows],
        broker=_broker_now(now=now),
        since=newest,
        running=newest is not None and now - newest <= SILENT,
    )


def database_now() -> DatabaseNow:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version'), pg_database_size(current_database())")
        version, size_bytes = cursor.fetchone()
        return DatabaseNow(version.split(" ")[0], engine_detect(cursor), storage_kind(cursor), size_bytes)


def worker_now() -> WorkerNow:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT max(last_heartbeat) FROM procrastinate_workers),"
            " (SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'"
            "  AND (scheduled_at IS NULL OR scheduled_at <= now()))"
        )
        return WorkerNow(*cursor.fetchone())


def record_days() -> int:
    """How many days have a partition or chunk of their own."""
    with connection.cursor() as cursor:
        if storage_kind(cursor) is Kind.HYPERTABLE:
            cursor.execute(
                "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'streams_record'"
            )
        else:
            cursor.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('streams_record')")
        return int(cursor.fetchone()[0])


def _slot_now(row: ListenerSlot, *, now: datetime) -> SlotNow:
    if row.reported_at is None:
        return SlotNow(row, silent=True, lag_s=None)
    silent = now - row.reported_at > SILENT
    lag_s = row.lag_s
    if silent:  # whatever has come since then waits
        lag_s = (lag_s or 0.0) + (now - row.reported_at).total_seconds()
    return SlotNow(row, silent=silent, lag_s=lag_s)


def _broker_now(*, now: datetime) -> BrokerNow | None:
    load = BrokerLoad.objects.first()
    if load is None or load.messages is None or now - load.at > BROKER_FRESH:
        return None
    return BrokerNow(
        messages=max(0, load.messages - (load.retained or 0)),
        message_bytes=load.message_bytes or 0,
        dropped=load.dropped or 0,
        limit_bytes=settings.BROKER_QUEUE_BYTES,
        at=load.at,
    )
