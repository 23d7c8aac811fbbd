"""Sends deliveries, and notes how each attempt ended.

A worker leases what is due for some time (`leased_until`) and sends it; one that dies in between leaves a lease that
runs out, and somebody sends it again under the same id. Of one alert a receiver gets everything in order: nothing goes
out while an earlier delivery of that alert to it is pending. Every receiver has its own place, so that a slow or dead
one delays nobody; after failures in a row that are its own fault it is left alone for a growing time, then tried with
one delivery (`Notifier.retry_at`).
"""

import asyncio
import logging
import random
import smtplib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import parseaddr
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.db import DataError, IntegrityError, close_old_connections, connection, connections, transaction
from django.db.models import F
from django.utils.translation import gettext_noop

from events.http_client import ANSWER_KEPT, NO_CONNECTION, Answer, HttpClient
from events.messages import messages_of
from events.models import Attempt, Delivery, Notifier
from events.notifiers import kind_of
from events.notifiers.shape import HttpRequest, Mail, Outgoing
from events.signing import secrets_valid, signature_headers

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)  # longer than any attempt may take
TO_ONE_AT_ONCE = 16
TO_ALL_AT_ONCE = 256
MAILS_AT_ONCE = 4
MAIL_PATIENCE_S = 10.0
CIRCUIT_OPENS_AFTER = 3
CIRCUIT_OPEN_S = (30, 600)
RETRY_S = (5, 15, 60, 300)
RETRY_LATER_S = (900, 1800)
JITTER = 0.2

NOT_RENDERED = gettext_noop("The message could not be made; the log of the worker says why.")
MAIL_REFUSED = gettext_noop("The mail server refused the message.")
MAIL_SIGN_IN = gettext_noop("The mail server refused our sign-in.")

P = ParamSpec("P")
T = TypeVar("T")

_DUE_SQL = f"""
WITH receivers AS (
    SELECT n.id, n.failures >= {CIRCUIT_OPENS_AFTER} AS on_trial,
           CASE WHEN n.failures >= {CIRCUIT_OPENS_AFTER} THEN 1
                ELSE {TO_ONE_AT_ONCE} - coalesce(busy.sending, 0) END AS room
    FROM events_notifier n
    LEFT JOIN unnest(%(busy)s::bigint[], %(counts)s::int[]) AS busy (id, sending) ON busy.id = n.id
    WHERE n.enabled AND n.deleted_at IS NULL AND (n.retry_at IS NULL OR n.retry_at <= %(now)s)
      AND coalesce(busy.sending, 0) < {TO_ONE_AT_ONCE}
      AND EXISTS (
          SELECT FROM events_delivery d
          WHERE d.notifier_id = n.id AND d.status = 'pending' AND d.next_at <= %(now)s
            AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)
      )
    ORDER BY n.id
    FOR NO KEY UPDATE OF n SKIP LOCKED
)
SELECT due.id AS delivery_id, r.id AS notifier_id, r.on_trial
FROM receivers r CROSS JOIN LATERAL (
    SELECT d.id FROM events_delivery d
    WHERE d.notifier_id = r.id AND d.status = 'pending' AND d.next_at <= %(now)s AND d.expires_at > %(now)s
      AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)
      AND NOT EXISTS (
          SELECT FROM events_deliveryitem own
          JOIN events_deliveryitem other ON other.alert_id = own.alert_id AND other.delivery_id < own.delivery_id
          JOIN events_delivery earlier ON earlier.id = other.delivery_id
          WHERE own.delivery_id = d.id AND earlier.notifier_id = d.notifier_id AND earlier.status = 'pending'
      )
    ORDER BY d.id
    LIMIT r.room
    FOR NO KEY UPDATE SKIP LOCKED
) due
LIMIT %(room)s
"""
# What is due, leased; of a receiver on trial the time of the next trial, should this one never end.
_LEASE_SQL = f"""
WITH due AS ({_DUE_SQL}), trials AS (
    UPDATE events_notifier n SET retry_at = %(lease)s FROM due WHERE n.id = due.notifier_id AND due.on_trial
)
UPDATE events_delivery d SET leased_until = %(lease)s FROM due WHERE d.id = due.delivery_id
RETURNING d.id, due.notifier_id, due.on_trial
"""
_FAILED_SQL = """
UPDATE events_delivery d
SET attempt_count = d.attempt_count + 1, leased_until = NULL, next_at = greatest(u.next_at, d.created_at)
FROM unnest(%s::bigint[], %s::timestamptz[]) AS u (id, next_at)
WHERE d.id = u.id AND d.status = 'pending'
"""
_RECEIVERS_SQL = """
UPDATE events_notifier n
SET failures = u.failures, retry_at = u.retry_at, last_ok_at = u.last_ok_at, last_error = u.last_error
FROM unnest(%s::bigint[], %s::int[], %s::timestamptz[], %s::timestamptz[], %s::text[])
     AS u (id, failures, retry_at, last_ok_at, last_error)
WHERE n.id = u.id
"""


