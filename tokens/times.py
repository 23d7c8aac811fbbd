"""Times out of and into text, in the time zone of an account.

Out: ISO 8601 with offset, milliseconds, and microseconds when the time has them, so that a time read back
and asked for again finds its record. In: local to the account unless an offset is given.
"""

import re
from datetime import datetime, tzinfo

_TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*(Z|z|[+-]\d{2}(?::?\d{2})?)?"
)


def time_text(at: datetime | None, *, zone: tzinfo) -> str | None:
    """`2026-11-23T18:05:09.120+09:00`; None stays None."""
    if at is None:
        return None
    local = at.astimezone(zone)
    return local.isoformat(timespec="microseconds" if local.microsecond % 1000 else "milliseconds")


def time_parse(text: str, *, zone: tzinfo) -> datetime:
    """The moment meant by `YYYY-MM-DD hh:mm`, with seconds, with `T`, or ISO 8601 with offset.

    A local time that daylight saving skips or repeats is read with the offset that held before the change
    (fold 0). Raises ValueError, whose text says what a readable time looks like.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a time; write it like 2026-11-23 09:30 or 2026-11-23T09:30:00+09:00")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3, 4, 5, 6))
    microsecond = int((match.group(7) or "0")[:6].ljust(6, "0"))
    at = datetime(
        year, month, day, hour, minute, second, microsecond, tzinfo=zone
    )  # ValueError says which part
    offset = match.group(8)
    if offset is None:
        return at
    if offset not in "Zz":
        offset = offset if ":" in offset else f"{offset[:3]}:{offset[3:] or '00'}"
    return datetime.fromisoformat(
        at.replace(tzinfo=None).isoformat() + ("+00:00" if offset in "Zz" else offset)
    )
