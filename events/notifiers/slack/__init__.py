"""Slack's incoming webhooks, which Mattermost and Rocket.Chat take as well."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from events.notifiers.shape import Field, HttpRequest, Kind, Message, shown_address, text_of, web_address_of
from events.notifiers.texts import LANGUAGE, colour, text, title


def render(settings: Mapping[str, Any], message: Message) -> HttpRequest:
    heading = _escaped(title(settings, message))
    attachment = {
        "color": colour(message),
        "title": heading,
        "title_link": message.link,
        "text": _escaped(text(settings, message)),
        "fallback": heading,
    }
    body = {"text": "", "attachments": [attachment]}
    if settings.get("channel"):
        body["channel"] = settings["channel"]
    return HttpRequest(settings["url"], json.dumps(body).encode())


def _escaped(plain: str) -> str:
    """The three characters that mean something; without it a name such as <!channel> would call everybody."""
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


KIND = Kind(
    name="slack",
    fields={
        "url": Field(label=_("Webhook address"), check=web_address_of, show=shown_address),
        "channel": Field(
            label=_("Channel"), check=text_of, required=False, help=_("Mattermost only; Slack ignores it.")
        ),
        "language": LANGUAGE,
    },
    render=render,
)
