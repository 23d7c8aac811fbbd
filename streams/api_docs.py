"""What the OpenAPI document says of records, and of the HTTP connector, which is no view of REST framework."""

from typing import Any

from channels.api_docs import CHANNEL_ID, TAG_HEADER, TAG_QUERY
from servwatch_site.errors import HTTP_STATUS, Code
from tokens.api_docs import (
    ERROR,
    IDEMPOTENCY,
    INTEGER,
    JSON_TYPE,
    TEXT,
    TIME,
    TIME_OR_NULL,
    TRUTH,
    Schema,
    array,
    body_of,
    header,
    integer,
    nullable,
    obj,
    operation,
    query,
    text,
)

METRICS: Schema = {
    "description": "What the device sent: an object, a number or a text.",
    "examples": [{"cpu": {"idle": 93.1}}],
}
_SCALAR: Schema = {"type": ["number", "string", "boolean", "null"]}
_RECORD_BASE: dict[str, Schema] = {
    "_id": text(pattern="^[0-9a-f]{24}$"),
    "device_id": nullable(TEXT),
    "tag": nullable(TEXT),
}
RECORD: Schema = {
    "anyOf": [
        obj({**_RECORD_BASE, "value": METRICS, "at": TIME}),
        obj(
            {
                **_RECORD_BASE,
                "value": _SCALAR,
                "value2": _SCALAR,
                "value3": _SCALAR,
                "value4": _SCALAR,
                "at": TIME,
            }
        ),
    ]
}
_HEAD: dict[str, Schema] = {"channel": INTEGER, "channel_name": TEXT, "last_update": TIME_OR_NULL}
RECORDS = obj({**_HEAD, "stream": array(RECORD)})
AGGREGATES = obj(
    {
        **_HEAD,
        "aggr_type": TEXT,
        "interval": TEXT,
        "resolution": {
            **TEXT,
            "enum": ["raw", "minute", "hour"],
            "description": "The coarsest stored data that was used: the records themselves, or what was rolled up from"
            " them per minute or hour. Values are the same whichever it was: the edges of the range, the newest minutes"
            " and what came late are always read from the records, and so are percentiles and `rate`.",
        },
        "result": array(
            obj(
                {
                    "_id": {"type": "null"},
                    "aggr_type": TEXT,
                    "value": {"type": "object", "additionalProperties": True},
                    "at": TIME_OR_NULL,
                },
                optional=["aggr_type"],
            )
        ),
    },
    optional=["interval", "resolution"],
)
_EXAMPLE = {
    "channel": 0,
    "channel_name": "Servers",
    "last_update": "2026-11-24T18:05:09.120+09:00",
    "stream": [
        {
            "_id": "6924a1c5d3b07a9be1f20c44",
            "device_id": "web-1",
            "tag": None,
            "value": {"cpu": {"idle": 93.1}},
            "at": "2026-11-24T18:05:09.120+09:00",
        }
    ],
}
_TIME_IN = (
    "Local to the account unless an offset is given: `2026-11-24 09:30`, with seconds, with `T`, or ISO 8601."
)
_RANGE = (
    header("X-STARTTIME", TEXT, f"The first time; without it from the first record. {_TIME_IN}"),
    query("start", TEXT, "The same as `X-STARTTIME`."),
    header("X-ENDTIME", TEXT, f"The time behind the last. {_TIME_IN}"),
    query("end", TEXT, "The same as `X-ENDTIME`."),
    TAG_HEADER,
    TAG_QUERY,
    query("device", text(64), "Only records of this device, also of a deleted one."),
)
_WRITE_ERRORS = (
    Code.BAD_NUMBER,
    Code.BAD_TEXT,
    Code.BAD_TIME,
    Code.TIME_OUT_OF_RANGE,
    Code.TOO_DEEP,
    Code.TOO_MANY_KEYS,
)
_NEW_RECORD = body_of(
    {
        "value": METRICS,
        "at": {"type": ["string", "number", "null"], "description": "The time of measurement; default now."},
        "tag": nullable(text(64)),
        "device_id": nullable(text(64)),
    },
    required=["value"],
)
RECORDS_OF_CHANNEL = {
    "get": operation(
        "Read records or aggregates",
        answers={200: {"anyOf": [RECORDS, AGGREGATES]}},
        tag="Stream",
        other_types=["text/csv", "application/x-ndjson"],
        parameters=[
            CHANNEL_ID,
            *_RANGE,
            header(
                "X-PAGELIMIT",
                integer(1, 10_000),
                "With `X-ENDTIME: last`: how many of the newest; default 1.",
            ),
            query("limit", integer(1, 10_000), "The same with `last`; with a range the size of a page."),
            query("after", TEXT, "The cursor of the page before, from its `Link`."),
            header("X-PAGESORT", text(enum=["asc", "desc"]), "By time; default `asc`."),
            query("sort", text(enum=["asc", "desc"]), "The same as `X-PAGESORT`."),
            header(
                "X-AGGREGATE",
                TEXT,
                "`avg`, `sum`, `min`, `max`, `count`, `p50`, `p95`, `p99` or `rate`; several by commas.",
            ),
            query("aggregate", TEXT, "The same as `X-AGGREGATE`."),
            query("interval", text(examples=["5m"]), "Aggregates by `30s`, `5m`, `1h`, `1d`, `1w`."),
            query(
                "max_points",
                integer(1, 10_000),
                "Aggregates by the smallest even interval with no more buckets.",
            ),
            query(
                "fill", text(enum=["none", "null", "previous", "linear", "zero"]), "What empty buckets hold."
            ),
            query("key", TEXT, "Only this key path; may be given several times."),
            query("format", text(enum=["json", "csv", "ndjson"]), "The form of the answer; default `json`."),
        ],
        errors=[Code.NO_CHANNEL],
        example=_EXAMPLE,
    ),
    "post": operation(
        "Write records",
        answers={201: obj({"count": INTEGER})},
        tag="Stream",
        parameters=[CHANNEL_ID, TAG_HEADER, TAG_QUERY, IDEMPOTENCY],
        body={"anyOf": [_NEW_RECORD, array(_NEW_RECORD, minItems=1, maxItems=10_000)]},
        body_example=[{"value": {"cpu": {"idle": 93.1}}, "device_id": "web-1"}],
        example={"count": 1},
        errors=[Code.NO_CHANNEL, Code.NO_DEVICE, *_WRITE_ERRORS],
    ),
    "delete": operation(
        "Remove records",
        answers={200: obj({"channel": INTEGER, "deleted": INTEGER})},
        tag="Stream",
        parameters=[CHANNEL_ID, *_RANGE],
        example={"channel": 0, "deleted": 12},
        errors=[Code.NO_CHANNEL],
    ),
}

