"""What the OpenAPI document says of ready-made events."""

from servwatch_site.errors import Code
from tokens.api_docs import INTEGER, TEXT, TRUTH, array, body_of, integer, obj, operation, query, text

OFFER = obj(
    {
        "mapped_ch": INTEGER,
        "stock": {**TEXT, "description": "Which of the ready-made events it is."},
        "name": TEXT,
        "about": TEXT,
        "source": TEXT,
        "severity": text(enum=["info", "warning", "critical"]),
        "event_id": {
            "type": ["integer", "null"],
            "description": "The event that was made of it; null: none.",
        },
        "enabled": TRUTH,
        "changed": {**TRUTH, "description": "Somebody edited the event; it is theirs now."},
    }
)
_EXAMPLE = [
    {
        "mapped_ch": 0,
        "stock": "disk_full",
        "name": "Disk full",
        "about": "A disk is over 90 % full for 5 minutes.",
        "source": "disks:*:used_pct",
        "severity": "critical",
        "event_id": 3,
        "enabled": True,
        "changed": False,
    }
]
STOCK = {
    "get": operation(
        "List ready-made events",
        answers={200: array(OFFER)},
        tag="Event",
        parameters=[query("channel", integer(0, 2**31 - 1), "Only those of this channel.")],
        errors=[Code.NO_CHANNEL],
        example=_EXAMPLE,
    ),
    "post": operation(
        "Switch a ready-made event on or off",
        answers={200: array(OFFER)},
        tag="Event",
        body=body_of(
            {
                "mapped_ch": integer(0, 2**31 - 1),
                "stock": text(32),
                "enabled": {
                    "anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["true", "false"]}],
                    "description": "Default true.",
                },
                "notifiers": array(integer(1), maxItems=50, description="Who is told by a new one."),
            },
            required=["mapped_ch", "stock"],
        ),
        body_example={"mapped_ch": 0, "stock": "disk_full", "enabled": True},
        errors=[Code.NO_CHANNEL, Code.NOT_FOUND],
        example=_EXAMPLE,
    ),
}
