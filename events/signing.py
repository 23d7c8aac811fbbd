"""Signatures of webhooks, as the Standard Webhooks specification has them, and the secrets behind.

What is signed is `{webhook-id}.{webhook-timestamp}.{body}`, with HMAC-SHA256. During a rotation two secrets are valid
and each gives a signature, so that a receiver verifies with whichever it knows.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from events.models import SigningSecret
from tokens.crypto import encrypt
from tokens.models import Account

PREFIX = "whsec_"
SECRET_BYTES = 32
OVERLAP = timedelta(hours=24)


@dataclass(frozen=True)
class SecretNow:
    """The secret in the clear. `previous_until`: so long the one before signs beside it."""

    secret: str
    created_at: datetime
    previous_until: datetime | None


def secret_new() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signature(secret: str, *, key: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the signature in base64."""
    signed = f"{key}.{timestamp}.".encode() + body
    digest = hmac.new(base64.b64decode(secret.removeprefix(PREFIX)), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def signature_headers(valid: Iterable[str], *, key: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of a request that is sent at this time, signed with every valid secret."""
    timestamp = int(at.timestamp())
    signatures = [signature(secret, key=key, timestamp=timestamp, body=body) for secret in valid]
    return {
        "webhook-id": key,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def secrets_valid(account: Account, *, now: datetime) -> list[str]:
    """What to sign with, the newest first; an account gets its first secret here."""
    found = [row.reveal() for row in _valid(account, now=now)]
    return found or [signing_secret_now(account, now=now).secret]


@transaction.atomic
def signing_secret_now(account: Account, *, now: datetime) -> SecretNow:
    """The account's present secret, for its owner's eyes; made if there is none."""
    if not SigningSecret.objects.filter(account=account, expires_at=None).exists():
        _locked(account)
        if not SigningSecret.objects.filter(account=account, expires_at=None).exists():
            SigningSecret.objects.create(account=account, ciphertext=encrypt(secret_new()))
    rows = _valid(account, now=now)
    previous = rows[1].expires_at if len(rows) > 1 else None
    return SecretNow(rows[0].reveal(), rows[0].created_at, previous)


@transaction.atomic
def signing_secret_rotate(account: Account, *, now: datetime, overlap: timedelta = OVERLAP) -> SecretNow:
    """A new secret; for `overlap` the present one signs beside it. One that was replaced before ends at once."""
    _locked(account)
    SigningSecret.objects.filter(account=account, expires_at__isnull=False).delete()
    SigningSecret.objects.filter(account=account, expires_at=None).update(expires_at=now + overlap)
    SigningSecret.objects.create(account=account, ciphertext=encrypt(secret_new()))
    return signing_secret_now(account, now=now)


def _valid(account: Account, *, now: datetime) -> list[SigningSecret]:
    rows = SigningSecret.objects.filter(account=account).exclude(expires_at__lte=now)
    return list(rows.order_by("-pk"))


def _locked(account: Account) -> None:
    """Two rotations of one account at once: one after the other."""
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)
