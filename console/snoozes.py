"""How long people snooze an alert or keep a machine in maintenance. Pure."""

from datetime import datetime, timedelta, tzinfo

from django.utils.translation import gettext_lazy as _

from tokens.times import time_parse

MORNING = "morning"
LENGTHS = {"1h": timedelta(hours=1), "4h": timedelta(hours=4), "1d": timedelta(days=1)}
SNOOZES = (
    ("1h", _("1 hour")),
    ("4h", _("4 hours")),
    ("1d", _("1 day")),
    (MORNING, _("until tomorrow 9:00")),
)


def snooze_end(choice: str, *, now: datetime, zone: tzinfo) -> datetime | None:
    """When a snooze of this choice is over, None for what is no choice. Tomorrow is that of the account's zone."""
    if choice == MORNING:
        tomorrow = now.astimezone(zone).date() + timedelta(days=1)
        return time_parse(f"{tomorrow} 09:00", zone=zone)
    length = LENGTHS.get(choice)
    return None if length is None else now + length
