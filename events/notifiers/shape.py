"""The shape that every kind of notifier has: settings with their checks, and a message rendered from plain values.

A kind is pure: settings and a Message in, what is to be sent out. Sending is the same for all (events/sending.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.translation import gettext as _

from channels.keys import Scalar

FIRING, RESOLVED = "firing", "resolved"
LEAST_TO_SHOW_END = 12  # of a shorter secret the last four characters would tell too much


@dataclass(frozen=True, slots=True)
class Item:
    """What one notification says. `state`: firing or resolved; `at`: when it came to that, by time of measurement."""

    kind: str
    state: str
    alert_id: int
    event_id: int
    severity: str
    cause: str
    description: str
    channel: int
    channel_name: str
    device_id: str | None
    tag: str | None
    source: str
    operator: str
    threshold: str
    current: Scalar
    since: datetime
    at: datetime
    url: str

    @property
    def name(self) -> str:
        """What the alert is about, for people."""
        return self.description or f"{self.source} {self.operator} {self.threshold}".strip()

    @property
    def is_resolved(self) -> bool:
        return self.state == RESOLVED


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one receiver, at least one item; `key` is the same in every attempt.

    `url`: where the console lists alerts. `origin`: tells installations apart that share a receiver. `zone`: the
    account's, in which times are written.
    """

    key: UUID
    is_test: bool
    items: Sequence[Item]
    url: str
    origin: str
    zone: tzinfo

    @property
    def first(self) -> Item:
        return self.items[0]

    @property
    def firing(self) -> int:
        return sum(not item.is_resolved for item in self.items)

    @property
    def severity(self) -> str:
        """The worst of those that fire; of none, of all."""
        order = ("info", "warning", "critical")
        found = [item.severity for item in self.items if not item.is_resolved]
        return max(found or [item.severity for item in self.items], key=order.index)

    @property
    def link(self) -> str:
        """The alert's page, or the list where it is about several."""
        return self.first.url if len(self.items) == 1 else self.url


class HttpRequest(NamedTuple):
    """`is_signed`: with the account's secret, at each attempt anew."""

    url: str
    body: bytes
    headers: Mapping[str, str] = {"Content-Type": "application/json"}
    is_signed: bool = False
    method: str = "POST"


class Mail(NamedTuple):
    to: Sequence[str]
    subject: str
    text: str
    html: str


Outgoing = HttpRequest | Mail


class SettingsError(Exception):
    """Settings that cannot be used, each with what is wrong."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(", ".join(fields))
        self.fields = dict(fields)


@dataclass(frozen=True)
class Field:
    """One setting. `check` gives it in its final form or raises ValueError with the reason.

    `show` makes of a secret what may be seen of it; None: it is none.
    """

    label: Any
    check: Callable[[Any], Any]
    required: bool = True
    default: Any = ""
    show: Callable[[Any], str] | None = None
    choices: Sequence[str] = ()
    help: Any = ""


@dataclass(frozen=True)
class Kind:
    """`groups`: several alerts may be one message; otherwise a message has one item.

    `hears_acknowledged`: it is told, too, that somebody looks after an alert that it was told of.
    """

    name: str
    fields: Mapping[str, Field]
    render: Callable[[Mapping[str, Any], Message], Outgoing]
    groups: bool = True
    group_s: int = 15
    hears_acknowledged: bool = False

    def clean(self, given: Mapping[str, Any], *, old: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All settings in their final form. What is not given stays as in `old`, also what was only shown masked.

        Raises SettingsError.
        """
        problems = {name: _("There is no such setting.") for name in given if name not in self.fields}
        known = dict(old or {})
        cleaned: dict[str, Any] = {}
        for name, one in self.fields.items():
            value = given.get(name, known.get(name, one.default))
            if one.show is not None and known.get(name) and value == one.show(known[name]):
                value = known[name]
            if value in ("", None, []):
                if one.required:
                    problems[name] = _("required")
                cleaned[name] = one.default
                continue
            try:
                cleaned[name] = one.check(value)
            except ValueError as error:
                problems[name] = str(error)
        if problems:
            raise SettingsError(problems)
        return cleaned

    def shown(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings as everybody of the account may see them."""
        found = {}
        for name, one in self.fields.items():
            value = settings.get(name, one.default)
            found[name] = one.show(value) if one.show is not None and value else value
        return found

    def secrets(self, settings: Mapping[str, Any]) -> list[str]:
        """What must not be told, should an answer repeat it."""
        found: list[str] = []
        for name, one in self.fields.items():
            value = settings.get(name)
            if one.show is not None and isinstance(value, str) and value:
                found.append(value)
                if "://" in value:
                    parts = urlsplit(value)
                    path = parts.path + (f"?{parts.query}" if parts.query else "")
                    found += [path] if len(path) > 1 else []
                    found += [part for part in parts.path.split("/") if len(part) >= LEAST_TO_SHOW_END]
        return found


def text_of(value: Any, *, most: int = 300) -> str:
    """A text without spaces or control characters at its ends or within a header."""
    if not isinstance(value, str):
        raise ValueError(_("Must be text."))
    text = value.strip()
    if len(text) > most or not text.isprintable():
        raise ValueError(_("This text is too long or holds characters that cannot be sent."))
    return text


def token_of(value: Any) -> str:
    """A secret as it goes into a header or an address."""
    text = text_of(value)
    if not text.isascii() or " " in text or "/" in text or "?" in text or "#" in text:
        raise ValueError(_("This is not such a secret: letters, digits and some signs are allowed."))
    return text


def web_address_of(value: Any) -> str:
    """An address that begins with http:// or https://. Where it leads to is judged when it is connected to."""
    text = text_of(value, most=2000)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or " " in text or "\\" in text:
        raise ValueError(_("must be an address that begins with http:// or https://"))
    return text


def addresses_of(value: Any) -> list[str]:
    """E-mail addresses, as a list or by comma; at most twenty."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(_("Must be a list of e-mail addresses."))
    found = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    try:
        for address in found:
            validate_email(address)
    except ValidationError:
        raise ValueError(_("One of these is not an e-mail address.")) from None
    if not 1 <= len(found) <= 20:
        raise ValueError(_("Name one to twenty e-mail addresses."))
    return found


def choice_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(_("must be one of: %(choices)s") % {"choices": ", ".join(choices)})
        return str(value)

    return check


def shown_address(address: str) -> str:
    """Scheme, host and the last four characters."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    rest = address.partition("://")[2].partition("/")[2]
    return f"{parts.scheme}://{host}/" + (f"…{_end(rest)}" if rest else "")


def shown_token(token: str) -> str:
    """The last four characters."""
    return f"…{_end(token)}"


def _end(text: str) -> str:
    return text[-4:] if len(text) >= LEAST_TO_SHOW_END else ""
