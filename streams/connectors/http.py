"""The HTTP connector: `POST /post_v2/` JSON, `/post_v1/` and `/post/` form-encoded (contract, section 4.2).

A request's messages go down the same street as MQTT's; it is answered after their commit.
"""

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from devices.ids import device_id_check, tag_check
from servwatch_site.errors import HTTP_STATUS, Code, ServwatchError
from streams.intake import Key, Post, intake
from streams.plan import Outcome
from streams.topics import Kind, Topic
from tokens.api_options import header_text
from tokens.rate_limits import client_address, stranger_shut_out

MAX_BODY_BYTES = 1024 * 1024
MAX_KEY_CHARACTERS = 255
MOST_ERRORS = 100
ALLOW = {"Allow": "POST, OPTIONS"}
NO_TOKEN = "missing"  # noqa: S105 - is nobody's, and is counted by address like a wrong one

# First contact is told by 201 only where the device's state is why nothing was stored, not the message.
_GREETED = frozenset({Code.NO_MAPPED_CH, Code.DEVICE_DISABLED})


async def connector(request: HttpRequest, *, kind: Kind) -> HttpResponse:
    """Store the message, or the array of messages, in the body; `kind` says how it is read."""
    if request.method == "OPTIONS":
        return HttpResponse(status=204, headers=ALLOW)
    if request.method != "POST":
        raise ServwatchError(
            Code.METHOD_NOT_ALLOWED,
            _("The HTTP connector takes POST only. Send the message in its body."),
            headers=ALLOW,
        )
    answer = await asyncio.wrap_future(intake().submit(post_read(request, kind=kind)))
    return HttpResponse(
        orjson.dumps(answer.body),
        status=answer.status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **answer.usage.headers},
    )


def post_read(request: HttpRequest, *, kind: Kind) -> Post:
    """What a request brings, its headers checked. Raises ServwatchError."""
    address = client_address(request)
    shut_out = stranger_shut_out(address)
    if shut_out is not None:
        raise shut_out.error()
    token = header_text(request.headers, "X-DEVICETOKEN") or NO_TOKEN
    device_id = device_id_check(header_text(request.headers, "X-DEVICEID", decode=True))
    tag = header_text(request.headers, "X-TAGNAME", decode=True) or None
    if tag is not None:
        tag_check(tag)
    body = body_read(request)
    key = header_text(request.headers, "Idempotency-Key")
    return Post(
        token=token,
        topic=Topic(token, kind, device_id, tag),
        payload=body,
        address=address,
        answer=answer_of,
        key=idempotency_key(key, names=(kind, device_id, tag or ""), body=body) if key else None,
    )


def answer_of(outcomes: list[Outcome]) -> tuple[int, dict[str, Any]]:
    """Status and body for what became of a request's messages.

    200 all stored; 201 the device was registered just now; otherwise the error of the first, when none was stored.
    Of an array with good and bad messages the good are stored: 200, and `errors` names the others by their place.
    """
    stored = sum(outcome.status != "refused" for outcome in outcomes)
    refused = [(place, outcome) for place, outcome in enumerate(outcomes) if outcome.status == "refused"]
    first = refused[0][1] if refused else None
    body: dict[str, Any] = {"stored": not refused, "count": stored}
    if outcomes[0].new_device and (first is None or stored or first.reason in _GREETED):
        body |= {"code": "NEW_DEVICE_FOUND", "message": _("The device was registered just now.")}
        if first is not None:
            body |= {"errors": _errors(refused), "reason": first.reason}
        return 201, body
    if first is not None and not stored:
        code = first.reason or Code.INTERNAL_ERROR
        problem: dict[str, Any] = {"error": code.value, "message": _sentence(first)}
        if len(outcomes) > 1:
            problem["fields"] = {str(row["index"]): row["message"] for row in _errors(refused)}
        return HTTP_STATUS[code], problem
    if refused:
        body["errors"] = _errors(refused)
    return 200, body


def _errors(refused: Sequence[tuple[int, Outcome]]) -> list[dict[str, Any]]:
    return [
        {
            "index": place,
            "error": (outcome.reason or Code.INTERNAL_ERROR).value,
            "message": _sentence(outcome),
        }
        for place, outcome in refused[:MOST_ERRORS]
    ]


def _sentence(outcome: Outcome) -> str:
    text = outcome.detail.strip() or str(outcome.reason)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def body_read(request: HttpRequest) -> bytes:
    """The body, unpacked where it came as gzip. Raises PAYLOAD_TOO_LARGE, BAD_JSON_FORMAT, INVALID_VALUE."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise body_limit_error()
    body = request.body
    if len(body) > MAX_BODY_BYTES:
        raise body_limit_error()
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("This Content-Encoding is not known. Send the body as it is, or packed with gzip."),
            fields={"Content-Encoding": _("must be gzip or absent")},
        )
    unpack = zlib.decompressobj(wbits=31)
    try:
        whole = unpack.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        raise _not_gzip() from None
    if len(whole) > MAX_BODY_BYTES:
        raise body_limit_error()
    if not unpack.eof or unpack.unused_data:
        raise _not_gzip()
    return whole


def idempotency_key(text: str, *, names: Sequence[str], body: bytes) -> Key:
    """The key of a request that these names and this body make. Raises INVALID_VALUE for one that is too long."""
    if len(text) > MAX_KEY_CHARACTERS:
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("The Idempotency-Key is longer than %(most)d characters.") % {"most": MAX_KEY_CHARACTERS},
            fields={"Idempotency-Key": _("too long")},
        )
    return Key(text, "\0".join(names).encode() + b"\0" + body)


def body_limit_error() -> ServwatchError:
    """PAYLOAD_TOO_LARGE."""
    return ServwatchError(
        Code.PAYLOAD_TOO_LARGE,
        _("The body is larger than %(limit)d bytes. Send less at once.") % {"limit": MAX_BODY_BYTES},
    )


def _not_gzip() -> ServwatchError:
    return ServwatchError(
        Code.BAD_JSON_FORMAT, _("The body is not complete gzip. Pack it again, or send it as it is.")
    )
