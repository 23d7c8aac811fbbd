"""Who asks: the API token of a REST request, and what its scopes allow."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account, ApiToken
from tokens.selectors import api_token_find
from tokens.services import api_token_used

NOTE_USE_EVERY = timedelta(minutes=1)
READING_METHODS = frozenset({"GET", "HEAD"})

# What each scope may do besides itself.
_IMPLIED = {
    ApiToken.Scope.READ: frozenset({ApiToken.Scope.READ}),
    ApiToken.Scope.WRITE: frozenset({ApiToken.Scope.READ, ApiToken.Scope.WRITE}),
    ApiToken.Scope.ADMIN: frozenset(ApiToken.Scope),
}


@dataclass(frozen=True)
class ApiPrincipal:
    """Stands where Django expects a user: the account that a token speaks for."""

    account: Account
    is_authenticated: bool = True


class ApiTokenAuthentication(BaseAuthentication):
    """`X-APITOKEN`, or `Authorization: Bearer`. `request.auth` becomes the token."""

    def authenticate(self, request: Request) -> tuple[ApiPrincipal, ApiToken] | None:
        secret = presented_secret(request)
        if not secret:
            return None
        now = timezone.now()
        token = api_token_find(secret, now=now)
        if token is None:
            raise ServwatchError(
                Code.AUTH_REQUIRED,
                _("This API token is not valid. Make a new one in the console under Account."),
            )
        if token.last_used_at is None or now - token.last_used_at >= NOTE_USE_EVERY:
            api_token_used(token, now=now)
        return ApiPrincipal(token.account), token


class HasScope(BasePermission):
    """Reading needs the scope read, everything else write, unless the view asks for another one.

    Asking which methods there are needs none.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.method == "OPTIONS":
            return True
        if request.auth is None:
            raise ServwatchError(
                Code.AUTH_REQUIRED, _("An API token is missing. Send it in the header X-APITOKEN.")
            )
        needed = getattr(view, "scope_needed", None) or (
            ApiToken.Scope.READ if request.method in READING_METHODS else ApiToken.Scope.WRITE
        )
        if not scope_allows(cast(ApiToken, request.auth), needed):
            raise ServwatchError(
                Code.FORBIDDEN,
                _("This API token lacks the scope %(scope)s. Use one that has it.") % {"scope": needed.value},
            )
        return True


def presented_secret(request: Request) -> str:
    """The API token as the client sent it; empty without one."""
    given = request.headers.get("X-APITOKEN", "").strip()
    if given:
        return given
    scheme, _space, secret = request.headers.get("Authorization", "").strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def scope_allows(token: ApiToken, needed: ApiToken.Scope) -> bool:
    """Whether one of the token's scopes is, or implies, the needed one."""
    return any(needed in _IMPLIED[ApiToken.Scope(scope)] for scope in token.scopes)
