"""The OpenAPI 3.1 document at /v2/openapi.json: made from the views, completed with what is the same for all.

Rooms say what their operations take and answer in their `api_docs.py`; descriptions are the views' docstrings.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from django.utils.translation import override
from drf_spectacular.generators import SchemaGenerator

from streams.api_docs import connector_paths
from tokens.api_docs import ERROR_COMPONENT

Endpoint = tuple[str, str, str, Any]

ABOUT = """\
Servwatch watches servers: devices send metrics as JSON over MQTT or HTTP, each is mapped to a channel, and
this API reads and manages them.

**Sign in.** Send an API token in the header `X-APITOKEN`, or as `Authorization: Bearer`. The HTTP connector
takes the account's device token in `X-DEVICETOKEN` instead. Tokens are made in the console under Account, or
by the Token service.

**Bodies** are UTF-8 JSON, whatever the Content-Type says. The trailing slash is optional on every path.
Options travel in `X-...` headers or in query parameters; where both are given the header counts.

**Errors** have one shape: `error` is a stable code, `message` one sentence with the next step, and `fields`
may say what was wrong with single fields. Another account's object answers 404, as if it did not exist.

**Limits** are counted in the second of the wall clock: three requests for each API token and one for each
device on the HTTP connector, unless the account says otherwise. Every answer carries `RateLimit-Limit`,
`RateLimit-Remaining` and `RateLimit-Reset`; a 429 also `Retry-After`.

**Times** are ISO 8601 with offset in the account's zone, and are read as local to the account unless they
have an offset. A local time that daylight saving repeats is the first of the two; one that it skips is read
with the offset from before the change.

**Lists** are whole unless a page is asked for with `limit` and `after`; then `Link` names the next page and
`X-Total-Count` the number of all rows.
"""
TAGS = {
    "User": "The account that the token belongs to.",
    "Token": "API tokens and the device token; for tokens with the scope admin.",
    "Device": "What is monitored.",
    "Channel": "Time-series stores, their tags, labels, units and retention.",
    "Stream": "Records: reading, aggregates, writing, removing.",
    "Event": "Rules on streams: when an alert fires, and who is told.",
    "Alert": "What fires and what has fired: reading, acknowledging, snoozing, commenting.",
    "Notifier": "Who is told of alerts, and the secret that webhooks are signed with.",
    "Delivery": "What was sent to whom, how each attempt ended, and sending it again.",
    "Maintenance": "Times in which nobody is told of alerts, once or repeating.",
    "Publish": "Commands to devices.",
    "Session": "Who is connected to the broker now.",
    "HTTP connector": "How devices send over HTTP.",
}


def plain_paths(endpoints: Sequence[Endpoint], **_more: Any) -> list[Endpoint]:
    """The paths as people write them, without the pattern of the optional slash; nothing outside the API."""
    found = []
    for path, regex, method, callback in endpoints:
        plain = re.sub(r"/?\??(\\Z|\\z|\$)?$", "", path)
        if plain.startswith("/v2/") and getattr(callback, "cls", None) is not None:
            found.append((plain, regex, method, callback))
    return found


def complete(result: dict[str, Any], **_more: Any) -> dict[str, Any]:
    """What every operation shares: the error, headers of limits, the ways to sign in, the connector."""
    result["info"]["description"] = ABOUT
    result["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    components = result.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = ERROR_COMPONENT
    components["securitySchemes"] = {
        "ApiToken": {"type": "apiKey", "in": "header", "name": "X-APITOKEN"},
        "Bearer": {"type": "http", "scheme": "bearer"},
        "DeviceToken": {"type": "apiKey", "in": "header", "name": "X-DEVICETOKEN"},
    }
    result["paths"] |= connector_paths()
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["security"] = operation.get("security") or [{"ApiToken": []}, {"Bearer": []}]
            if operation.pop("x-body-optional", False) and "requestBody" in operation:
                operation["requestBody"]["required"] = False
            elif "requestBody" in operation:
                operation["requestBody"]["required"] = True
            for status, response in operation["responses"].items():
                response["description"] = response.get("description") or _meaning(status)
                response["headers"] = _headers(status)
    return result


@cache
def document() -> dict[str, Any]:
    """The whole document, in English: it is a contract."""
    with override("en"):
        made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]  # the library's gap
    return made


_MEANINGS = {
    "400": "The request does not fit",
    "401": "No valid token",
    "403": "Not allowed",
    "404": "There is no such object in this account",
    "413": "The body is too large",
    "429": "Too many requests in this second",
    "500": "A fault on our side; the message has an id that is in the log",
    "503": "The database or the broker does not answer at the moment",
}


def _meaning(status: str) -> str:
    return _MEANINGS.get(status, "Done")


def _headers(status: str) -> dict[str, Any]:
    names = {
        "RateLimit-Limit": "Requests allowed in one second; absent where there is no limit.",
        "RateLimit-Remaining": "How many of them are left.",
        "RateLimit-Reset": "Seconds until they begin anew.",
    }
    headers: dict[str, Any] = {
        name: {"description": text, "schema": {"type": "integer"}} for name, text in names.items()
    }
    if status in ("429", "503"):
        headers["Retry-After"] = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    return headers