class Claim(NamedTuple):
    """A delivery that is ours to send. `is_trial`: the one that finds out whether the receiver is back."""

    delivery_key: int
    notifier_key: int
    public_id: str
    attempts: int
    is_trial: bool
    outgoing: Outgoing | None
    signing: Sequence[str]
    hidden: Sequence[str]


class Result(NamedTuple):
    claim: Claim
    at: datetime
    ended_at: datetime
    answer: Answer


class DatabaseThread:
    """One thread with one database connection, for a task of the event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="outbox")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(_on_fresh_connection, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, connections.close_all)
        self._threads.shutdown()


class Sender:
    """Sends what is due, many at once; one per process. `clock` tells the time of each attempt."""

    def __init__(
        self,
        *,
        http: HttpClient,
        database: DatabaseThread,
        clock: Callable[[], datetime],
        seed: int | None = None,
    ) -> None:
        self._http = http
        self._database = database
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - spreads retries, guards nothing
        self._mail_threads = ThreadPoolExecutor(MAILS_AT_ONCE, thread_name_prefix="mail")
        self._sending: dict[asyncio.Task[Result], Claim] = {}
        self._unwritten: list[Result] = []

    @property
    def sending(self) -> set["asyncio.Task[Result]"]:
        """The attempts that are on their way; `step` wants to be called when one is done."""
        return set(self._sending)

    async def step(self) -> int:
        """Note what has come back, and begin what is due; returns how many were begun."""
        self._take()
        results, room = list(self._unwritten), TO_ALL_AT_ONCE - len(self._sending)
        if not results and room <= 0:
            return 0
        busy = Counter(claim.notifier_key for claim in self._sending.values())

        async def exchange(some: Sequence[Result]) -> list[Claim]:
            now, chance = self._clock(), self._random
            return await self._database.run(
                results_exchange, some, chance=chance, now=now, busy=busy, room=room
            )

        try:
            claims = await exchange(results)
            self._unwritten = [one for one in self._unwritten if one not in results]
        except (IntegrityError, DataError):
            await self._write_each()
            claims = await exchange([])
        for claim in claims:
            self._sending[asyncio.create_task(self._send(claim))] = claim
        return len(claims)

    @property
    def has_results(self) -> bool:
        """Whether attempts have ended that are not noted yet."""
        return bool(self._unwritten) or any(task.done() for task in self._sending)

    async def drain(self) -> int:
        """Until nothing more is due at this time; returns how many attempts there were."""
        count = 0
        while True:
            count += await self.step()
            if not self._sending:
                return count
            await asyncio.wait(self.sending, return_when=asyncio.FIRST_COMPLETED)

    async def close(self, *, grace_s: float) -> None:
        """Let what is on its way end, and note it; what takes longer is sent again when its lease has run out."""
        if self._sending:
            await asyncio.wait(self.sending, timeout=grace_s)
        for task in self.sending:
            task.cancel()
        await asyncio.gather(*self.sending, return_exceptions=True)
        try:
            self._take()
            await self._write_each()
        finally:
            self._mail_threads.shutdown(wait=False, cancel_futures=True)

    def _take(self) -> None:
        """Take the results of what has ended. They stay until they are written: the database may be away just now."""
        for task in [task for task in self._sending if task.done()]:
            del self._sending[task]
            if not task.cancelled():
                self._unwritten.append(task.result())

    async def _write_each(self) -> None:
        """One by one, so that one that cannot be written, such as of an account that is gone, spares the others."""
        for result in list(self._unwritten):
            try:
                await self._database.run(results_write, [result], chance=self._random)
            except (IntegrityError, DataError):
                logger.exception("How delivery %s went cannot be noted.", result.claim.delivery_key)
            self._unwritten.remove(result)

    async def _send(self, claim: Claim) -> Result:
        at = self._clock()
        try:
            answer = await self._attempt(claim, at=at)
        except Exception as error:  # a fault of ours must not end the sending to others
            logger.exception("A delivery could not be sent: %s", type(error).__name__)
            answer = Answer(False, 0, error=NOT_RENDERED)
        return Result(claim, at, self._clock(), answer)

    async def _attempt(self, claim: Claim, *, at: datetime) -> Answer:
        match claim.outgoing:
            case HttpRequest() as request:
                if request.is_signed:
                    signed = signature_headers(claim.signing, key=claim.public_id, at=at, body=request.body)
                    request = request._replace(headers={**request.headers, **signed})
                return await self._http.send(request)
            case Mail() as mail:
                send = partial(mail_send, mail, key=claim.public_id)
                return await asyncio.get_running_loop().run_in_executor(self._mail_threads, send)
            case None:
                return Answer(False, 0, error=NOT_RENDERED)


@transaction.atomic
def deliveries_claim(
    *, now: datetime, busy: Mapping[int, int] | None = None, room: int = TO_ALL_AT_ONCE
) -> list[Claim]:
    """Lease what is due and may be sent, at most `room`. `busy`: notifier key -> how many we are sending there."""
    return _claim(now=now, busy=busy or {}, room=room)


@transaction.atomic
def results_write(results: Sequence[Result], *, chance: random.Random) -> None:
    """Attempts, and what follows from them for deliveries and receivers."""
    _write(results, chance=chance)


@transaction.atomic
def results_exchange(
    results: Sequence[Result], *, chance: random.Random, now: datetime, busy: Mapping[int, int], room: int
) -> list[Claim]:
    """Write results, and claim what may be sent next, with one commit."""
    if results:
        _write(results, chance=chance)
    return _claim(now=now, busy=busy, room=room) if room > 0 else []


def _claim(*, now: datetime, busy: Mapping[int, int], room: int) -> list[Claim]:
    with connection.cursor() as cursor:
        own = {"busy": list(busy), "counts": list(busy.values())}
        cursor.execute(_LEASE_SQL, {"now": now, "lease": now + LEASE, "room": room, **own})
        rows = cursor.fetchall()
    if not rows:
        return []
    trials = {notifier for _delivery, notifier, is_trial in rows if is_trial}
    return _claims([delivery for delivery, _notifier, _is_trial in rows], trials, now=now)


def _write(results: Sequence[Result], *, chance: random.Random) -> None:
    notifiers = {
        notifier.pk: notifier
        for notifier in Notifier.objects.select_for_update(no_key=True)
        .filter(pk__in={result.claim.notifier_key for result in results})
        .order_by("pk")
    }
    Attempt.objects.bulk_create([_attempt_row(result) for result in results])
    _deliveries_note(results, chance=chance)
    for result in results:
        notifier = notifiers.get(result.claim.notifier_key)
        if notifier is not None:
            _receiver_note(notifier, result, chance=chance)
    rows = [(n.pk, n.failures, n.retry_at, n.last_ok_at, n.last_error) for n in notifiers.values()]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(_RECEIVERS_SQL, [list(column) for column in zip(*rows, strict=True)])


def deliveries_give_up(*, now: datetime) -> int:
    """What could not be delivered within its time is given up; returns how many. Who is still sending may end."""
    pending = Delivery.objects.filter(status=Delivery.Status.PENDING, expires_at__lte=now)
    return pending.exclude(leased_until__gt=now).update(status=Delivery.Status.EXPIRED)


def retry_delay(attempts: int, *, chance: random.Random) -> timedelta:
    """How long to wait after so many failed attempts."""
    if attempts <= len(RETRY_S):
        return timedelta(seconds=RETRY_S[attempts - 1] * chance.uniform(1 - JITTER, 1 + JITTER))
    return timedelta(seconds=chance.uniform(*RETRY_LATER_S))


def circuit_delay(failures: int, *, chance: random.Random) -> timedelta:
    """How long to leave a receiver alone after so many failures in a row."""
    first, most = CIRCUIT_OPEN_S
    seconds = min(first * 2 ** min(failures - CIRCUIT_OPENS_AFTER, 10), most)
    return timedelta(seconds=seconds * chance.uniform(1 - JITTER, 1))


def mail_send(mail: Mail, *, key: str) -> Answer:
    """Hand a mail to the operator's mail server. `key` makes its Message-ID, the same in every attempt."""
    began = time.perf_counter()
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    server = get_connection(timeout=MAIL_PATIENCE_S)
    letter = EmailMultiAlternatives(
        mail.subject,
        mail.text,
        to=list(mail.to),
        headers={"Message-ID": f"<{key}@{domain}>", "Auto-Submitted": "auto-generated"},
        connection=server,
    )
    letter.attach_alternative(mail.html, "text/html")
    code, error, fault = None, "", False
    try:
        letter.send()
    except smtplib.SMTPAuthenticationError as failure:
        code, error, fault = failure.smtp_code, MAIL_SIGN_IN, True
    except smtplib.SMTPRecipientsRefused as failure:
        code = next(iter(failure.recipients.values()))[0]
        error, fault = MAIL_REFUSED, code < 500
    except smtplib.SMTPResponseException as failure:
        code, error, fault = failure.smtp_code, MAIL_REFUSED, failure.smtp_code < 500
    except (OSError, smtplib.SMTPException):
        error, fault = NO_CONNECTION, True
    latency_ms = round(1000 * (time.perf_counter() - began))
    if code is not None and not 100 <= code <= 999:  # what smtplib makes of an answer that is none
        code, fault = None, True
    return Answer(not error, latency_ms, code, error=error, fault=fault)


