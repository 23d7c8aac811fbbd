"""Lengths of time as people type and read them: a whole number and a unit. Pure."""

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
UNIT_CHOICES: list[tuple[str, str | Promise]] = [
    ("s", gettext_lazy("seconds")),
    ("min", gettext_lazy("minutes")),
    ("h", gettext_lazy("hours")),
    ("d", gettext_lazy("days")),
]


def length_split(seconds: int, *, default: str = "min") -> tuple[int, str]:
    """The number and the largest unit that say it exactly."""
    if not seconds:
        return 0, default
    return next((seconds // size, unit) for unit, size in reversed(UNITS_S.items()) if seconds % size == 0)


def length_words(seconds: int) -> str:
    """Exactly so long: "90 s", "5 min", "36 h", "2 days"."""
    number, unit = length_split(seconds)
    return _in_unit(number, unit)


def duration_words(seconds: float) -> str:
    """About so long, in two units at most: "2 h 10 min", "45 s"."""
    left, counts = round(seconds), []
    for unit, size in reversed(UNITS_S.items()):
        counts.append((left // size, unit))
        left %= size
    largest = next((place for place, (count, _unit) in enumerate(counts) if count), len(counts) - 1)
    words = [_in_unit(count, unit) for count, unit in counts[largest : largest + 2] if count]
    return " ".join(words or [_in_unit(0, "s")])


def _in_unit(number: int, unit: str) -> str:
    match unit:
        case "s":
            return _("%(n)s s") % {"n": number}
        case "min":
            return _("%(n)d min") % {"n": number}
        case "h":
            return _("%(n)d h") % {"n": number}
        case _:
            return ngettext("%(n)d day", "%(n)d days", number) % {"n": number}
