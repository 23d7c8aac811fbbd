"""What the OpenAPI document says of back-tests."""

from events.api_docs import EVENT_FIELDS
from servwatch_site.errors import Code
from streams.backtest import MOST_DAYS, MOST_FIRINGS, MOST_PATIENCE_S
from tokens.api_docs import (
    INTEGER,
    TEXT,
    TIME,
    TIME_OR_NULL,
    TRUTH,
    array,
    body_of,
    integer,
    nullable,
    obj,
    operation,
    text,
)

FIRING = obj(
    {
        "device_id": TEXT,
        "tag": nullable(TEXT),
        "key": {**TEXT, "description": "The key path; empty where the whole device was silent."},
        "cause": text(enum=["value", "silence", "trend"]),
        "since": {**TIME, "description": "From when the condition had held."},
        "at": {**TIME, "description": "When it would have fired."},
        "until": {**TIME_OR_NULL, "description": "When it would have recovered; null: it would still fire."},
        "peak": {
            "type": ["number", "string", "boolean", "null"],
            "description": "The value farthest beyond the threshold; null of silence.",
        },
        "exact": {
            **TRUTH,
            "description": "The times are those of records, else within a minute of them (of a trend: an hour).",
        },
    }
)
_ANSWER = obj(
    {
        "start": TIME,
        "end": TIME,
        "resolution": text(enum=["raw", "minute", "hour"]),
        "devices": INTEGER,
        "devices_looked": {**INTEGER, "description": "How many of them were looked at."},
        "keys": INTEGER,
        "keys_looked": INTEGER,
        "complete": {
            **TRUTH,
            "description": "False where the time was over; `notes` says what was looked at.",
        },
        "count": INTEGER,
        "firings": array(FIRING, description=f"The newest {MOST_FIRINGS}, the oldest of them first."),
        "notes": array(TEXT, description="What could not be looked at or said."),
    }
)
BACKTEST = {
    "post": operation(
        "Try an event on past data",
        answers={200: _ANSWER},
        tag="Event",
        body=body_of(
            {
                **EVENT_FIELDS,
                "days": integer(1, MOST_DAYS, description="So far back; default 30."),
                "patience_s": integer(
                    1,
                    MOST_PATIENCE_S,
                    description="So many seconds it may take; default 1. What is found by then is the answer.",
                ),
            }
        ),
        body_example={
            "mapped_ch": 0,
            "source": "disk:*:used_pct",
            "operator": ">",
            "threshold": "90",
            "days": 30,
        },
        errors=[Code.NO_CHANNEL, Code.NO_DEVICE],
        example={
            "start": "2026-10-25T18:00:00.000+09:00",
            "end": "2026-11-24T18:00:00.000+09:00",
            "resolution": "minute",
            "devices": 1,
            "devices_looked": 1,
            "keys": 2,
            "keys_looked": 2,
            "complete": True,
            "count": 1,
            "firings": [
                {
                    "device_id": "web-1",
                    "tag": None,
                    "key": "disk:/:used_pct",
                    "cause": "value",
                    "since": "2026-11-20T03:10:05.120+09:00",
                    "at": "2026-11-20T03:10:05.120+09:00",
                    "until": "2026-11-20T04:02:45.120+09:00",
                    "peak": 93.5,
                    "exact": True,
                }
            ],
            "notes": [],
        },
    ),
}
