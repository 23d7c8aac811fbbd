"""What the OpenAPI document says: the words that all rooms use to describe their operations, and this room's own.

Schemas are JSON Schema as OpenAPI 3.1 has it. The contract test (servwatch_site/tests/test_openapi.py) sends
generated requests and compares every answer with what stands here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema

from servwatch_site.errors import HTTP_STATUS, Code

Schema = dict[str, Any]

JSON_TYPE = "application/json"
ERROR: Schema = {"$ref": "#/components/schemas/Error"}
ERROR_COMPONENT: Schema = {
    "type": "object",
    "description": "Every error of the API and the connectors has this shape. Clients test `error`.",
    "required": ["error", "message"],
    "additionalProperties": False,
    "properties": {
        "error": {"type": "string", "enum": [code.value for code in Code]},
        "message": {"type": "string", "description": "One plain sentence with the next step."},
        "fields": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "What was wrong with single fields.",
        },
    },
    "example": {"error": "NO_DEVICE", "message": "There is no device web-9. Create it, or let it send once."},
}
# Every operation may answer these.
ALWAYS = (
    Code.INVALID_VALUE,
    Code.AUTH_REQUIRED,
    Code.FORBIDDEN,
    Code.TOO_MANY_REQUESTS,
    Code.INTERNAL_ERROR,
    Code.STORAGE_UNAVAILABLE,
)

INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
TIME: Schema = {
    "type": "string",
    "description": "ISO 8601 with offset, in the account's time zone.",
    "examples": ["2026-11-24T18:05:09.120+09:00"],
}
TIME_OR_NULL: Schema = {**TIME, "type": ["string", "null"]}


def text(most: int | None = None, **more: Any) -> Schema:
    return {"type": "string", **({} if most is None else {"maxLength": most}), **more}


def integer(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer", **{name: value for name, value in bounds.items() if value is not None}, **more}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def obj(properties: Mapping[str, Schema], *, optional: Sequence[str] = (), closed: bool = True) -> Schema:
    """An object with these properties; `closed`: and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": not closed,
    }


def body_of(properties: Mapping[str, Schema], *, required: Sequence[str] = ()) -> Schema:
    """The object of a request: further properties are passed over."""
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def query(name: str, schema: Schema, description: str, *, many: bool = False) -> OpenApiParameter:
    return OpenApiParameter(
        name, schema, OpenApiParameter.QUERY, description=description, many=False, explode=many or None
    )


def header(name: str, schema: Schema, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.HEADER, description=description)


def in_path(name: str, schema: Schema, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.PATH, description=description)


PAGE = (
    query(
        "limit", integer(1, 10_000), "A page of at most so many; then `Link` and `X-Total-Count` say more."
    ),
    query("after", TEXT, "The cursor of the page before, from its `Link`."),
)
IDEMPOTENCY = header(
    "Idempotency-Key",
    text(255),
    "The same request with the same key, sent again within 24 hours, stores nothing and gets the same answer.",
)


def operation(
    summary: str,
    *,
    answers: Mapping[int, Schema],
    tag: str,
    parameters: Sequence[OpenApiParameter] = (),
    body: Schema | None = None,
    body_required: bool = True,
    errors: Sequence[Code] = (),
    example: Any = None,
    body_example: Any = None,
    other_types: Sequence[str] = (),
    public: bool = False,
) -> Any:
    """One documented operation; its description is the docstring of the method."""
    codes = {*errors, *ALWAYS}
    if body is not None:
        codes |= {Code.BAD_JSON_FORMAT, Code.PAYLOAD_TOO_LARGE}
    responses: dict[Any, Any] = {}
    for status, schema in answers.items():
        for media_type in (JSON_TYPE, *other_types):
            responses[(status, media_type)] = schema if media_type == JSON_TYPE else TEXT
    for status in sorted({HTTP_STATUS[code] for code in codes}):
        responses[(status, JSON_TYPE)] = ERROR
    examples = []
    if example is not None:
        examples.append(
            OpenApiExample("answer", value=example, response_only=True, status_codes=[str(min(answers))])
        )
    if body_example is not None:
        examples.append(OpenApiExample("request", value=body_example, request_only=True))
    more: dict[str, Any] = {"auth": []} if public else {}
    return extend_schema(
        summary=summary,
        tags=[tag],
        parameters=list(parameters),
        request=None if body is None else {JSON_TYPE: body},
        responses=responses,
        examples=examples,
        extensions={
            "x-error-codes": sorted(code.value for code in codes),
            **({"x-body-optional": True} if body is not None and not body_required else {}),
        },
        **more,
    )


# --- User and Token ---

