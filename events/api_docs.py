"""What the OpenAPI document says of events and alerts."""

from events.api_docs_notifiers import NOTIFIERS_IN, NOTIFIERS_OF_EVENT
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
    nullable,
    obj,
    operation,
    query,
    text,
)

_MONTH_S = 30 * 86400
_SEVERITY = text(enum=["info", "warning", "critical"])
_OPERATORS = ["<", ">", "<=", ">=", "=", "!="]
_YES_NO = text(enum=["true", "false"])
_SCALAR: Schema = {"type": ["number", "string", "boolean", "null"]}

EVENT_OBJECT = obj(
    {
        "event_id": INTEGER,
        "mapped_ch": {
            "type": ["integer", "null"],
            "description": "The channel it watches; null: none (yet).",
        },
        "description": TEXT,
        "notify_type": text(enum=["email", "http"]),
        "post_url": TEXT,
        "enabled": TRUTH,
        "source": {
            **TEXT,
            "description": "The key path; levels joined by `:`. A level `*` stands for any key, each with alerts of "
            "its own. Steps into arrays are not written: any element that matches fires.",
        },
        "operator": text(enum=["", *_OPERATORS]),
        "threshold": {
            **TEXT,
            "description": "Compared as a number when the value is one, too; otherwise both are compared as texts, and "
            "a text is neither above nor below a number. A boolean is 1 or 0 beside a number, `true` or `false` beside "
            "a text.",
        },
        "for_s": {**INTEGER, "description": "It must hold so long, by the times of the measurements."},
        "clear_threshold": {**nullable(TEXT), "description": "Another level for recovery."},
        "absent_s": {
            "type": ["integer", "null"],
            "description": "No data for so long is an alert, too; 0: for five times as long as is usual, at least a "
            "minute. Without `source` the device is silent, with it each stream. Needs no `operator`.",
        },
        "ahead_s": {
            "type": ["integer", "null"],
            "description": "It fires when, by its trend, the value will meet the condition within so many seconds; "
            "see docs/events.md.",
        },
        "severity": _SEVERITY,
        "device_id": {**nullable(TEXT), "description": "Only this device; null: all of the channel."},
        "tag": {**nullable(TEXT), "description": "Only this tag; null: with any tag or none."},
        "repeat_s": {"type": ["integer", "null"], "description": "Told again so often until acknowledged."},
        "notifiers": NOTIFIERS_OF_EVENT,
    }
)
_THRESHOLD_IN: Schema = {"type": ["string", "number"], "maxLength": 256}
_FIELDS: dict[str, Schema] = {
    "mapped_ch": {"type": ["integer", "null"], "minimum": 0},
    "description": text(256),
    "notify_type": text(enum=["email", "http"]),
    "post_url": text(2000),
    "enabled": {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["true", "false"]}]},
    "source": text(1000),
    "operator": text(enum=["", *_OPERATORS]),
    "threshold": _THRESHOLD_IN,
    "for_s": integer(0, _MONTH_S),
    "clear_threshold": {**_THRESHOLD_IN, "type": ["string", "number", "null"]},
    "absent_s": {**integer(0, _MONTH_S), "type": ["integer", "null"]},
    "ahead_s": {**integer(600, _MONTH_S), "type": ["integer", "null"]},
    "severity": _SEVERITY,
    "device_id": nullable(text(64)),
    "tag": nullable(text(64)),
    "repeat_s": {**integer(60, _MONTH_S), "type": ["integer", "null"]},
    "notifiers": NOTIFIERS_IN,
}
EVENT_FIELDS = _FIELDS  # also of a back-test
_EVENT_EXAMPLE = [
    {
        "event_id": 3,
        "mapped_ch": 0,
        "description": "A disk fills",
        "notify_type": "email",
        "post_url": "",
        "enabled": True,
        "source": "disk:*:used_pct",
        "operator": ">",
        "threshold": "90",
        "for_s": 300,
        "clear_threshold": "85",
        "absent_s": None,
        "ahead_s": None,
        "severity": "critical",
        "device_id": None,
        "tag": None,
        "repeat_s": None,
        "notifiers": [5],
    }
]
_BODY_EXAMPLE = {
    "mapped_ch": 0,
    "description": "A disk fills",
    "source": "disk:*:used_pct",
    "operator": ">",
    "threshold": "90",
    "clear_threshold": "85",
    "for_s": 300,
    "severity": "critical",
}
EVENT_ID = in_path("event_id", integer(1), "The event's id.")
_MANY = {200: array(EVENT_OBJECT)}
EVENT_LIST = {
    "get": operation(
        "List events",
        answers=_MANY,
        tag="Event",
        parameters=[
            query("channel", integer(0, 2**31 - 1), "Only those of this channel."),
            query("enabled", _YES_NO, "Only enabled, or only disabled ones."),
            *PAGE,
        ],
        example=_EVENT_EXAMPLE,
    ),
    "post": operation(
        "Create an event",
        answers={201: obj({"event_id": INTEGER})},
        tag="Event",
        body=body_of(_FIELDS),
        body_required=False,
        body_example=_BODY_EXAMPLE,
        errors=[Code.NO_CHANNEL, Code.NO_DEVICE, Code.NOT_FOUND],
        example={"event_id": 3},
    ),
}
EVENT = {
    "get": operation(
        "Read an event",
        answers=_MANY,
        tag="Event",
        parameters=[EVENT_ID],
        errors=[Code.NO_EVENT],
        example=_EVENT_EXAMPLE,
    ),
    "put": operation(
        "Change an event",
        answers=_MANY,
        tag="Event",
        parameters=[EVENT_ID],
        body=body_of(_FIELDS),
        body_example={"threshold": "95"},
        errors=[Code.NO_EVENT, Code.NO_CHANNEL, Code.NO_DEVICE, Code.NOT_FOUND],
    ),
    "delete": operation(
        "Delete an event", answers=_MANY, tag="Event", parameters=[EVENT_ID], errors=[Code.NO_EVENT]
    ),
}

