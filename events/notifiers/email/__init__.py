"""E-mail, as text and HTML, through the operator's own mail server."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from events.notifiers.shape import Field, Kind, Mail, Message, addresses_of
from events.notifiers.texts import LANGUAGE, rendered, title

SUBJECT_LENGTH = 200


def render(settings: Mapping[str, Any], message: Message) -> Mail:
    return Mail(
        to=settings["to"],
        subject=title(settings, message)[:SUBJECT_LENGTH],
        text=rendered("email/body.txt", settings, message) + "\n",
        html=rendered("email/body.html", settings, message),
    )


KIND = Kind(
    name="email",
    fields={
        "to": Field(label=_("To"), check=addresses_of, default=[], help=_("E-mail addresses, by comma.")),
        "language": LANGUAGE,
    },
    render=render,
)
