"""What the OpenAPI document says of devices, commands and sessions."""

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

DEVICE_ID = in_path(
    "device_id",
    text(64, minLength=1, pattern=r"^[A-Za-z0-9._:-]+$"),
    "The device's serial: letters, digits and `. _ : -`; not `0`, and no reserved word.",
)
DEVICE_OBJECT = obj(
    {
        "device_id": TEXT,
        "description": TEXT,
        "enabled": TRUTH,
        "enable": text(enum=["true", "false"], description="The older name of `enabled`."),
        "mapped_ch": {"type": ["integer", "null"], "description": "The channel its records go to."},
        "device_type": TEXT,
        "location": TEXT,
        "manufacturer": TEXT,
        "activate_at": TIME_OR_NULL,
        "online": {
            **TRUTH,
            "description": "An MQTT session is open, or it was heard within three intervals.",
        },
        "pending": {**TRUTH, "description": "It waits for approval."},
        "last_seen": {**TIME, "description": "When it was last heard; absent before the first time."},
        "state": {
            "type": "object",
            "description": "What its last state message said.",
            "additionalProperties": True,
        },
    },
    optional=["last_seen", "state"],
)
DELETED_OBJECT = obj(
    {
        "device_id": TEXT,
        "description": TEXT,
        "deleted_at": TIME,
        "records": text(enum=["kept", "deleting", "deleted"]),
        "records_deleted": INTEGER,
        "records_deleted_at": TIME_OR_NULL,
    }
)
_TRUTH_IN: Schema = {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["true", "false"]}]}
_FIELDS = {
    "description": text(256),
    "enabled": _TRUTH_IN,
    "enable": _TRUTH_IN,
    "mapped_ch": {"type": ["integer", "null"], "minimum": 0},
    "device_type": text(64),
    "location": text(128),
    "manufacturer": text(64),
}
_EXAMPLE = [
    {
        "device_id": "web-1",
        "description": "front",
        "enabled": True,
        "enable": "true",
        "mapped_ch": 0,
        "device_type": "",
        "location": "rack 4",
        "manufacturer": "",
        "activate_at": "2026-11-23T18:30:00.000+09:00",
        "online": True,
        "pending": False,
        "last_seen": "2026-11-24T18:05:09.120+09:00",
    }
]
_MANY = {200: array(DEVICE_OBJECT)}
_YES_NO = text(enum=["true", "false"])
DEVICE_LIST = {
    "get": operation(
        "List devices",
        answers={200: {"anyOf": [array(DEVICE_OBJECT), array(DELETED_OBJECT)]}},
        tag="Device",
        parameters=[
            query("channel", integer(0, 2**31 - 1), "Only those mapped to this channel."),
            query("enabled", _YES_NO, "Only enabled, or only disabled ones."),
            query("online", _YES_NO, "Only those that are online, or are not."),
            query("mapped", _YES_NO, "Only those with a channel, or without."),
            query("pending", _YES_NO, "Only those that wait for approval, or do not."),
            query("q", TEXT, "Search in id, description and location."),
            query("deleted", _YES_NO, "`true`: deleted devices instead, with what became of their records."),
            *PAGE,
        ],
        example=_EXAMPLE,
    ),
    "post": operation(
        "Create without an id (refused)",
        answers={},
        tag="Device",
        errors=[Code.DEVICE_ID_ZERO],
    ),
}
DEVICE = {
    "get": operation(
        "Read a device",
        answers=_MANY,
        tag="Device",
        parameters=[DEVICE_ID],
        errors=[Code.NO_DEVICE],
        example=_EXAMPLE,
    ),
    "post": operation(
        "Create a device",
        answers={201: array(DEVICE_OBJECT)},
        tag="Device",
        parameters=[DEVICE_ID],
        body=body_of(_FIELDS),
        body_required=False,
        body_example={"enabled": True, "mapped_ch": 0},
        errors=[Code.DEVICE_INUSE, Code.MAX_DEVICE_REACH, Code.DEVICE_ID_ZERO, Code.NO_CHANNEL],
    ),
    "put": operation(
        "Change, enable or map a device",
        answers=_MANY,
        tag="Device",
        parameters=[DEVICE_ID],
        body=body_of(_FIELDS),
        body_example={"enabled": True, "mapped_ch": 0},
        errors=[Code.NO_DEVICE, Code.NO_CHANNEL],
    ),
    "delete": operation(
        "Delete a device",
        answers=_MANY,
        tag="Device",
        parameters=[
            DEVICE_ID,
            query(
                "records", text(enum=["keep", "delete"]), "`delete`: its records go too, in the background."
            ),
        ],
        errors=[Code.NO_DEVICE],
    ),
}
COMMAND_OBJECT = obj(
    {
        "command_id": INTEGER,
        "device_id": TEXT,
        "state": text(
            enum=["queued", "sent", "delivered", "expired"],
            description="queued: with us; sent: with the broker, which had a subscriber; delivered: the device has "
            "acknowledged it (MQTT 5); expired: its time ran out, or nobody was there and it was not to be kept.",
        ),
        "qos": integer(0, 1),
        "payload": TEXT,
        "created_at": TIME,
        "expires_at": TIME,
        "sent_at": TIME_OR_NULL,
        "delivered_at": TIME_OR_NULL,
    }
)
_COMMAND_EXAMPLE = {
    "command_id": 12,
    "device_id": "web-1",
    "state": "sent",
    "qos": 1,
    "payload": "reboot",
    "created_at": "2026-11-24T18:05:09.120+09:00",
    "expires_at": "2026-11-24T18:05:09.120+09:00",
    "sent_at": "2026-11-24T18:05:09.128+09:00",
    "delivered_at": None,
}
PUBLISH = {
    "get": operation(
        "List commands",
        answers={200: obj({"device_id": TEXT, "commands": array(COMMAND_OBJECT)})},
        tag="Publish",
        parameters=[
            DEVICE_ID,
            query("limit", integer(1, 10_000), "At most so many, the newest first; default 100."),
            query("after", integer(1), "The cursor of the page before, from its `Link`."),
        ],
        errors=[Code.NO_DEVICE],
        example={"device_id": "web-1", "commands": [_COMMAND_EXAMPLE]},
    ),
    "post": operation(
        "Send a command",
        answers={200: COMMAND_OBJECT, 202: COMMAND_OBJECT},
        tag="Publish",
        parameters=[DEVICE_ID],
        body=body_of(
            {
                "qos": integer(0, 1, default=0),
                "payload": {
                    "type": ["string", "object", "array", "number", "boolean"],
                    "description": "Text goes out untouched, everything else as JSON.",
                },
                "keep_s": integer(
                    0, 30 * 86400, default=0, description="So long it waits for an absent device."
                ),
            },
            required=["payload"],
        ),
        body_example={"qos": 1, "payload": "reboot", "keep_s": 3600},
        errors=[Code.NO_DEVICE, Code.BROKER_UNAVAILABLE],
        example=_COMMAND_EXAMPLE,
    ),
}
COMMAND = {
    "get": operation(
        "Read a command",
        answers={200: COMMAND_OBJECT},
        tag="Publish",
        parameters=[DEVICE_ID, in_path("command_id", integer(1), "The command's id.")],
        errors=[Code.NO_DEVICE, Code.NOT_FOUND],
        example=_COMMAND_EXAMPLE,
    ),
}
SESSION_OBJECT = obj(
    {
        "client_id": TEXT,
        "ipaddress": TEXT,
        "clean_sess": TRUTH,
        "proto_ver": integer(description="3: MQTT 3.1, 4: 3.1.1, 5: 5."),
        "keepalive": integer(description="Seconds."),
        "connected_at": TIME,
        "device_id": nullable(TEXT),
    }
)
SESSION_LIST = {
    "get": operation(
        "List live sessions",
        answers={200: array(SESSION_OBJECT)},
        tag="Session",
        parameters=PAGE,
        example=[
            {
                "client_id": "web-1",
                "ipaddress": "192.0.2.7",
                "clean_sess": True,
                "proto_ver": 4,
                "keepalive": 60,
                "connected_at": "2026-11-24T18:05:09.000+09:00",
                "device_id": "web-1",
            }
        ],
    ),
}
