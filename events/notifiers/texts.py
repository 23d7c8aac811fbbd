"""What people read, in the notifier's language, from the templates in `templates/notifiers/`."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings as site
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _

from events.notifiers.shape import Field, Message, choice_of

ITEMS_SHOWN = 20
LANGUAGES = tuple(code for code, _name in site.LANGUAGES)
LANGUAGE = Field(label=_("Language"), check=choice_of(*LANGUAGES), required=False, choices=LANGUAGES)
COLOURS = {"info": "#2f6fde", "warning": "#b26a00", "critical": "#c62828", "resolved": "#2e7d32"}


def rendered(template: str, settings: Mapping[str, Any], message: Message) -> str:
    """The text of a template about this message."""
    context = {
        "message": message,
        "items": message.items[:ITEMS_SHOWN],
        "more": max(0, len(message.items) - ITEMS_SHOWN),
        "colour": colour(message),
    }
    language = settings.get("language") or site.LANGUAGE_CODE
    with translation.override(language), timezone.override(message.zone):
        return str(render_to_string(f"notifiers/{template}", context)).strip()


def title(settings: Mapping[str, Any], message: Message) -> str:
    """One line."""
    return " ".join(rendered("title.txt", settings, message).split())


def text(settings: Mapping[str, Any], message: Message) -> str:
    """Some lines for each item, without the title."""
    lines = [line.strip() for line in rendered("text.txt", settings, message).splitlines()]
    return "\n".join(lines)


def word(settings: Mapping[str, Any], which: Any) -> str:
    """A translated word in the notifier's language."""
    with translation.override(settings.get("language") or site.LANGUAGE_CODE):
        return str(which)


def colour(message: Message) -> str:
    return COLOURS[message.severity if message.firing else "resolved"]
