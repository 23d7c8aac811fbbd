"""What the OpenAPI document says of notifiers and deliveries."""

from servwatch_site.errors import Code
from tokens.api_docs import (
    INTEGER,
    PAGE,
    TEXT,
    TIME,
    TIME_OR_NULL,
    TRUTH,
    Schema,
    array,
    body_of,
    in_path,
    integer,
    obj,
    operation,
    query,
    text,
)

_KINDS = ["email", "webhook", "slack", "teams", "telegram", "ntfy", "pagerduty"]
_SETTINGS: Schema = {
    "type": "object",
    "description": "Those of the kind: email `to`; webhook `url`; slack `url`, `channel`; teams `url`; telegram "
    "`bot_token`, `chat_id`, `base_url`; ntfy `topic_url`, `priority`, `token`; pagerduty `routing_key`, `base_url`; "
    "all but webhook `language`. Of secrets an answer shows only the end.",
    "additionalProperties": True,
}
NOTIFIER_OBJECT = obj(
    {
        "notifier_id": INTEGER,
        "kind": text(enum=_KINDS),
        "name": TEXT,
        "enabled": TRUTH,
        "group_s": {
            **INTEGER,
            "description": "Alerts of one event that come within so many seconds are one message; 0: each its own.",
        },
        "settings": _SETTINGS,
        "failures": {**INTEGER, "description": "In a row that were the receiver's fault."},
        "retry_at": {**TIME_OR_NULL, "description": "After failures: when it is tried again."},
        "last_ok_at": TIME_OR_NULL,
        "last_error": TEXT,
        "created_at": TIME,
    }
)
_NOTIFIER_EXAMPLE = {
    "notifier_id": 5,
    "kind": "slack",
    "name": "#operations",
    "enabled": True,
    "group_s": 15,
    "settings": {"url": "https://hooks.slack.com/…x7Qz", "channel": "", "language": "en"},
    "failures": 0,
    "retry_at": None,
    "last_ok_at": "2026-11-24T18:05:10.420+09:00",
    "last_error": "",
    "created_at": "2026-11-20T09:00:00.000+09:00",
}
_TRUTH_IN: Schema = {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["true", "false"]}]}
_FIELDS: dict[str, Schema] = {
    "name": text(64),
    "enabled": _TRUTH_IN,
    "group_s": integer(0, 3600),
    "settings": _SETTINGS,
}
NOTIFIER_ID = in_path("notifier_id", integer(1), "The notifier's id.")
NOTIFIER_LIST = {
    "get": operation(
        "List notifiers",
        answers={200: obj({"notifiers": array(NOTIFIER_OBJECT)})},
        tag="Notifier",
        parameters=PAGE,
        example={"notifiers": [_NOTIFIER_EXAMPLE]},
    ),
    "post": operation(
        "Create a notifier",
        answers={201: NOTIFIER_OBJECT},
        tag="Notifier",
        body=body_of({"kind": text(enum=_KINDS), **_FIELDS}, required=["kind"]),
        body_example={
            "kind": "webhook",
            "name": "ticket system",
            "settings": {"url": "https://tickets.example.org/hook"},
        },
        example=_NOTIFIER_EXAMPLE,
    ),
}
NOTIFIER = {
    "get": operation(
        "Read a notifier",
        answers={200: NOTIFIER_OBJECT},
        tag="Notifier",
        parameters=[NOTIFIER_ID],
        errors=[Code.NOT_FOUND],
        example=_NOTIFIER_EXAMPLE,
    ),
    "put": operation(
        "Change a notifier",
        answers={200: NOTIFIER_OBJECT},
        tag="Notifier",
        parameters=[NOTIFIER_ID],
        body=body_of(_FIELDS),
        body_example={"enabled": False},
        errors=[Code.NOT_FOUND],
    ),
    "delete": operation(
        "Delete a notifier",
        answers={200: NOTIFIER_OBJECT},
        tag="Notifier",
        parameters=[NOTIFIER_ID],
        errors=[Code.NOT_FOUND],
    ),
}
_SECRET = obj({"signing_secret": TEXT, "created_at": TIME, "previous_until": TIME_OR_NULL})
SIGNING_SECRET = {
    "get": operation("Read the signing secret", answers={200: _SECRET}, tag="Notifier"),
    "post": operation(
        "Replace the signing secret",
        answers={201: _SECRET},
        tag="Notifier",
        body=body_of({}),
        body_required=False,
        body_example={},
    ),
}

