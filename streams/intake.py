"""Messages that come by HTTP, on their way to the write street: one thread of a web process commits for all requests.

While one batch commits, the requests that come meanwhile gather and become the next one. A request is answered only
after its batch has committed. The thread owns the database connection; requests hand it their work and wait.
"""

import atexit
import hashlib
import json
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from django.db import Error as DjangoDatabaseError
from django.db import connections
from django.utils.translation import gettext as _

from devices.registry import AccountEntry
from servwatch_site.errors import Code, ServwatchError
from streams.pipeline import Clock, Street
from streams.plan import Incoming, Outcome, Remember, RestWrite
from streams.topics import Topic
from streams.writer import Batch, KeyTaken, Writer
from tokens.crypto import purpose_key
from tokens.rate_limits import Usage, device_usage, stranger_usage

logger = logging.getLogger(__name__)

BATCH_MOST = 500
LIMITED_FLUSH_S = 1.0
WRITERS = 4  # names of counters that web processes share among them
WAIT_S = 60.0
KEPT_FOR = timedelta(hours=24)

Answerer = Callable[[list[Outcome]], tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """What a request is answered with. `usage`: where the device stands with its limit."""

    status: int
    body: dict[str, Any]
    usage: Usage


@dataclass(frozen=True)
class Key:
    """An Idempotency-Key, and what tells two requests apart that use the same."""

    text: str
    request: bytes

    @property
    def digest(self) -> bytes:
        return _digest(self.text.encode())

    @property
    def request_digest(self) -> bytes:
        return _digest(self.request)


@dataclass
class Post:
    """One request of a device to the HTTP connector."""

    token: str
    topic: Topic
    payload: bytes
    address: str
    answer: Answerer
    key: Key | None = None
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    account: AccountEntry | None = None
    usage: Usage = field(default_factory=lambda: Usage(0))
    future: Future[Answer] = field(default_factory=Future)


@dataclass
class Write:
    """One request of an application that writes records."""

    account_key: int
    channel_key: int
    rows: Sequence[Any]
    answer: Answerer
    key: Key | None = None
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    usage: Usage = field(default_factory=lambda: Usage(0))
    future: Future[Answer] = field(default_factory=Future)


Work = Post | Write
Waiting = queue.SimpleQueue[Work | None]  # None: end


class Intake:
    """Takes work from many threads. `submit()` returns a future: an Answer, or a ServwatchError."""

    def __init__(self, *, name: str) -> None:
        self._street = Street(Writer(name=name))
        self._queue: Waiting = queue.SimpleQueue()
        self._clock = Clock()
        self._limited: Counter[tuple[int, str]] = Counter()
        self._flush_at = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, work: Work) -> Future[Answer]:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._queue = queue.SimpleQueue()
                self._thread = threading.Thread(
                    target=self._run, args=(self._queue,), name="intake", daemon=True
                )
                self._thread.start()
            work.received_at = self._clock.stamp()
            self._queue.put(work)
        return work.future

    def close(self) -> None:
        """Commit what has been handed in, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._queue.put(None)  # a thread that is started later has a queue of its own
        thread.join(timeout=WAIT_S)

    def _run(self, waiting: Waiting) -> None:
        try:
            while (batch := self._take(waiting)) is not None:
                if batch:
                    self._serve(batch)
                if self._limited and time.monotonic() >= self._flush_at:
                    self._flush_limited()
        finally:
            self._flush_limited()
            self._street.writer.close()
            connections.close_all()

    def _take(self, waiting: Waiting) -> list[Work] | None:
        """The next batch: what waits, at least one unless it is time to flush. None: told to end."""
        try:
            first = waiting.get(timeout=LIMITED_FLUSH_S if self._limited else None)
        except queue.Empty:
            return []
        batch: list[Work] = []
        while first is not None:
            batch.append(first)
            if len(batch) >= BATCH_MOST:
                return batch
            try:
                first = waiting.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            waiting.put(None)  # seen again once these are served
        return batch or None

    def _serve(self, batch: list[Work]) -> None:
        """Answer every work of the batch, come what may."""
        try:
            try:
                self._commit(batch)
            except (psycopg.OperationalError, psycopg.InterfaceError, DjangoDatabaseError):
                # A connection that died while nobody used it. Times of receipt stay, so nothing is stored twice.
                self._reconnect()
                self._commit([work for work in batch if not work.future.done()])
        except (psycopg.Error, DjangoDatabaseError) as error:
            logger.error("the database did not take a request's data: %s", type(error).__name__)
            self._reconnect()
            self._fail(
                batch,
                Code.STORAGE_UNAVAILABLE,
                _("The database does not answer at the moment. Try again shortly."),
            )
        except Exception:
            logger.exception("a batch of requests failed")
            self._reconnect()
            self._fail(batch, Code.INTERNAL_ERROR, _("Something went wrong on our side. Try again shortly."))

    def _reconnect(self) -> None:
        self._street.writer.close()
        connections.close_all()

    def _fail(self, batch: Sequence[Work], code: Code, message: str) -> None:
        for work in batch:
            if not work.future.done():
                work.future.set_exception(ServwatchError(code, message))

    def _commit(self, batch: Sequence[Work]) -> None:
        self._refresh()
        waiting = [work for work in batch if isinstance(work, Write) or self._admit(work)]
        while waiting:
            waiting = self._without_known(waiting)
            now, later = _keys_apart(waiting)
            try:
                outcomes = self._street.process([_message(work) for work in now])
            except KeyTaken:
                continue  # another process was faster: its answer is known now
            for work, found in zip(now, outcomes, strict=True):
                status, body = work.answer(found)
                work.future.set_result(Answer(status, body, work.usage))
            waiting = later

    def _refresh(self) -> None:
        """Take up what changed; the writer forgets with it, since a tag or channel may be gone."""
        with self._street.writer.connection.cursor() as cursor:
            if self._street.registry.refresh(cursor):
                self._street.writer.forget()

    def _admit(self, post: Post) -> bool:
        """Whether the token is right and the device may send now; counts it. Refused ones are answered here."""
        if post.future.done():
            return False
        if post.account is not None:
            return True  # tried before, and counted
        writer, registry = self._street.writer, self._street.registry
        with writer.connection.cursor() as cursor:
            account = registry.account_of_request(cursor, post.token, now=datetime.now(UTC))
        if account is None:
            usage = stranger_usage(post.address)
            error = (
                usage.error()
                if usage.exceeded
                else ServwatchError(
                    Code.AUTH_REQUIRED,
                    _("The device token is missing or not valid. Send it in the header X-DEVICETOKEN."),
                    headers=usage.headers,
                )
            )
            post.future.set_exception(error)
            return False
        post.usage = device_usage(account.key, post.topic.device_id, limit=account.connector_per_second)
        if post.usage.exceeded:
            if not self._limited:
                self._flush_at = time.monotonic() + LIMITED_FLUSH_S
            self._limited[(account.key, post.topic.device_id)] += 1
            post.future.set_exception(post.usage.error())
            return False
        post.account = account
        return True

    def _without_known(self, waiting: Sequence[Work]) -> list[Work]:
        """Answers the requests whose key was used before; returns the others."""
        keyed = {(_account_key(work), work.key.digest): work for work in waiting if work.key is not None}
        if not keyed:
            return list(waiting)
        known: dict[tuple[int, bytes], tuple[bytes, int, bytes]] = {}
        with self._street.writer.connection.cursor() as cursor:
            cursor.execute(
                "SELECT account_key, key_digest, request_digest, status, body FROM streams_keptanswer"
                " JOIN unnest(%s::bigint[], %s::bytea[]) AS w (a, k) ON account_key = w.a AND key_digest = w.k"
                " WHERE created_at > %s",
                [[pair[0] for pair in keyed], [pair[1] for pair in keyed], datetime.now(UTC) - KEPT_FOR],
            )
            for account_key, digest, request_digest, status, body in cursor.fetchall():
                known[(account_key, bytes(digest))] = (bytes(request_digest), status, bytes(body))
        left = []
        for work in waiting:
            found = known.get((_account_key(work), work.key.digest)) if work.key is not None else None
            if found is None:
                left.append(work)
            elif work.key is not None and found[0] != work.key.request_digest:
                work.future.set_exception(
                    ServwatchError(
                        Code.INVALID_VALUE,
                        _("This Idempotency-Key was used for another request. Choose a new one."),
                        fields={"Idempotency-Key": _("used before with other contents")},
                    )
                )
            else:
                work.future.set_result(Answer(found[1], json.loads(found[2]), work.usage))
        return left

    def _flush_limited(self) -> None:
        """Count what came too often, in the ledger of accounts and devices."""
        limited, self._limited = self._limited, Counter()
        if not limited:
            return
        writer, registry = self._street.writer, self._street.registry
        try:
            batch = Batch()
            self._refresh()
            with writer.connection.cursor() as cursor:
                registry.look_up(cursor, limited)
            for (account_key, device_id), count in limited.items():
                device = registry.device(account_key, device_id)
                batch.ledger.limited(account_key, device.key if device else 0, count, at=datetime.now(UTC))
            with writer.transaction() as cursor:
                writer.write(cursor, batch)
        except psycopg.Error:
            logger.warning("Requests over a limit could not be counted yet; trying again.")
            writer.close()
            self._limited.update(limited)
            self._flush_at = time.monotonic() + LIMITED_FLUSH_S


def intake() -> Intake:
    """The one of this process. Its thread starts with the first work."""
    return _INTAKE


def _message(work: Work) -> Incoming | RestWrite:
    remember = Remember(work.key.digest, work.key.request_digest, work.answer) if work.key else None
    if isinstance(work, Write):
        return RestWrite(work.account_key, work.channel_key, work.rows, work.received_at, remember)
    # The topic's text names the token only, by which the street finds the account.
    return Incoming(
        work.token, work.payload, work.received_at, source="http", addressed=work.topic, remember=remember
    )


def _keys_apart(waiting: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """Of several works with the same key only the first goes now."""
    now: list[Work] = []
    later: list[Work] = []
    seen: set[tuple[int, bytes]] = set()
    for work in waiting:
        pair = (_account_key(work), work.key.digest) if work.key is not None else None
        if pair is not None and pair in seen:
            later.append(work)
            continue
        if pair is not None:
            seen.add(pair)
        now.append(work)
    return now, later


def _account_key(work: Work) -> int:
    if isinstance(work, Write):
        return work.account_key
    return work.account.key if work.account is not None else 0


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=32, key=purpose_key("idempotency")).digest()


_INTAKE = Intake(name=f"http-{os.getpid() % WRITERS}")
atexit.register(_INTAKE.close)
