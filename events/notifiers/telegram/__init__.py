"""Telegram, by a bot."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from events.notifiers.shape import (
    Field,
    HttpRequest,
    Kind,
    Message,
    shown_token,
    text_of,
    token_of,
    web_address_of,
)
from events.notifiers.texts import LANGUAGE, text, title

BASE = "https://api.telegram.org"
LENGTH = 4096


def render(settings: Mapping[str, Any], message: Message) -> HttpRequest:
    lines = [title(settings, message), text(settings, message), message.link]
    body = {
        "chat_id": settings["chat_id"],
        "text": "\n".join(lines)[:LENGTH],
        "disable_web_page_preview": True,
        "disable_notification": not message.firing,
    }
    base = settings.get("base_url") or BASE
    return HttpRequest(
        f"{base.rstrip('/')}/bot{settings['bot_token']}/sendMessage", json.dumps(body).encode()
    )


def chat_of(value: Any) -> str:
    """A chat's number, or the @name of a channel."""
    return text_of(str(value) if isinstance(value, int) and not isinstance(value, bool) else value, most=64)


KIND = Kind(
    name="telegram",
    fields={
        "bot_token": Field(label=_("Token of the bot"), check=token_of, show=shown_token),
        "chat_id": Field(
            label=_("Chat"), check=chat_of, help=_("The chat's number, or the @name of a channel.")
        ),
        "base_url": Field(
            label=_("Server"),
            check=web_address_of,
            required=False,
            help=_("Of a Bot API server of your own."),
        ),
        "language": LANGUAGE,
    },
    render=render,
)
