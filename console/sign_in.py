"""How people get in: allauth's sign-in by e-mail and password, and links that work once."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.http import HttpRequest
from django.urls import reverse
from django.utils.encoding import force_str
from django.utils.http import urlsafe_base64_decode, urlsafe_base64_encode

from tokens.models import User


class ConsoleAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth has no types
    """People are invited by an administrator; nobody signs up by themselves."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False


class _OneTimeToken(PasswordResetTokenGenerator):
    """Good until the person signs in (their last sign-in is part of it), a day at most."""

    key_salt = "servwatch.one-time-sign-in"

    def _make_hash_value(self, user: Any, timestamp: int) -> str:
        """Django leaves the fraction of the last sign-in's second out: within it a link would work twice."""
        return f"{super()._make_hash_value(user, timestamp)}/{user.last_login}"


_tokens = _OneTimeToken()


def sign_in_url(user: User) -> str:
    """A link that signs this person in once. Show it to nobody else and write it into no log."""
    uid = urlsafe_base64_encode(str(user.pk).encode())
    return settings.BASE_URL + reverse("console:sign-in-once", args=[uid, _tokens.make_token(user)])


def user_from_link(uid: str, token: str) -> User | None:
    """Whom the link is for; None when it was used, is too old, or was never ours."""
    try:
        user = User.objects.filter(pk=int(force_str(urlsafe_base64_decode(uid))), is_active=True).first()
    except (ValueError, OverflowError):
        return None
    return user if user is not None and _tokens.check_token(user, token) else None