_STATUSES = ["pending", "delivered", "expired", "cancelled"]
_ATTEMPT = obj(
    {
        "at": TIME,
        "ok": TRUTH,
        "latency_ms": INTEGER,
        "status_code": {
            "type": ["integer", "null"],
            "description": "null: there was no answer, see `error`.",
        },
        "answer": {**TEXT, "description": "Its beginning."},
        "error": TEXT,
    }
)
DELIVERY_OBJECT = obj(
    {
        "delivery_id": INTEGER,
        "webhook_id": {**TEXT, "description": "The same for every attempt; the header `webhook-id`."},
        "notifier_id": {
            "type": ["integer", "null"],
            "description": "null: the event's `post_url`, or the account's addresses.",
        },
        "kind": text(enum=_KINDS),
        "event_id": {"type": ["integer", "null"]},
        "test": TRUTH,
        "status": text(enum=_STATUSES),
        "created_at": TIME,
        "next_at": {
            **TIME_OR_NULL,
            "description": "When it is tried next, unless its receiver is left alone longer.",
        },
        "expires_at": TIME,
        "delivered_at": TIME_OR_NULL,
        "notifications": array(obj({"alert_id": INTEGER, "kind": TEXT})),
        "attempts": array(_ATTEMPT),
    }
)
_DELIVERY_EXAMPLE = {
    "delivery_id": 90,
    "webhook_id": "0c6ef2b0-3a1f-4f36-9a39-0b1f2f5f5a51",
    "notifier_id": 5,
    "kind": "slack",
    "event_id": 3,
    "test": False,
    "status": "delivered",
    "created_at": "2026-11-24T18:05:10.020+09:00",
    "next_at": None,
    "expires_at": "2026-11-25T18:05:10.020+09:00",
    "delivered_at": "2026-11-24T18:05:10.420+09:00",
    "notifications": [{"alert_id": 41, "kind": "firing"}],
    "attempts": [
        {
            "at": "2026-11-24T18:05:10.120+09:00",
            "ok": True,
            "latency_ms": 300,
            "status_code": 200,
            "answer": "ok",
            "error": "",
        }
    ],
}
DELIVERY_ID = in_path("delivery_id", integer(1), "The delivery's id.")
DELIVERY_LIST = {
    "get": operation(
        "List deliveries",
        answers={200: obj({"deliveries": array(DELIVERY_OBJECT)})},
        tag="Delivery",
        parameters=[
            query("status", text(enum=_STATUSES), "Only with this status."),
            query("notifier", integer(0, 2**31 - 1), "Only to this notifier."),
            query("alert", integer(0, 2**31 - 1), "Only about this alert."),
            query("limit", integer(1, 1_000), "At most so many, the newest first; default 100."),
            query("after", integer(1, 2**31 - 1), "The cursor of the page before, from its `Link`."),
        ],
        example={"deliveries": [_DELIVERY_EXAMPLE]},
    ),
}
DELIVERY = {
    "get": operation(
        "Read a delivery",
        answers={200: DELIVERY_OBJECT},
        tag="Delivery",
        parameters=[DELIVERY_ID],
        errors=[Code.NOT_FOUND],
        example=_DELIVERY_EXAMPLE,
    ),
}
DELIVERY_RESEND = {
    "post": operation(
        "Send a delivery again",
        answers={200: DELIVERY_OBJECT},
        tag="Delivery",
        parameters=[DELIVERY_ID],
        body=body_of({}),
        body_required=False,
        body_example={},
        errors=[Code.NOT_FOUND],
    ),
}
NOTIFIER_TEST = {
    "post": operation(
        "Test a notifier",
        answers={201: DELIVERY_OBJECT},
        tag="Notifier",
        parameters=[NOTIFIER_ID],
        body=body_of({}),
        body_required=False,
        body_example={},
        errors=[Code.NOT_FOUND],
    ),
}
NOTIFIERS_OF_EVENT: Schema = array(
    INTEGER, description="The notifiers that are told; without any as `notify_type` says."
)
NOTIFIERS_IN: Schema = array(integer(0, 10**18), maxItems=50)
