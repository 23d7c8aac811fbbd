"""The span a chart shows, from the page's address: a preset, a typed length, or two times. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from tokens.times import time_parse

PRESETS = ("15m", "1h", "6h", "24h", "7d", "30d")
DEFAULT = "1h"
MOST = timedelta(days=3650)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LENGTH = re.compile(r"(\d{1,5})\s*([mhdw])")


@dataclass(frozen=True)
class Range:
    """`text` is the length such as 6h, or empty for two fixed times. `problem` says what could not be read."""

    start: datetime
    end: datetime
    text: str
    problem: str = ""

    @property
    def query(self) -> str:
        """How this range stands in an address."""
        if self.text:
            return f"range={self.text}"
        return f"from={self.start:%Y-%m-%dT%H:%M:%SZ}&to={self.end:%Y-%m-%dT%H:%M:%SZ}"


def range_parse(*, length: str, start: str, end: str, zone: tzinfo, now: datetime) -> Range:
    """From `range=`, `from=` and `to=`. What cannot be read gives the default range and says so."""
    default = Range(now - timedelta(hours=1), now, DEFAULT)
    if start or end:
        try:
            first = time_parse(start, zone=zone) if start else now - timedelta(hours=1)
            last = time_parse(end, zone=zone) if end else now
        except ValueError as error:
            return Range(default.start, now, DEFAULT, str(error))
        if not timedelta(0) < last - first <= MOST:
            return Range(
                default.start, now, DEFAULT, "the end must lie after the start, by ten years at most"
            )
        return Range(first, last, "")
    if not length:
        return default
    match = _LENGTH.fullmatch(length.strip().lower())
    if match is None:
        return Range(default.start, now, DEFAULT, "a length looks like 15m, 6h, 7d or 2w")
    span = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if not timedelta(0) < span <= MOST:
        return Range(default.start, now, DEFAULT, "a length lies between a minute and ten years")
    return Range(now - span, now, f"{match[1]}{match[2]}")
