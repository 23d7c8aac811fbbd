"""The whole write street on one screen: parse, resolve, route, write, tell the open pages.

Both connectors bring their messages here. One transaction per batch holds records, refused messages, latest
values, counters and the delivery log; only after it has committed may the connector acknowledge.
"""

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from devices.registry import AccountEntry, Newcomer, Registry
from events.notifiers_store import OUTBOX_NOTIFY
from servwatch_site.errors import Code
from streams.caps import RefusedCaps
from streams.database import CULPABLE
from streams.live import LIVE_NOTIFY, live_payload
from streams.payload import Parsed, Refusal, parse
from streams.plan import Early, Incoming, Outcome, Plan, Prepared, RestWrite
from streams.topics import topic_parse
from streams.writer import Writer

logger = logging.getLogger(__name__)


class Clock:
    """Stamps times of receipt: the wall clock, but strictly increasing within the process."""

    def __init__(self) -> None:
        self._last = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def stamp(self) -> datetime:
        return self.stamps(1)[0]

    def stamps(self, count: int) -> list[datetime]:
        """Moments of messages that came together, a microsecond apart."""
        now = datetime.now(UTC)
        with self._lock:
            first = max(now, self._last + _TICK)
            stamps = [first + _TICK * place for place in range(count)]
            self._last = stamps[-1]
        return stamps


_TICK = timedelta(microseconds=1)


class _Doubt(NamedTuple):
    """A batch whose COMMIT was sent and not answered yet."""

    transaction: str
    messages: Sequence[Incoming | RestWrite]
    outcomes: list[list[Outcome]]


