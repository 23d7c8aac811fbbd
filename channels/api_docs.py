"""What the OpenAPI document says of channels."""

from servwatch_site.errors import Code
from tokens.api_docs import (
    INTEGER,
    PAGE,
    TEXT,
    TIME_OR_NULL,
    array,
    body_of,
    header,
    in_path,
    integer,
    nullable,
    obj,
    operation,
    query,
    text,
)

STREAM_OBJECT = obj(
    {
        "key": {**TEXT, "description": "The key path; levels joined by `:`."},
        "label": TEXT,
        "unit": TEXT,
        "type": text(enum=["number", "string", "boolean", "mixed"]),
        "last_value": {"type": ["number", "string", "boolean", "null"]},
        "last_at": TIME_OR_NULL,
    }
)
CHANNEL_OBJECT = obj(
    {
        "channel": INTEGER,
        "channel_name": TEXT,
        "tag": nullable(TEXT),
        "last_update": TIME_OR_NULL,
        "retention_days": INTEGER,
        "streams": array(STREAM_OBJECT),
    }
)
CHANNEL_ID = in_path("channel_id", integer(0, 2**31 - 1), "The number that the client chose; 0 is valid.")
TAG_HEADER = header("X-TAGNAME", text(192), "A tag, percent-encoded.")
TAG_QUERY = query("tag", text(64), "The same as `X-TAGNAME`.")
_WITH_TAG = (
    header("X-WITHTAG", text(enum=["true", "false"]), "`true`: one row per channel and tag."),
    query("withtag", text(enum=["true", "false"]), "The same as `X-WITHTAG`."),
)
_FIELDS = {
    "channel_name": text(64),
    "retention_days": integer(1, 3650, description="How long records are kept."),
    "streams": array(
        body_of({"key": text(1000, minLength=1), "label": text(128), "unit": text(32)}, required=["key"]),
        description="Labels and units of streams that exist.",
    ),
}
_EXAMPLE = [
    {
        "channel": 0,
        "channel_name": "Servers",
        "tag": None,
        "last_update": "2026-11-24T18:05:09.120+09:00",
        "retention_days": 90,
        "streams": [
            {
                "key": "cpu:idle",
                "label": "Idle",
                "unit": "%",
                "type": "number",
                "last_value": 93.1,
                "last_at": "2026-11-24T18:05:09.120+09:00",
            }
        ],
    }
]
_MANY = {200: array(CHANNEL_OBJECT)}
CHANNEL_LIST = {
    "get": operation(
        "List channels", answers=_MANY, tag="Channel", parameters=[*_WITH_TAG, *PAGE], example=_EXAMPLE
    ),
}
CHANNEL = {
    "get": operation(
        "Read a channel",
        answers=_MANY,
        tag="Channel",
        parameters=[CHANNEL_ID, *_WITH_TAG],
        errors=[Code.NO_CHANNEL],
        example=_EXAMPLE,
    ),
    "post": operation(
        "Create a channel",
        answers={201: array(CHANNEL_OBJECT)},
        tag="Channel",
        parameters=[CHANNEL_ID, TAG_HEADER, TAG_QUERY],
        body=body_of(_FIELDS),
        body_required=False,
        body_example={"channel_name": "Servers", "retention_days": 30},
        errors=[Code.CHANNEL_INUSE],
    ),
    "put": operation(
        "Change a channel",
        answers=_MANY,
        tag="Channel",
        parameters=[CHANNEL_ID],
        body=body_of(_FIELDS),
        body_example={"streams": [{"key": "cpu:idle", "label": "Idle", "unit": "%"}]},
        errors=[Code.NO_CHANNEL],
    ),
    "delete": operation(
        "Delete a channel or one of its tags",
        answers=_MANY,
        tag="Channel",
        parameters=[CHANNEL_ID, TAG_HEADER, TAG_QUERY],
        errors=[Code.NO_CHANNEL],
    ),
}