USER_OBJECT = obj(
    {
        "user_id": text(pattern="^U[0-9]{6}$"),
        "api_token": {**TEXT, "description": "The token that was sent."},
        "device_token": {
            "type": ["string", "null"],
            "description": "What devices sign in with; null for a token that may only read.",
        },
        "email1": TEXT,
        "email2": TEXT,
        "organization": TEXT,
        "locale": {**TEXT, "description": "An IANA time zone."},
        "user_alias": TEXT,
        "storage": obj(
            {
                "count": INTEGER,
                "usage_bytes": INTEGER,
                "maxSize": {"type": ["integer", "null"]},
                "avg_obj_size": INTEGER,
            }
        ),
    }
)
_USER_EXAMPLE = [
    {
        "user_id": "U000001",
        "api_token": "kPq…",
        "device_token": "r7C…",
        "email1": "ops@example.org",
        "email2": "",
        "organization": "Example Hosting",
        "locale": "Asia/Tokyo",
        "user_alias": "",
        "storage": {"count": 120000, "usage_bytes": 49920000, "maxSize": None, "avg_obj_size": 416},
    }
]
_USER_BODY = body_of(
    {
        "email1": text(254),
        "email2": text(254),
        "organization": text(128),
        "locale": text(64, examples=["Asia/Tokyo"]),
        "user_alias": text(64),
    }
)
USER = {
    "get": operation(
        "Read the account", answers={200: array(USER_OBJECT)}, tag="User", example=_USER_EXAMPLE
    ),
    "put": operation(
        "Change the account",
        answers={200: array(USER_OBJECT)},
        tag="User",
        body=_USER_BODY,
        body_example={"locale": "Europe/Berlin"},
        example=_USER_EXAMPLE,
    ),
}

_TOKEN_FIELDS: dict[str, Schema] = {
    "id": INTEGER,
    "name": TEXT,
    "scopes": array(text(enum=["read", "write", "admin"])),
    "hint": {**TEXT, "description": "The first four letters of the secret."},
    "created_at": TIME,
    "expires_at": TIME_OR_NULL,
    "last_used_at": TIME_OR_NULL,
}
TOKEN_OBJECT = obj(_TOKEN_FIELDS)
TOKEN_WITH_SECRET = obj(
    {**_TOKEN_FIELDS, "secret": {**TEXT, "description": "Shown in this answer only; we keep a digest."}}
)
_TOKEN_BODY_FIELDS: dict[str, Schema] = {
    "name": text(64, minLength=1),
    "scopes": array(text(enum=["read", "write", "admin"]), minItems=1),
    "expires_at": {"type": ["string", "null"], "description": "A time in the future; null never expires."},
}
_TOKEN_EXAMPLE = {
    "id": 7,
    "name": "dashboard",
    "scopes": ["read"],
    "hint": "kPq2",
    "created_at": "2026-11-24T18:05:09.120+09:00",
    "expires_at": None,
    "last_used_at": None,
}
_OVERLAP = body_of(
    {"overlap_s": integer(0, 30 * 86400, description="So long the replaced one still counts.")}
)
TOKEN_ID = in_path("token_id", integer(), "The token's id.")
TOKEN_LIST = {
    "get": operation(
        "List API tokens",
        answers={200: obj({"tokens": array(TOKEN_OBJECT)})},
        tag="Token",
        parameters=PAGE,
        example={"tokens": [_TOKEN_EXAMPLE]},
    ),
    "post": operation(
        "Make an API token",
        answers={201: TOKEN_WITH_SECRET},
        tag="Token",
        body=body_of(_TOKEN_BODY_FIELDS, required=["name"]),
        body_example={"name": "dashboard", "scopes": ["read"], "expires_at": "2027-12-31 00:00"},
        example={**_TOKEN_EXAMPLE, "secret": "kPq2…"},
    ),
}
TOKEN = {
    "get": operation(
        "Read an API token",
        answers={200: TOKEN_OBJECT},
        tag="Token",
        parameters=[TOKEN_ID],
        errors=[Code.NOT_FOUND],
        example=_TOKEN_EXAMPLE,
    ),
    "put": operation(
        "Change an API token",
        answers={200: TOKEN_OBJECT},
        tag="Token",
        parameters=[TOKEN_ID],
        body=body_of(_TOKEN_BODY_FIELDS),
        body_example={"name": "wall screen"},
        errors=[Code.NOT_FOUND],
    ),
    "post": operation(
        "Rotate an API token",
        answers={201: TOKEN_WITH_SECRET},
        tag="Token",
        parameters=[TOKEN_ID],
        body=_OVERLAP,
        body_required=False,
        body_example={"overlap_s": 3600},
        errors=[Code.NOT_FOUND],
    ),
    "delete": operation(
        "Revoke an API token",
        answers={200: TOKEN_OBJECT},
        tag="Token",
        parameters=[TOKEN_ID],
        errors=[Code.NOT_FOUND],
    ),
}
_DEVICE_TOKEN = obj({"device_token": TEXT, "created_at": TIME, "previous_until": TIME_OR_NULL})
DEVICE_TOKEN = {
    "get": operation("Read the device token", answers={200: _DEVICE_TOKEN}, tag="Token"),
    "post": operation(
        "Replace the device token",
        answers={201: _DEVICE_TOKEN},
        tag="Token",
        body=_OVERLAP,
        body_required=False,
        body_example={"overlap_s": 86400},
    ),
}