_STATES = ["firing", "acknowledged", "snoozed", "resolved"]
ALERT_OBJECT = obj(
    {
        "alert_id": INTEGER,
        "event_id": INTEGER,
        "description": {**TEXT, "description": "The event's."},
        "mapped_ch": INTEGER,
        "channel_name": TEXT,
        "device_id": nullable(TEXT),
        "tag": nullable(TEXT),
        "key": {
            **TEXT,
            "description": "The key path; with a pattern as source, the one that fired. Of a silent device empty.",
        },
        "cause": {**text(enum=["value", "silence", "trend"]), "description": "Silence has no value."},
        "operator": TEXT,
        "threshold": TEXT,
        "severity": _SEVERITY,
        "state": text(enum=_STATES),
        "since": {**TIME, "description": "From when the condition has held, by time of measurement."},
        "fired_at": {**TIME, "description": "The time of the measurement that fired it."},
        "value": _SCALAR,
        "last_at": {
            **TIME,
            "description": "Of the newest value that is noted here, at most a minute behind.",
        },
        "last_value": _SCALAR,
        "resolved_at": TIME_OR_NULL,
        "resolution": {
            "type": ["string", "null"],
            "enum": [
                None,
                "recovered",
                "rule_changed",
                "rule_disabled",
                "rule_deleted",
                "channel_deleted",
                "tag_deleted",
                "device_deleted",
                "device_disabled",
                "device_moved",
                "vanished",
            ],
            "description": "Why it ended.",
        },
        "acknowledged_at": TIME_OR_NULL,
        "acknowledged_by": nullable(TEXT),
        "snoozed_until": TIME_OR_NULL,
        "snoozed_by": nullable(TEXT),
        "comments": array(obj({"text": TEXT, "by": TEXT, "at": TIME})),
    }
)
_ALERT_EXAMPLE = {
    "alert_id": 41,
    "event_id": 3,
    "description": "A disk fills",
    "mapped_ch": 0,
    "channel_name": "Servers",
    "device_id": "web-1",
    "tag": None,
    "key": "disk:/:used_pct",
    "cause": "value",
    "operator": ">",
    "threshold": "90",
    "severity": "critical",
    "state": "acknowledged",
    "since": "2026-11-24T18:00:09.120+09:00",
    "fired_at": "2026-11-24T18:05:09.120+09:00",
    "value": 90.4,
    "last_at": "2026-11-24T18:09:19.120+09:00",
    "last_value": 91.2,
    "resolved_at": None,
    "resolution": None,
    "acknowledged_at": "2026-11-24T18:07:30.000+09:00",
    "acknowledged_by": "API token dashboard",
    "snoozed_until": None,
    "snoozed_by": None,
    "comments": [{"text": "on it", "by": "API token dashboard", "at": "2026-11-24T18:07:41.000+09:00"}],
}
ALERT_ID = in_path("alert_id", integer(1), "The alert's id.")
ALERT_LIST = {
    "get": operation(
        "List alerts",
        answers={200: obj({"alerts": array(ALERT_OBJECT)})},
        tag="Alert",
        parameters=[
            query(
                "state",
                text(enum=[*_STATES, "open"]),
                "Only in this state; `open`: all that are not resolved.",
            ),
            query("severity", _SEVERITY, "Only of this severity."),
            query("device", text(64), "Only of this device."),
            query("channel", integer(0, 2**31 - 1), "Only of this channel."),
            query("event", integer(0), "Only of this event."),
            query("since", TEXT, "Only those that fired at this time or later."),
            query("limit", integer(1, 10_000), "At most so many, the newest first; default 100."),
            query("after", integer(1), "The cursor of the page before, from its `Link`."),
        ],
        example={"alerts": [_ALERT_EXAMPLE]},
    ),
}
ALERT = {
    "get": operation(
        "Read an alert",
        answers={200: ALERT_OBJECT},
        tag="Alert",
        parameters=[ALERT_ID],
        errors=[Code.NOT_FOUND],
        example=_ALERT_EXAMPLE,
    ),
    "put": operation(
        "Acknowledge or snooze an alert",
        answers={200: ALERT_OBJECT},
        tag="Alert",
        parameters=[ALERT_ID],
        body=body_of(
            {
                "acknowledged": _FIELDS["enabled"],
                "snooze_s": integer(0, _MONTH_S, description="So long it is quiet; 0 ends it."),
            }
        ),
        body_example={"acknowledged": True},
        errors=[Code.NOT_FOUND],
    ),
    "post": operation(
        "Comment on an alert",
        answers={201: ALERT_OBJECT},
        tag="Alert",
        parameters=[ALERT_ID],
        body=body_of({"comment": text(2000, minLength=1)}, required=["comment"]),
        body_example={"comment": "on it"},
        errors=[Code.NOT_FOUND],
    ),
}