class Street:
    """The write street of one process. Not for two threads at once: the writer owns one connection."""

    def __init__(self, writer: Writer, registry: Registry | None = None) -> None:
        self.writer = writer
        self.registry = registry or Registry()
        self._caps = RefusedCaps()
        self._doubt: _Doubt | None = None
        self._settled: dict[datetime, list[Outcome]] = {}

    def process(self, batch: Sequence[Incoming | RestWrite]) -> list[list[Outcome]]:
        """Commit a batch and return the outcomes of each message, in order. Raises KeyTaken.

        What the database refuses as bad data is found by halving the batch, and kept as refused; its
        neighbours are stored. Any other database error is raised: the caller tries the same batch again. What is
        committed of it is then not written a second time, also where the answer to COMMIT was lost.
        """
        interrupted = self._doubt is not None or bool(self._settled)
        outcomes = self._resume(batch) if interrupted else self._process(batch)
        self._settled.clear()
        return outcomes

    def _process(self, batch: Sequence[Incoming | RestWrite]) -> list[list[Outcome]]:
        try:
            return self._commit(batch, careful=self.writer.careful)
        except psycopg.errors.UniqueViolation:
            self.writer.beware()
            return self._commit_halving(batch)
        except CULPABLE:
            # What the writer remembered may have been stale, such as a day dropped meanwhile. It is forgotten now.
            return self._commit_halving(batch)

    def _resume(self, batch: Sequence[Incoming | RestWrite]) -> list[list[Outcome]]:
        """After a failure. Times of receipt tell messages apart: a process gives each only once."""
        doubt = self._doubt
        if doubt is not None:
            if self.writer.has_committed(doubt.transaction):
                self._settle(doubt.messages, doubt.outcomes)
            self._doubt = None
        left = [message for message in batch if message.received_at not in self._settled]
        if left:
            self._settle(left, self._process(left))
        return [self._settled[message.received_at] for message in batch]

    def _settle(self, messages: Sequence[Incoming | RestWrite], outcomes: Sequence[list[Outcome]]) -> None:
        """Remember what is committed, until the whole batch is."""
        self._settled.update(
            (message.received_at, found) for message, found in zip(messages, outcomes, strict=True)
        )

    def parse_early(self, topic_text: str, payload: bytes) -> Early | None:
        """Read a payload before its turn, while the database works for others; for any thread.

        None where the account is not known yet or something is wrong: its turn will tell.
        """
        topic = topic_parse(topic_text)
        zone = self.registry.zone_known(topic.token)
        if zone is None or topic.problem is not None:
            return None
        try:
            return Early(zone, parse(topic.kind, payload, tag=topic.tag, zone=zone))
        except Exception:
            return None  # told when it is tried again

    def _commit_halving(self, batch: Sequence[Incoming | RestWrite]) -> list[list[Outcome]]:
        try:
            return self._commit(batch)
        except CULPABLE as error:
            if len(batch) == 1:
                logger.warning("The database refused a message: %s", error.sqlstate)
                detail = f"the database refused it: {error.diag.message_primary or error.sqlstate}"
                return self._commit(batch, give_up=Refusal(Code.STORAGE_REFUSED, detail[:256]))
            middle = len(batch) // 2
            first = self._commit_halving(batch[:middle])
            self._settle(batch[:middle], first)
            return first + self._commit_halving(batch[middle:])

    def _commit(
        self,
        messages: Sequence[Incoming | RestWrite],
        *,
        give_up: Refusal | None = None,
        careful: bool = True,
    ) -> list[list[Outcome]]:
        while True:
            prepared, newcomers = self._prepare(messages)
            plan = Plan(self.registry, newcomers, now=datetime.now(UTC), give_up=give_up)
            outcomes = [
                plan.add(item) if isinstance(item, Prepared) else plan.add_write(item) for item in prepared
            ]
            self.writer.days_ensure(plan.batch.rows)
            with self.writer.transaction() as cursor:
                if self.registry.refresh(cursor):
                    self.writer.forget()
                    continue  # a device, mapping or token changed since the plan was made: plan again
                plan.batch.refused = self._caps.keep(cursor, plan.batch.refused, registry=self.registry)
                queued = self.writer.write(cursor, plan.batch, careful=careful)
                self._doubt = _Doubt(self.writer.transaction_number(cursor), messages, outcomes)
            self._doubt = None
            self._tell(plan, notifications=queued)
            return outcomes

    def _prepare(
        self, messages: Sequence[Incoming | RestWrite]
    ) -> tuple[list[Prepared | RestWrite], dict[tuple[int, str], Newcomer]]:
        """Parse, and make sure every device is known or activated."""
        with self.writer.connection.cursor() as cursor:
            if self.registry.refresh(cursor):
                self.writer.forget()  # a tag or channel may be gone
            accounts: dict[str, AccountEntry | None] = {}
            prepared = [
                self._parse(cursor, message, accounts) if isinstance(message, Incoming) else message
                for message in messages
            ]
            missing = self.registry.look_up(cursor, _devices_wanted(prepared))
        if not missing:
            return prepared, {}
        with self.writer.transaction() as cursor:
            newcomers = self.registry.activate(cursor, missing, now=datetime.now(UTC))
        return prepared, newcomers

    def _parse(
        self,
        cursor: psycopg.Cursor[tuple[Any, ...]],
        message: Incoming,
        accounts: dict[str, AccountEntry | None],
    ) -> Prepared:
        """`accounts` remembers for one batch whose token it is."""
        topic = message.addressed or topic_parse(message.topic)
        if topic.token in accounts:
            account = accounts[topic.token]
        else:
            account = accounts[topic.token] = self.registry.account_of(cursor, topic.token)
        if account is None:
            return Prepared(message, topic, None, [_UNKNOWN_TOKEN])
        if topic.problem is not None:
            return Prepared(message, topic, account, [Refusal(*topic.problem)])
        if message.early is not None and message.early.zone is account.zone:
            return Prepared(message, topic, account, message.early.parsed)
        parsed: Parsed
        try:
            parsed = parse(topic.kind, message.payload, tag=topic.tag, zone=account.zone)
        except Exception:  # a fault of ours must cost one message its storing, not the listener its life
            logger.exception("A payload could not be parsed; it is kept as refused.")
            parsed = [_FAULT]
        return Prepared(message, topic, account, parsed)

    def _tell(self, plan: Plan, *, notifications: bool) -> None:
        """Wake the open pages, and whoever sends. The batch is committed: what goes wrong here loses nothing."""
        try:
            payload = live_payload(plan.accounts, plan.channels, plan.devices)
            self.writer.connection.execute("SELECT pg_notify(%s, %s)", [LIVE_NOTIFY, payload])
            if notifications:
                self.writer.connection.execute("SELECT pg_notify(%s, '')", [OUTBOX_NOTIFY])
        except psycopg.Error as error:
            logger.warning("Open pages were not told of new data: %s", type(error).__name__)


_FAULT = Refusal(Code.INTERNAL_ERROR, "reading it failed; replay it after an update")
_UNKNOWN_TOKEN = Refusal(Code.UNKNOWN_TOKEN, "the topic begins with no account's device token")


def _devices_wanted(prepared: Sequence[Prepared | RestWrite]) -> set[tuple[int, str]]:
    """The devices these messages are about; a message with an unusable topic is about none."""
    return {
        (item.account.key, item.topic.device_id)
        for item in prepared
        if isinstance(item, Prepared) and item.account is not None and item.topic.problem is None
    }
