"""The limit of requests of the REST API, per API token."""

from typing import Any, cast

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from tokens.models import ApiToken
from tokens.rate_limits import Usage, api_token_usage

USAGE = "servwatch_usage"  # attribute of the HttpRequest that carries what the answer's headers say


class ApiTokenThrottle(BaseThrottle):
    """Counts a request whose token is valid. Raises TOO_MANY_REQUESTS over the account's limit."""

    def allow_request(self, request: Request, view: Any) -> bool:
        if request.auth is None or request.method == "OPTIONS":
            return True
        token = cast(ApiToken, request.auth)
        usage = api_token_usage(
            token.pk, limit=token.account.api_per_second, request=cast(Any, request._request)
        )
        usage_note(request, usage)
        if usage.exceeded:
            raise usage.error()
        return True


def usage_note(request: Request, usage: Usage) -> None:
    setattr(request._request, USAGE, usage)


def usage_headers(request: Request) -> dict[str, str]:
    """The `RateLimit-...` headers of the answer to this request."""
    usage = getattr(request._request, USAGE, None)
    return usage.headers if isinstance(usage, Usage) else {}
