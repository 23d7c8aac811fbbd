"""Microsoft Teams, by the webhook of a workflow: an adaptive card."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from events.notifiers.shape import Field, HttpRequest, Kind, Message, shown_address, web_address_of
from events.notifiers.texts import LANGUAGE, text, title, word

STYLES = {"info": "accent", "warning": "warning", "critical": "attention"}


def render(settings: Mapping[str, Any], message: Message) -> HttpRequest:
    style = STYLES[message.severity] if message.firing else "good"
    heading = {
        "type": "TextBlock",
        "text": _plain(title(settings, message)),
        "weight": "bolder",
        "wrap": True,
    }
    lines = _plain(text(settings, message)).replace("\n", "\n\n")
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {"type": "Container", "style": style, "items": [heading], "bleed": True},
            {"type": "TextBlock", "text": lines, "wrap": True},
        ],
        "actions": [{"type": "Action.OpenUrl", "title": word(settings, _("Open")), "url": message.link}],
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return HttpRequest(settings["url"], json.dumps({"type": "message", "attachments": [attachment]}).encode())


def _plain(plain: str) -> str:
    """Text blocks read some Markdown; names are not meant so."""
    return "".join(f"\\{sign}" if sign in "*_[]`~\\" else sign for sign in plain)


KIND = Kind(
    name="teams",
    fields={
        "url": Field(label=_("Webhook address"), check=web_address_of, show=shown_address),
        "language": LANGUAGE,
    },
    render=render,
)
