"""The HTTP connector as an ASGI application of its own: the same view, without what Django's handler does around views.

A device's message needs no thread, no signal and no database connection of Django's: the intake has its own. Five times
as many requests pass this way (docs/performance.md). What the view raises leaves in the one shape here, too.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponseBase

from servwatch_site.api_errors import in_shape
from servwatch_site.api_middleware import api_middleware
from streams.connectors.http import MAX_BODY_BYTES, connector
from streams.topics import Kind

KINDS: Mapping[str, Kind] = {
    path + slash: kind
    for path, kind in (("/post_v2", Kind.JSON), ("/post_v1", Kind.FORM), ("/post", Kind.FORM))
    for slash in ("", "/")
}
_views = {kind: in_shape(api_middleware(partial(connector, kind=kind))) for kind in set(KINDS.values())}

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]


async def connector_app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers one request to a path of KINDS."""
    body = await _body(receive)
    if body is None:
        return
    request = ASGIRequest(scope, BytesIO(body))
    if len(body) > MAX_BODY_BYTES:
        request.META["CONTENT_LENGTH"] = str(len(body))  # a chunked one said nothing; the view refuses it
    answer: HttpResponseBase = await _views[KINDS[scope["path"]]](request)
    content = b"".join(answer)
    headers = [(name.lower().encode("ascii"), value.encode("latin1")) for name, value in answer.items()]
    headers.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _body(receive: Receive) -> bytes | None:
    """The body, of a larger one only so much that it shows; None when the client has gone."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        if size <= MAX_BODY_BYTES:
            parts.append(part)
            size += len(part)
        if not message.get("more_body", False):
            return b"".join(parts)