# --- the HTTP connector ---

_PROBLEM = obj({"index": INTEGER, "error": TEXT, "message": TEXT})
STORED = obj(
    {
        "stored": {**TRUTH, "description": "Every message of the request is stored."},
        "count": {**INTEGER, "description": "How many are stored."},
        "errors": array(_PROBLEM, description="Those of an array that are not, by their place."),
    },
    optional=["errors"],
)
GREETED = obj(
    {
        "stored": TRUTH,
        "count": INTEGER,
        "code": text(enum=["NEW_DEVICE_FOUND"]),
        "message": TEXT,
        "reason": text(description="Why it is not stored."),
        "errors": array(_PROBLEM),
    },
    optional=["reason", "errors"],
)
_CONNECTOR_ERRORS = (
    Code.BAD_JSON_FORMAT,
    Code.DEVICE_ID_ZERO,
    Code.INVALID_VALUE,
    *_WRITE_ERRORS,
    Code.AUTH_REQUIRED,
    Code.NO_MAPPED_CH,
    Code.DEVICE_DISABLED,
    Code.DEVICE_UNKNOWN,
    Code.MAX_DEVICE_REACH,
    Code.PAYLOAD_TOO_LARGE,
    Code.TOO_MANY_REQUESTS,
    Code.INTERNAL_ERROR,
    Code.STORAGE_UNAVAILABLE,
)


def connector_paths() -> dict[str, Any]:
    """The paths of the HTTP connector."""
    form = {
        "schema": text(examples=["v=11.1&v2=47.9"]),
        "example": "v=11.1&v2=47.9",
    }
    measured = {
        "schema": {
            "description": "Metrics; or with a time of their own `{at, value, tag}`; or an array of those.",
            "type": ["object", "number", "string", "array"],
        },
        "example": {"cpu": {"idle": 93.1}},
    }
    return {
        "/post_v2": {"post": _connector("Send JSON", "post_v2", {JSON_TYPE: measured})},
        "/post_v1": {
            "post": _connector("Send a form", "post_v1", {"application/x-www-form-urlencoded": form})
        },
        "/post": {
            "post": _connector(
                "Send a form (older address)", "post", {"application/x-www-form-urlencoded": form}
            )
        },
    }


def _connector(summary: str, operation_id: str, content: dict[str, Any]) -> dict[str, Any]:
    statuses = sorted({HTTP_STATUS[code] for code in _CONNECTOR_ERRORS})
    return {
        "operationId": operation_id,
        "summary": summary,
        "description": "Answered after the commit. The body may be packed with gzip (`Content-Encoding: gzip`).",
        "tags": ["HTTP connector"],
        "security": [{"DeviceToken": []}],
        "parameters": [
            _in_header(
                "X-DEVICEID", text(64, minLength=1), "The device's id, percent-encoded.", required=True
            ),
            _in_header("X-TAGNAME", text(192), "A tag, percent-encoded."),
            _in_header(
                "Idempotency-Key", text(255), "The same request again stores nothing; see POST stream."
            ),
            _in_header("Content-Encoding", text(enum=["gzip", "identity"]), "`gzip` for a packed body."),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _response("Stored", STORED, {"stored": True, "count": 1}),
            "201": _response(
                "The device was registered just now",
                GREETED,
                {
                    "stored": True,
                    "count": 1,
                    "code": "NEW_DEVICE_FOUND",
                    "message": "The device was registered just now.",
                },
            ),
            **{str(status): _response("", ERROR, None) for status in statuses},
        },
        "x-error-codes": sorted(code.value for code in _CONNECTOR_ERRORS),
    }


def _in_header(name: str, schema: Schema, description: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": schema, "description": description, "required": required}


def _response(description: str, schema: Schema, example: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {JSON_TYPE: content}}
