"""A signed webhook for programs: one request for each notification, with the payload that the contract publishes."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from channels.keys import Scalar
from events.notifiers.shape import Field, HttpRequest, Item, Kind, Message, shown_address, web_address_of


def render(settings: Mapping[str, Any], message: Message) -> HttpRequest:
    body = json.dumps(payload(message.first), ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return HttpRequest(settings["url"], body, headers, is_signed=True)


def payload(item: Item) -> dict[str, Any]:
    """The fields of the contract, then ours."""
    return {
        "event_id": item.event_id,
        "description": item.description,
        "mapped_ch": item.channel,
        "channel_name": item.channel_name,
        "source": item.source,
        "status": status(item),
        "current": item.current,
        "threshold": item.threshold,
        "device_id": item.device_id,
        "tag": item.tag,
        "severity": item.severity,
        "state": item.state,
        "at": item.at.isoformat(timespec="milliseconds"),
        "alert_id": item.alert_id,
        "kind": item.kind,
    }


def status(item: Item) -> str:
    """The sentence of the contract, in English always: programs read it."""
    if item.cause == "silence":
        what = item.source or item.device_id or "the device"
        return f"{what} sends again." if item.is_resolved else f"{what} has been silent."
    said = "is no longer" if item.is_resolved else "was"
    return (
        f"{item.source} {said} consistent with the threshold. "
        f"Current:{_written(item.current)} {item.operator} Threshold:{item.threshold}"
    )


def _written(value: Scalar) -> str:
    return value if isinstance(value, str) else json.dumps(value)


KIND = Kind(
    name="webhook",
    fields={"url": Field(label=_("Address"), check=web_address_of, show=shown_address)},
    render=render,
    groups=False,
    group_s=0,
)
