"""Refused messages: read them, replay them after the cause is mended, or let them go."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext as _

from devices.models import Device
from devices.registry import Registry
from servwatch_site.errors import Code, ServwatchError
from streams.database import CULPABLE
from streams.mapping import route
from streams.models import RefusedMessage
from streams.payload import Measurement, Refusal, parse, within_range
from streams.topics import Kind
from streams.writer import Batch, Row, Writer
from tokens.models import Account

REPLAY_STEP = 500


@dataclass(frozen=True)
class Replayed:
    """What a replay came to."""

    stored: int = 0
    duplicate: int = 0
    still_refused: int = 0

    def plus(self, other: "Replayed") -> "Replayed":
        return Replayed(
            self.stored + other.stored,
            self.duplicate + other.duplicate,
            self.still_refused + other.still_refused,
        )


def refused_list(
    account: Account,
    *,
    reason: str = "",
    device_key: int | None = None,
    before_id: int | None = None,
    limit: int = 50,
) -> list[RefusedMessage]:
    """The account's refused messages, newest first; `before_id` continues a list."""
    rows = RefusedMessage.objects.filter(account_key=account.pk)
    if reason:
        rows = rows.filter(reason=reason)
    if device_key is not None:
        rows = rows.filter(device_key=device_key)
    if before_id is not None:
        rows = rows.filter(pk__lt=before_id)
    return list(rows.order_by("-pk")[:limit])


def refused_ids(account: Account, *, reason: str = "", device_key: int | None = None) -> list[int]:
    """The ids of all that refused_list() would show page by page."""
    rows = RefusedMessage.objects.filter(account_key=account.pk)
    if reason:
        rows = rows.filter(reason=reason)
    if device_key is not None:
        rows = rows.filter(device_key=device_key)
    return list(rows.values_list("pk", flat=True))


def refused_get_for_account(account: Account, pk: int) -> RefusedMessage:
    """One refused message. Raises NOT_FOUND, also for a stranger's."""
    row = RefusedMessage.objects.filter(account_key=account.pk, pk=pk).first()
    if row is None:
        raise ServwatchError(Code.NOT_FOUND, _("This refused message is gone: replayed, deleted or expired."))
    return row


def refused_delete(account: Account, *, ids: Sequence[int]) -> int:
    """Let these go; they stay counted. Returns how many there were."""
    return RefusedMessage.objects.filter(account_key=account.pk, pk__in=ids).delete()[0]


def refused_replay(account: Account, *, ids: Sequence[int] | None, now: datetime) -> Replayed:
    """Try refused messages again with their first time of receipt, all of the account's when `ids` is None.

    What can be stored now moves from refused to stored in the transaction that deletes its refused row.
    """
    writer = Writer(name="replay")
    try:
        return _Replay(writer, account_key=account.pk, now=now).run(ids)
    finally:
        writer.close()


def replay_wanted(*, now: datetime) -> Replayed:
    """Replay for the devices that asked for it ("replay when mapped") and can store now."""
    waiting = RefusedMessage.objects.filter(
        device_key=OuterRef("pk"), reason__in=[Code.NO_MAPPED_CH, Code.DEVICE_DISABLED]
    )
    ready = Device.objects.filter(
        Exists(waiting),
        replay_when_mapped=True,
        enabled=True,
        deleted_at=None,
        channel__isnull=False,
        channel__deleted_at=None,
    )
    total = Replayed()
    for device in ready.select_related("account"):
        ids = RefusedMessage.objects.filter(device_key=device.pk).values_list("pk", flat=True)
        total = total.plus(refused_replay(device.account, ids=list(ids), now=now))
    return total


class _Replay:
    """One run over an account's refused messages, in steps of one transaction each."""

    def __init__(self, writer: Writer, *, account_key: int, now: datetime) -> None:
        self._writer = writer
        self._account_key = account_key
        self._now = now
        self._registry = Registry()

    def run(self, ids: Sequence[int] | None) -> Replayed:
        total, last_id = Replayed(), 0
        while rows := self._next(ids, after=last_id):
            last_id = rows[-1].pk
            total = total.plus(self._step(rows))
        return total

    def _next(self, ids: Sequence[int] | None, *, after: int) -> list[RefusedMessage]:
        rows = RefusedMessage.objects.filter(account_key=self._account_key, pk__gt=after)
        if ids is not None:
            rows = rows.filter(pk__in=ids)
        return list(rows.order_by("pk")[:REPLAY_STEP])

    def _step(self, rows: Sequence[RefusedMessage]) -> Replayed:
        try:
            return self._try(rows)
        except CULPABLE:
            if len(rows) == 1:
                return Replayed(still_refused=1)  # the database refuses it as before
        middle = len(rows) // 2
        return self._step(rows[:middle]).plus(self._step(rows[middle:]))

    def _try(self, rows: Sequence[RefusedMessage]) -> Replayed:
        batch = Batch()
        with self._writer.connection.cursor() as cursor:
            self._registry.refresh(cursor)
            batch.version = self._registry.version
            self._registry.look_up(
                cursor, {(self._account_key, row.device_id) for row in rows if row.device_id}
            )
            good = [row.pk for row in rows if self._plan(cursor, row, batch)]
        self._writer.days_ensure(batch.rows)
        with self._writer.transaction() as cursor:
            cursor.execute("DELETE FROM streams_refusedmessage WHERE id = ANY(%s) RETURNING id", [good])
            if cursor.rowcount != len(good):  # somebody else replays or deletes at the same time
                raise psycopg.IntegrityError("refused rows are gone")
            self._writer.write(cursor, batch)
        tally = batch.ledger.accounts().get(self._account_key)
        stored, duplicate = (tally.stored, tally.duplicate) if tally else (0, 0)
        return Replayed(stored, duplicate, len(rows) - len(good))

    def _plan(self, cursor: psycopg.Cursor[tuple[Any, ...]], row: RefusedMessage, batch: Batch) -> bool:
        """Put what the message holds into the batch; False when it would be refused again."""
        device = self._registry.device(self._account_key, row.device_id)
        account = self._registry.account(cursor, self._account_key)
        if device is None or account is None or row.kind == Kind.OTHER:
            return False
        target = route(device)
        if isinstance(target, Refusal):
            return False
        parsed = parse(Kind(row.kind), bytes(row.payload), tag=row.tag or None, zone=account.zone)
        ledger = batch.ledger
        if not isinstance(parsed, list):
            return False  # an old state must not overwrite the present one
        (found, *more) = parsed
        if more or not isinstance(found, Measurement):
            return False
        retention = self._registry.channel(target).retention
        at = found.at or row.received_at
        if within_range(at, now=self._now, retention=retention) is not None:
            return False
        batch.rows.append(
            Row(
                device.key, target, at, found.digest, found.form, found.tag, found.structure.shape, found.text
            )
        )
        batch.measured.append((target, device.key, at, None, found))  # it may end an alert, and begins none
        batch.streams.setdefault(target, set()).add(found.structure)
        ledger.replayed(self._account_key, device.key, was_device_key=row.device_key, reason=row.reason)
        return True
