"""PagerDuty, by its Events API v2: an alert of ours is one alert there, which we resolve as well."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from events.notifiers.shape import (
    Field,
    HttpRequest,
    Item,
    Kind,
    Message,
    shown_token,
    token_of,
    web_address_of,
)
from events.notifiers.texts import LANGUAGE, title

BASE = "https://events.pagerduty.com"
SUMMARY_LENGTH = 1024


def render(settings: Mapping[str, Any], message: Message) -> HttpRequest:
    item = message.first
    action = _action(item)
    body: dict[str, Any] = {
        "routing_key": settings["routing_key"],
        "event_action": action,
        "dedup_key": f"{message.origin}-test-{message.key}"
        if message.is_test
        else f"{message.origin}-alert-{item.alert_id}",
    }
    if action == "trigger":
        body |= {
            "client": "Servwatch",
            "client_url": message.url,
            "links": [{"href": message.link, "text": item.name[:200]}],
            "payload": {
                "summary": title(settings, message)[:SUMMARY_LENGTH],
                "source": item.device_id or item.channel_name or f"channel {item.channel}",
                "severity": item.severity,
                "timestamp": item.at.isoformat(timespec="milliseconds"),
                "component": item.source,
                "group": item.channel_name,
                "class": item.cause,
                "custom_details": {
                    "current": item.current,
                    "operator": item.operator,
                    "threshold": item.threshold,
                    "tag": item.tag,
                    "event_id": item.event_id,
                },
            },
        }
    base = settings.get("base_url") or BASE
    return HttpRequest(f"{base.rstrip('/')}/v2/enqueue", json.dumps(body).encode())


def _action(item: Item) -> str:
    """That of the Events API; one that is triggered again under its key is the same alert."""
    if item.is_resolved:
        return "resolve"
    return "acknowledge" if item.kind == "acked" else "trigger"


KIND = Kind(
    name="pagerduty",
    fields={
        "routing_key": Field(label=_("Integration key"), check=token_of, show=shown_token),
        "base_url": Field(
            label=_("Server"),
            check=web_address_of,
            required=False,
            help=_("https://events.eu.pagerduty.com for accounts in the EU."),
        ),
        "language": LANGUAGE,
    },
    render=render,
    groups=False,
    group_s=0,
    hears_acknowledged=True,
)
