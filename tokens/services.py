"""The only place that writes accounts, users and tokens."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from servwatch_site.errors import Code, ServwatchError
from tokens.config import config_bump
from tokens.crypto import API_TOKEN, DEVICE_TOKEN, encrypt, keyed_digest, secret_new
from tokens.models import Account, ApiToken, DeviceToken, User


@transaction.atomic
def account_create(*, organization: str = "", email: str = "", locale: str = "UTC", **more: Any) -> Account:
    """A new account with the next free user id and its device token."""
    version = config_bump()  # also puts two creations in order, so that both get a user id of their own
    last = Account.objects.order_by("-user_id").values_list("user_id", flat=True).first()
    number = int(last[1:]) + 1 if last else 1
    if number > 999_999:
        raise ServwatchError(Code.FORBIDDEN, _("All one million user ids are in use."))
    account = Account(
        user_id=f"U{number:06d}",
        organization=organization,
        email1=email,
        locale=locale,
        config_version=version,
        **more,
    )
    account.full_clean()
    account.save()
    device_token_issue(account)
    return account


@transaction.atomic
def account_update(account: Account, **changes: Any) -> Account:
    """Change fields of an account. Raises INVALID_VALUE with the fields that do not fit."""
    for name, value in changes.items():
        setattr(account, name, value)
    account.config_version = config_bump()
    try:
        account.full_clean()
    except ValidationError as error:
        fields = {name: " ".join(texts) for name, texts in error.message_dict.items()}
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields) from None
    account.save(update_fields=[*changes, "config_version"])
    return account


@transaction.atomic
def device_token_issue(account: Account, *, overlap_s: int = 0) -> str:
    """Give the account a new device token and revoke the one before; the broker follows within seconds.

    For `overlap_s` seconds the HTTP connector still takes the old one. Mosquitto cannot: it has one password a user.
    """
    now = timezone.now()
    DeviceToken.objects.filter(account=account, overlap_until__gt=now).update(overlap_until=now)
    DeviceToken.objects.filter(account=account, revoked_at=None).update(
        revoked_at=now, overlap_until=now + timedelta(seconds=overlap_s)
    )
    secret = secret_new()
    DeviceToken.objects.create(
        account=account, digest=keyed_digest(DEVICE_TOKEN, secret), ciphertext=encrypt(secret)
    )
    account.config_version = config_bump()
    account.save(update_fields=["config_version"])
    return secret


def api_token_issue(
    account: Account, *, name: str, scopes: Iterable[str], expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """A new API token and its secret, which is shown this once and kept only as a digest. Raises INVALID_VALUE."""
    secret = secret_new()
    token = ApiToken(account=account, name=name, scopes=scopes_sorted(scopes), expires_at=expires_at)
    _secret_set(token, secret)
    _token_clean(token)
    token.save()
    return token, secret


def api_token_update(token: ApiToken, *, changes: Mapping[str, Any]) -> ApiToken:
    """Change name, scopes and expiry. Raises INVALID_VALUE with the fields that do not fit."""
    for name, value in changes.items():
        setattr(token, name, scopes_sorted(value) if name == "scopes" else value)
    _token_clean(token)
    token.save(update_fields=list(changes))
    return token


@transaction.atomic
def api_token_rotate(token: ApiToken, *, now: datetime, overlap_s: int = 0) -> tuple[ApiToken, str]:
    """A new token with the name, scopes and expiry of this one, which ends after `overlap_s` seconds."""
    ends = now + timedelta(seconds=overlap_s)
    fresh, secret = api_token_issue(
        token.account, name=token.name, scopes=token.scopes, expires_at=token.expires_at
    )
    if token.expires_at is None or ends < token.expires_at:
        token.expires_at = ends
        token.save(update_fields=["expires_at"])
    return fresh, secret


def api_token_revoke(token: ApiToken, *, now: datetime) -> None:
    ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now)


def scopes_sorted(scopes: Iterable[str]) -> list[str]:
    """Each scope once, the least powerful first; what is none of them stays, to be refused."""
    order = list(ApiToken.Scope.values)
    return sorted(
        set(scopes), key=lambda scope: (order.index(scope) if scope in order else len(order), scope)
    )


def _secret_set(token: ApiToken, secret: str) -> None:
    token.digest, token.hint = keyed_digest(API_TOKEN, secret), secret[:4]


def _token_clean(token: ApiToken) -> None:
    try:
        token.full_clean(exclude=["account"])
    except ValidationError as error:
        fields = {name: " ".join(texts) for name, texts in error.message_dict.items()}
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields) from None


def api_token_used(token: ApiToken, *, now: datetime) -> None:
    """Note the use, at most once a minute: a busy client must not write with every read."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tokens_apitoken SET last_used_at = %s WHERE id = %s"
            " AND (last_used_at IS NULL OR last_used_at < %s - interval '1 minute')",
            [now, token.pk, now],
        )


def user_create(*, email: str, account: Account) -> User:
    """A person who signs in to this account; without a password until they choose one."""
    return User.objects.create_user(email=email, account=account)
