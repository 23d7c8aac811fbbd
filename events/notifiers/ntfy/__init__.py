"""ntfy, on ntfy.sh or a server of one's own."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _

from events.notifiers.shape import (
    Field,
    HttpRequest,
    Kind,
    Message,
    choice_of,
    shown_address,
    shown_token,
    token_of,
    web_address_of,
)
from events.notifiers.texts import LANGUAGE, text, title

PRIORITIES = ("1", "2", "3", "4", "5")
BY_SEVERITY = {"info": 2, "warning": 3, "critical": 5}
TAGS = {"info": "information_source", "warning": "warning", "critical": "rotating_light"}


def render(settings: Mapping[str, Any], message: Message) -> HttpRequest:
    """Published as JSON to the server, since titles in headers could not hold every language."""
    base, _slash, topic = settings["topic_url"].rstrip("/").rpartition("/")
    body = {
        "topic": unquote(topic),
        "title": title(settings, message),
        "message": text(settings, message)[:3500],
        "priority": int(settings.get("priority") or 0)
        or (BY_SEVERITY[message.severity] if message.firing else 2),
        "tags": [TAGS[message.severity] if message.firing else "white_check_mark"],
        "click": message.link,
    }
    headers = {"Content-Type": "application/json"}
    if settings.get("token"):
        headers["Authorization"] = f"Bearer {settings['token']}"
    return HttpRequest(f"{base}/", json.dumps(body).encode(), headers)


def topic_of(value: Any) -> str:
    address = web_address_of(value)
    parts = urlsplit(address)
    if not parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(_now("must be the address of a topic, such as https://ntfy.sh/my-topic"))
    return address


KIND = Kind(
    name="ntfy",
    fields={
        "topic_url": Field(label=_("Address of the topic"), check=topic_of, show=shown_address),
        "priority": Field(
            label=_("Priority"),
            check=choice_of(*PRIORITIES),
            required=False,
            choices=PRIORITIES,
            help=_("1 to 5; without one as the severity has it."),
        ),
        "token": Field(label=_("Access token"), check=token_of, required=False, show=shown_token),
        "language": LANGUAGE,
    },
    render=render,
)
