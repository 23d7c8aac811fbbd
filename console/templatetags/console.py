"""How values look on pages. Choosing what to show is the views' work."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django import forms, template
from django.forms.boundfield import BoundField
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext as _

from console.ranges import PRESETS
from events.selectors_pages import number_or_none

register = template.Library()

_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
_SCALED = {"B": "B", "B/s": "B/s"}


@register.filter
def shown(value: Any, unit: Any = "") -> str | SafeString:
    """A value with its unit: bytes scaled, numbers rounded to what helps, yes and no as words."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if not isinstance(value, (int, float)):
        return str(value)
    number, unit = _scaled(float(value), str(unit or ""))
    if not unit:
        return number
    return format_html("{} <small>{}</small>", number, unit)


def _scaled(value: float, unit: str) -> tuple[str, str]:
    if unit not in _SCALED:
        return _rounded(value), unit
    size, power = abs(value), 0
    while size >= 1024 and power < len(_BINARY) - 1:
        size, power = size / 1024, power + 1
    return _rounded(value / 1024**power), _BINARY[power] + unit


def _rounded(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return number_format(int(value), use_l10n=True, force_grouping=abs(value) >= 10_000)
    if abs(value) >= 1e15 or abs(value) < 0.001:
        return f"{value:.3g}"
    decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return number_format(round(value, decimals), decimal_pos=decimals, use_l10n=True)


SIGNS = {"<=": "≤", ">=": "≥", "!=": "≠"}


@register.filter
def sign(operator: str) -> str:
    """A rule's operator as people write it."""
    return SIGNS.get(operator, operator)


@register.filter
def level(threshold: str | None, unit: Any = "") -> str | SafeString:
    """A rule's threshold: a number with the stream's unit, anything else as it stands."""
    number = number_or_none(threshold)
    return str(threshold or "") if number is None else shown(number, unit)


@register.filter
def newest(rows: Iterable[Any]) -> Any:
    """The last of rows that are in order; None where there is none."""
    return next(reversed(list(rows)), None)


@register.filter
def said(text: str) -> str:
    """A sentence that was kept in English, in the reader's language where it is known."""
    return _(text) if text else ""


@register.filter
def ago(at: datetime, now: datetime) -> str:
    """How long ago, in the largest unit that fits: "12 s ago", "5 min ago", "3 h ago", "2 days ago"."""
    seconds = int((now - at).total_seconds())
    if seconds < 2:
        return _("now")
    if seconds < 90:
        return _("%(n)d s ago") % {"n": seconds}
    if seconds < 5_400:
        return _("%(n)d min ago") % {"n": round(seconds / 60)}
    if seconds < 129_600:
        return _("%(n)d h ago") % {"n": round(seconds / 3_600)}
    return _("%(n)d days ago") % {"n": round(seconds / 86_400)}


@register.filter
def when(at: datetime | None, now: datetime) -> SafeString:
    """How long ago, with the time itself for machines and on pointing; "never" of None."""
    if at is None:
        return format_html('<span class="dim">{}</span>', _("never"))
    local = localtime(at)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(),
        f"{local:%Y-%m-%d %H:%M:%S}",
        ago(at, now),
    )


@register.filter
def status_word(status: str) -> str:
    """A device's state in words."""
    words = {
        "online": _("online"),
        "silent": _("silent"),
        "unmapped": _("not mapped"),
        "disabled": _("disabled"),
        "pending": _("waits for approval"),
    }
    return words.get(status) or _("never heard")


@register.filter
def span(seconds: float) -> str:
    """A length of time in the largest unit that fits: "0.2 s", "14 s", "5 min", "3 h", "2 d"."""
    if seconds < 90:
        return _("%(n)s s") % {"n": _rounded(round(seconds, 0 if seconds >= 3 else 1))}
    if seconds < 5_400:
        return _("%(n)d min") % {"n": round(seconds / 60)}
    if seconds < 129_600:
        return _("%(n)d h") % {"n": round(seconds / 3_600)}
    return _("%(n)d d") % {"n": round(seconds / 86_400)}


@register.filter
def unlocalized(value: float) -> str:
    """A number as programs write it, for data attributes."""
    return repr(value)


@register.filter
def is_checkbox(field: BoundField) -> bool:
    return isinstance(field.field.widget, forms.CheckboxInput)


@register.filter
def mqtt_version(number: int) -> str:
    """The protocol as people call it, from the number that goes over the wire."""
    return {3: "3.1", 4: "3.1.1"}.get(number, str(number))


@register.simple_tag
def presets() -> tuple[str, ...]:
    """The ranges offered for charts."""
    return PRESETS
