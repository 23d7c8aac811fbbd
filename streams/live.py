"""The live bus between processes: PostgreSQL's NOTIFY carries ids only, pages fetch what they show."""

import json
from collections.abc import Iterable

LIVE_NOTIFY = "servwatch_live"
MOST_BYTES = 7_500  # PostgreSQL takes payloads below 8,000 bytes


def live_payload(accounts: Iterable[int], channels: Iterable[int], devices: Iterable[int]) -> str:
    """What changed, as JSON of primary keys; cut to the accounts when there is too much of it."""
    told = {"a": sorted(accounts), "c": sorted(channels), "d": sorted(devices)}
    text = json.dumps(told, separators=(",", ":"))
    return (
        text if len(text) <= MOST_BYTES else json.dumps({"a": told["a"]}, separators=(",", ":"))[:MOST_BYTES]
    )
