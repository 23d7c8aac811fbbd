"""Reads of accounts and tokens for pages, API and the write street."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone
from django.utils.translation import gettext as _

from servwatch_site.errors import Code, ServwatchError
from tokens.crypto import API_TOKEN, DEVICE_TOKEN, keyed_digest
from tokens.models import Account, ApiToken, DeviceToken


@dataclass(frozen=True)
class Traffic:
    """What became of messages; received = stored + duplicate + refused + limited."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    refused: int = 0
    limited: int = 0


def api_token_find(secret: str, *, now: datetime) -> ApiToken | None:
    """The valid API token with this secret. Found by keyed digest, so no comparison leaks its timing."""
    digest = keyed_digest(API_TOKEN, secret)
    token = ApiToken.objects.select_related("account").filter(digest=digest).first()
    return token if token and token.is_valid(now=now) else None


def api_token_list(account: Account, *, now: datetime, after: str = "") -> list[ApiToken]:
    """The account's tokens in force, the oldest first; `after` is the key of the last one seen."""
    rows = ApiToken.objects.filter(account=account, revoked_at=None).exclude(expires_at__lte=now)
    if after.isascii() and after.isdecimal() and len(after) <= 18:
        rows = rows.filter(pk__gt=int(after))
    return list(rows.order_by("pk"))


def api_token_get_for_account(account: Account, pk: int, *, now: datetime) -> ApiToken:
    """The account's token in force. Raises NOT_FOUND, also for a stranger's."""
    token = ApiToken.objects.select_related("account").filter(account=account, pk=pk).first()
    if token is None or not token.is_valid(now=now):
        raise ServwatchError(
            Code.NOT_FOUND, _("There is no such API token; it may be revoked or expired. List them first.")
        )
    return token


@dataclass(frozen=True)
class DeviceTokenNow:
    """The device token in the clear. `previous_until`: so long the HTTP connector takes the one before."""

    secret: str
    created_at: datetime
    previous_until: datetime | None


def device_token_now(account: Account) -> DeviceTokenNow:
    """The account's present device token, for its owner's eyes."""
    row = DeviceToken.objects.get(account=account, revoked_at=None)
    overlap = DeviceToken.objects.filter(account=account, overlap_until__gt=timezone.now())
    until = overlap.order_by("-overlap_until").values_list("overlap_until", flat=True).first()
    return DeviceTokenNow(row.reveal(), row.created_at, until)


def device_token_reveal(account: Account) -> str:
    """The account's present device token in the clear, for its owner's eyes and for topics."""
    return DeviceToken.objects.get(account=account, revoked_at=None).reveal()


def device_token_digest(secret: str) -> str:
    return keyed_digest(DEVICE_TOKEN, secret)


def device_tokens_in_force() -> Mapping[str, str]:
    """user_id -> device token in the clear, for the broker's password and ACL files."""
    rows = DeviceToken.objects.filter(revoked_at=None).select_related("account").order_by("account__user_id")
    return {row.account.user_id: row.reveal() for row in rows}


def several_accounts() -> bool:
    """Whether this installation serves more than one account."""
    return Account.objects.all()[:2].count() > 1


def account_traffic(account_key: int) -> Traffic:
    """The account's counters over all writers."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(received), 0), coalesce(sum(stored), 0), coalesce(sum(duplicate), 0),"
            " coalesce(sum(refused), 0), coalesce(sum(limited), 0)"
            " FROM tokens_accounttraffic WHERE account_key = %s",
            [account_key],
        )
        row = cursor.fetchone()
    return Traffic(*map(int, row))


@dataclass(frozen=True)
class StorageUse:
    """How much an account keeps. `size_bytes` is an estimate, see storage_use()."""

    count: int
    size_bytes: int


def storage_use(account_key: int) -> StorageUse:
    """The messages stored for an account, and its share of the disk space that all records take.

    The share is by number: the size of the records' tables on disk, with indexes, times the account's stored
    messages over everybody's. It costs a look at file sizes, not at records; an account whose messages are
    larger than its neighbours' is underestimated, and what was deleted since still counts as stored.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(stored) FILTER (WHERE account_key = %s), 0), coalesce(sum(stored), 0)"
            " FROM tokens_accounttraffic",
            [account_key],
        )
        own, all_stored = map(int, cursor.fetchone())
        if not own:
            return StorageUse(count=0, size_bytes=0)
        size_bytes = _records_size(cursor)
    return StorageUse(count=own, size_bytes=size_bytes * own // all_stored)


def _records_size(cursor: Any) -> int:
    """Bytes of all records on disk, with indexes; what is in TimescaleDB's columnstore is known to it alone."""
    cursor.execute("SELECT to_regprocedure('hypertable_size(regclass)') IS NOT NULL")
    if cursor.fetchone()[0]:
        cursor.execute("SELECT hypertable_size('streams_record')")
        (size_bytes,) = cursor.fetchone()
        if size_bytes is not None:
            return int(size_bytes)
    cursor.execute(
        "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits"
        " WHERE inhparent = to_regclass('streams_record')"
    )
    return int(cursor.fetchone()[0])


def traffic_of_all() -> Traffic:
    """The counters of all accounts over all writers, those of unknown tokens included."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(received), 0), coalesce(sum(stored), 0), coalesce(sum(duplicate), 0),"
            " coalesce(sum(refused), 0), coalesce(sum(limited), 0) FROM tokens_accounttraffic"
        )
        return Traffic(*map(int, cursor.fetchone()))