def _on_fresh_connection(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    close_old_connections()
    return function(*args, **kwargs)


def _claims(keys: Sequence[int], trials: set[int], *, now: datetime) -> list[Claim]:
    deliveries = Delivery.objects.filter(pk__in=keys).select_related("notifier", "account").order_by("pk")
    messages = messages_of(deliveries, now=now)
    signing: dict[int, list[str]] = {}
    found = []
    for delivery in deliveries:
        notifier = delivery.notifier
        outgoing, hidden = _rendered(delivery, messages[delivery.pk])
        signed: Sequence[str] = ()
        if isinstance(outgoing, HttpRequest) and outgoing.is_signed:
            if delivery.account_id not in signing:
                signing[delivery.account_id] = secrets_valid(delivery.account, now=now)
            signed = signing[delivery.account_id]
        found.append(
            Claim(
                delivery.pk,
                notifier.pk,
                str(delivery.public_id),
                delivery.attempt_count,
                notifier.pk in trials,
                outgoing,
                signed,
                hidden,
            )
        )
    return found


def _rendered(delivery: Delivery, message: Any) -> tuple[Outgoing | None, list[str]]:
    """What is to be sent, and what must not be seen in answers to it."""
    try:
        kind, own = kind_of(delivery.notifier.kind), delivery.notifier.reveal()
        return kind.render(own, message), kind.secrets(own)
    except Exception:  # such as settings of another secret key; the others must go out
        logger.exception("Delivery %s could not be rendered.", delivery.pk)
        return None, []


def _attempt_row(result: Result) -> Attempt:
    text = result.answer.text
    for secret in sorted(result.claim.hidden, key=len, reverse=True):
        text = text.replace(secret, "…")
    return Attempt(
        delivery_id=result.claim.delivery_key,
        at=result.at,
        ok=result.answer.ok,
        latency_ms=result.answer.latency_ms,
        status_code=result.answer.status_code,
        answer=text[:ANSWER_KEPT],
        error=result.answer.error,
    )


def _deliveries_note(results: Sequence[Result], *, chance: random.Random) -> None:
    ok = [result.claim.delivery_key for result in results if result.answer.ok]
    if ok:
        Delivery.objects.filter(pk__in=ok).exclude(status=Delivery.Status.CANCELLED).update(
            status=Delivery.Status.DELIVERED,
            delivered_at=max(result.ended_at for result in results),
            attempt_count=F("attempt_count") + 1,
            leased_until=None,
        )
    failed = [(r.claim.delivery_key, _next_at(r, chance=chance)) for r in results if not r.answer.ok]
    if failed:
        with connection.cursor() as cursor:
            cursor.execute(_FAILED_SQL, [list(column) for column in zip(*failed, strict=True)])


def _next_at(result: Result, *, chance: random.Random) -> datetime:
    delay = retry_delay(result.claim.attempts + 1, chance=chance)
    return result.ended_at + max(delay, timedelta(seconds=result.answer.retry_after_s or 0))


def _receiver_note(notifier: Notifier, result: Result, *, chance: random.Random) -> None:
    """What one attempt says of its receiver."""
    answer, now = result.answer, result.ended_at
    if answer.ok:
        if notifier.failures >= CIRCUIT_OPENS_AFTER:
            _all_due(notifier, now=now)
        notifier.failures, notifier.retry_at, notifier.last_ok_at, notifier.last_error = 0, None, now, ""
        return
    notifier.last_error = _error_of(answer)
    if not answer.fault:  # it answers, if not as we wish
        notifier.failures, notifier.retry_at = 0, None
        return
    # What was sent beside, before it was known, says nothing new: the time grows from trial to trial.
    if result.claim.is_trial or notifier.failures < CIRCUIT_OPENS_AFTER:
        notifier.failures += 1
        waits = []
        if notifier.failures >= CIRCUIT_OPENS_AFTER:
            waits.append(circuit_delay(notifier.failures, chance=chance))
        if answer.retry_after_s:
            waits.append(timedelta(seconds=answer.retry_after_s))
        if waits:
            notifier.retry_at = now + max(waits)


def _error_of(answer: Answer) -> str:
    return answer.error if answer.status_code is None else f"{answer.status_code}: {answer.error}"


def _all_due(notifier: Notifier, *, now: datetime) -> None:
    """What waits for a receiver that is back is due at once."""
    pending = Delivery.objects.filter(notifier=notifier, status=Delivery.Status.PENDING, next_at__gt=now)
    pending.update(next_at=now)
