"""How often one may ask: counted in the second of the wall clock, over all web processes (contract, section 2).

django-ratelimit counts, in the cache of tokens/counters.py. An API token and a device have limits that are settings
of their account. What names neither, such as a wrong token, is counted by its address, so that nobody can fill the
table with counters of invented tokens.
"""

import threading
import time
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django_ratelimit.core import get_usage

from servwatch_site.errors import Code, ServwatchError

PERIOD_S = 1
MOST_ADDRESSES = 10_000


@dataclass(frozen=True)
class Usage:
    """Where somebody stands in the present second. `limit` 0: no limit, and nothing was counted."""

    limit: int
    count: int = 0

    @property
    def exceeded(self) -> bool:
        return 0 < self.limit < self.count

    @property
    def headers(self) -> dict[str, str]:
        """`RateLimit-...`; none where there is no limit."""
        if not self.limit:
            return {}
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(max(0, self.limit - self.count)),
            "RateLimit-Reset": str(PERIOD_S),
        }

    def error(self) -> ServwatchError:
        """TOO_MANY_REQUESTS, with what its headers must say."""
        return ServwatchError(
            Code.TOO_MANY_REQUESTS,
            _("More than %(limit)d requests in one second. Wait as long as the header Retry-After says.")
            % {"limit": self.limit},
            headers={**self.headers, "Retry-After": str(PERIOD_S)},
        )


def api_token_usage(token_key: int, *, limit: int, request: HttpRequest | None = None) -> Usage:
    """Count one request of this API token."""
    return _usage("api-token", str(token_key), limit=limit, request=request)


def device_usage(account_key: int, device_id: str, *, limit: int) -> Usage:
    """Count one request of this device on the HTTP connector."""
    return _usage("device", f"{account_key}/{device_id}", limit=limit, request=None)


def stranger_usage(address: str) -> Usage:
    """Count one request from this address that came without a valid token."""
    usage = _usage("address", address, limit=settings.ADDRESS_LIMIT, request=None)
    if usage.exceeded:
        _shut_out.note(address)
    return usage


def stranger_shut_out(address: str) -> Usage | None:
    """Whether this process knows the address to be over its limit; costs no query. To be asked before any token."""
    limit = settings.ADDRESS_LIMIT
    return Usage(limit, limit + 1) if limit and _shut_out.has(address) else None


def client_address(request: HttpRequest) -> str:
    """Where a request comes from; behind a proxy that is ours, as the proxy says."""
    forwarded = request.headers.get("X-Forwarded-For", "") if settings.BEHIND_PROXY else ""
    return forwarded.rpartition(",")[2].strip()[:64] or str(request.META.get("REMOTE_ADDR") or "unknown")


def _usage(group: str, name: str, *, limit: int, request: HttpRequest | None) -> Usage:
    if not limit:
        return Usage(0)
    found = get_usage(
        request, group=group, key=lambda _group, _request: name, rate=(limit, PERIOD_S), increment=True
    )
    return Usage(limit, found["count"] if found else 0)


class _ShutOut:
    """The addresses over their limit in the present second."""

    def __init__(self) -> None:
        self._second = 0
        self._addresses: set[str] = set()
        self._lock = threading.Lock()

    def note(self, address: str) -> None:
        with self._lock:
            self._turn()
            if len(self._addresses) < MOST_ADDRESSES:
                self._addresses.add(address)

    def has(self, address: str) -> bool:
        with self._lock:
            self._turn()
            return address in self._addresses

    def _turn(self) -> None:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._addresses.clear()


_shut_out = _ShutOut()