_SPAN = text(enum=["once", "daily", "weekly"])
MAINTENANCE_OBJECT = obj(
    {
        "maintenance_id": INTEGER,
        "name": TEXT,
        "channel": {"type": ["integer", "null"], "description": "Only this channel; null: all."},
        "device_id": {**nullable(TEXT), "description": "Only this device; null: all."},
        "tag": {**nullable(TEXT), "description": "Only this tag; null: with any tag or none."},
        "starts_at": TIME,
        "ends_at": TIME,
        "repeat": {**_SPAN, "description": "Again at the same time of day, in the account's time zone."},
        "weekdays": {
            **array(integer(0, 6)),
            "description": "With `weekly`, the days it begins on: 0 is Monday. None: that of `starts_at`.",
        },
        "until": {**TIME_OR_NULL, "description": "It does not begin again at this time or later."},
        "active": {**TRUTH, "description": "Whether it holds now."},
        "active_until": {**TIME_OR_NULL, "description": "When it ends that holds now."},
        "created_at": TIME,
        "created_by": TEXT,
    }
)
_TIME_IN = {**text(64), "description": "Local to the account unless an offset is given."}
_MAINTENANCE_FIELDS: dict[str, Schema] = {
    "name": text(128),
    "channel": {"type": ["integer", "null"], "minimum": 0},
    "device_id": nullable(text(64)),
    "tag": nullable(text(64)),
    "starts_at": _TIME_IN,
    "ends_at": _TIME_IN,
    "repeat": _SPAN,
    "weekdays": {**array(integer(0, 6)), "maxItems": 7},
    "until": nullable(text(64)),
}
_MAINTENANCE_EXAMPLE = {
    "maintenance_id": 2,
    "name": "Patches",
    "channel": 0,
    "device_id": None,
    "tag": None,
    "starts_at": "2026-11-29T02:00:00.000+09:00",
    "ends_at": "2026-11-29T04:00:00.000+09:00",
    "repeat": "weekly",
    "weekdays": [6],
    "until": None,
    "active": False,
    "active_until": None,
    "created_at": "2026-11-24T18:00:00.000+09:00",
    "created_by": "API token dashboard",
}
_MAINTENANCE_BODY = {
    "name": "Patches",
    "channel": 0,
    "starts_at": "2026-11-29 02:00",
    "ends_at": "2026-11-29 04:00",
    "repeat": "weekly",
}
MAINTENANCE_ID = in_path("maintenance_id", integer(1), "The window's id.")
_WINDOWS = {200: obj({"maintenance": array(MAINTENANCE_OBJECT)})}
MAINTENANCE_LIST = {
    "get": operation(
        "List maintenance windows",
        answers=_WINDOWS,
        tag="Maintenance",
        example={"maintenance": [_MAINTENANCE_EXAMPLE]},
    ),
    "post": operation(
        "Create a maintenance window",
        answers={201: MAINTENANCE_OBJECT},
        tag="Maintenance",
        body=body_of(_MAINTENANCE_FIELDS, required=["starts_at", "ends_at"]),
        body_example=_MAINTENANCE_BODY,
        errors=[Code.NO_CHANNEL, Code.NO_DEVICE],
        example=_MAINTENANCE_EXAMPLE,
    ),
}
MAINTENANCE = {
    "get": operation(
        "Read a maintenance window",
        answers={200: MAINTENANCE_OBJECT},
        tag="Maintenance",
        parameters=[MAINTENANCE_ID],
        errors=[Code.NOT_FOUND],
        example=_MAINTENANCE_EXAMPLE,
    ),
    "put": operation(
        "Change a maintenance window",
        answers={200: MAINTENANCE_OBJECT},
        tag="Maintenance",
        parameters=[MAINTENANCE_ID],
        body=body_of(_MAINTENANCE_FIELDS),
        body_example={"ends_at": "2026-11-29 05:00"},
        errors=[Code.NOT_FOUND, Code.NO_CHANNEL, Code.NO_DEVICE],
    ),
    "delete": operation(
        "Delete a maintenance window",
        answers={200: MAINTENANCE_OBJECT},
        tag="Maintenance",
        parameters=[MAINTENANCE_ID],
        errors=[Code.NOT_FOUND],
    ),
}
