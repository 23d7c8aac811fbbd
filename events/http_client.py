"""Requests to receivers that others have named: guarded, bounded in time and size; no secrets in errors."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from django.utils.translation import gettext_noop
from yarl import URL

from events.address_guard import AddressRefused, Network, guarded_socket_factory
from events.notifiers.shape import HttpRequest

TOTAL_S = 10.0
ANSWER_BYTES = 64 * 1024
ANSWER_KEPT = 500
KEEP_ALIVE_S = 3.0  # shorter than receivers usually wait, or a request would meet a closed connection
LOOKUPS_AT_ONCE = 64  # threads: a name that nobody answers for holds one of them
MOST_RETRY_AFTER_S = 3600

REFUSED = gettext_noop("The address is not allowed. SERVWATCH_WEBHOOK_ALLOW can name its network.")
NO_NAME = gettext_noop("The host name is not known.")
NO_CONNECTION = gettext_noop("No connection could be made.")
CONNECTION_REFUSED = gettext_noop("The connection was refused.")
CERTIFICATE = gettext_noop("The certificate is not trusted.")
NO_TLS = gettext_noop("No secure connection could be made.")
CUT = gettext_noop("The connection was cut before an answer came.")
TOO_SLOW = gettext_noop("No answer came in time.")
NO_HTTP = gettext_noop("The answer is not HTTP.")
BAD_ADDRESS = gettext_noop("The address cannot be used.")
REDIRECTED = gettext_noop("The receiver redirects; redirects are not followed.")
STATUS_BAD = gettext_noop("The receiver refused the message.")

Lookup = Callable[..., Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """How one attempt ended. `fault`: it was the receiver's, which counts against it."""

    ok: bool
    latency_ms: int
    status_code: int | None = None
    text: str = ""
    error: str = ""
    fault: bool = False
    retry_after_s: int | None = None


class HttpClient:
    """One per process, for one event loop. `lookup` is socket.getaddrinfo, but for tests."""

    def __init__(
        self,
        *,
        allow: Sequence[Network],
        total_s: float = TOTAL_S,
        lookup: Lookup = socket.getaddrinfo,
    ) -> None:
        self._allow = allow
        self._total_s = total_s
        self._resolver = _Resolver(lookup)
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: HttpRequest) -> Answer:
        """Send it, and tell what came of it; raises nothing that the receiver could cause."""
        began = time.perf_counter()
        found: dict[str, Any] = {}
        error = ""
        try:
            async with asyncio.timeout(self._total_s):
                await self._exchange(request, found)
        except TimeoutError:
            error = TOO_SLOW
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = _sentence(failure)
        latency_ms = round(1000 * (time.perf_counter() - began))
        if "status" not in found:
            return Answer(False, latency_ms, error=error or CUT, fault=True)
        return _judged(found, latency_ms)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self._resolver.close()

    async def _exchange(self, request: HttpRequest, found: dict[str, Any]) -> None:
        """Fills `found` as it comes: what was answered counts, also if the rest of it is never seen."""
        session = self._session or self._open()
        async with session.request(
            request.method,
            URL(request.url),
            data=request.body,
            headers={**request.headers, "Accept-Encoding": "identity"},
            allow_redirects=False,
        ) as response:
            found.update(
                status=response.status, retry_after=response.headers.get("Retry-After", ""), text=b""
            )
            async for chunk in response.content.iter_chunked(8192):
                found["text"] += chunk[: ANSWER_BYTES - len(found["text"])]
                if len(found["text"]) >= ANSWER_BYTES:
                    response.close()  # what is left of it is not read, so the connection cannot be used again
                    break

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # the sender bounds them
            resolver=self._resolver,
            ttl_dns_cache=10,
            keepalive_timeout=KEEP_ALIVE_S,
            socket_factory=guarded_socket_factory(self._allow),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            trust_env=False,  # a proxy would connect where we must not
            headers={"User-Agent": "Servwatch"},
        )
        return self._session


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own, so that one that is never answered keeps nobody else's waiting."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        look_up = partial(self._lookup, host, port, family=family, type=socket.SOCK_STREAM)
        infos = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host,
                host=f"{address[0]}%{address[3]}" if len(address) > 3 and address[3] else address[0],
                port=address[1],
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _kind, protocol, _name, address in infos
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _judged(found: dict[str, Any], latency_ms: int) -> Answer:
    status = int(found["status"])
    text = found["text"].decode("utf-8", "replace").replace("\0", "")
    if 200 <= status < 300:
        return Answer(True, latency_ms, status, text)
    return Answer(
        False,
        latency_ms,
        status,
        text,
        error=REDIRECTED if 300 <= status < 400 else STATUS_BAD,
        fault=status >= 500 or status in (408, 429),
        retry_after_s=_seconds(found["retry_after"]) if status in (429, 503) else None,
    )


def _seconds(text: str) -> int | None:
    """What a Retry-After says: seconds, or a time."""
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return min(int(text), MOST_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(text)
        left_s = (at - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(round(left_s), 0), MOST_RETRY_AFTER_S)


def _sentence(failure: Exception) -> str:
    """What went wrong, without the address, which is a secret."""
    cause = failure.os_error if isinstance(failure, aiohttp.ClientConnectorError) else failure
    if isinstance(cause, AddressRefused) or "address is not allowed" in str(cause):
        return REFUSED
    match failure:
        case aiohttp.ClientConnectorDNSError():
            return NO_NAME
        case aiohttp.ClientConnectorCertificateError():
            return CERTIFICATE
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return NO_TLS
        case aiohttp.InvalidURL() | ValueError():
            return BAD_ADDRESS
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return NO_HTTP
        case aiohttp.ClientConnectorError():
            return CONNECTION_REFUSED if isinstance(cause, ConnectionRefusedError) else NO_CONNECTION
        case _:
            return CUT
