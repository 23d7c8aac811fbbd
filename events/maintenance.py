"""Writes maintenance windows: times in which nobody is told of alerts."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from events.models import Maintenance, Notification
from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account

EDITABLE = ("name", "channel", "device", "tag", "starts_at", "ends_at", "repeat", "weekdays", "until")
LONGEST = timedelta(days=366)
# What repeats must be over before it begins again.
LONGEST_REPEATED = {Maintenance.Repeat.DAILY: timedelta(days=1), Maintenance.Repeat.WEEKLY: timedelta(days=7)}


@transaction.atomic
def maintenance_create(
    account: Account, *, changes: Mapping[str, Any], by: str, now: datetime
) -> Maintenance:
    """A new window of fields of EDITABLE; `starts_at` absent means now. Raises INVALID_VALUE with the fields."""
    window = Maintenance(account=account, created_by=by)
    if "starts_at" not in changes:
        window.starts_at = now
    _apply(window, changes)
    window.save(force_insert=True)
    return window


@transaction.atomic
def maintenance_update(window: Maintenance, *, changes: Mapping[str, Any], now: datetime) -> Maintenance:
    """Change fields of EDITABLE. What it held back is looked at anew. Raises INVALID_VALUE with the fields."""
    _apply(window, changes)
    window.save(update_fields=EDITABLE)
    _release(window.account_id, now=now)
    return window


@transaction.atomic
def maintenance_delete(window: Maintenance, *, now: datetime) -> None:
    """Take the window away. What it held back and still fires is told now."""
    account_key = window.account_id
    window.delete()
    _release(account_key, now=now)


def _release(account_key: int, *, now: datetime) -> None:
    """Let what is held be looked at: another window may still cover it."""
    Notification.objects.filter(alert__account=account_key, settled_at=None, held_until__gt=now).update(
        held_until=now
    )


def _apply(window: Maintenance, changes: Mapping[str, Any]) -> None:
    for name in EDITABLE:
        if name in changes:
            setattr(window, name, changes[name])
    if window.repeat != Maintenance.Repeat.WEEKLY:
        window.weekdays = []
    window.weekdays = sorted(set(window.weekdays))
    fields = _wrong(window)
    if fields:
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields)


def _wrong(window: Maintenance) -> dict[str, str]:
    """What does not fit, under the names in the API."""
    if window.starts_at is None or window.ends_at is None:
        return {name: _("required") for name in ("starts_at", "ends_at") if getattr(window, name) is None}
    if window.ends_at <= window.starts_at:
        return {"ends_at": _("must be after the beginning")}
    longest = LONGEST_REPEATED.get(Maintenance.Repeat(window.repeat), LONGEST)
    if window.ends_at - window.starts_at > longest:
        return {
            "ends_at": _("must be no more than %(days)d days after the beginning") % {"days": longest.days}
        }
    if not all(0 <= day <= 6 for day in window.weekdays):
        return {"weekdays": _("must be numbers from 0 for Monday to 6 for Sunday")}
    if window.until is not None and window.until <= window.starts_at:
        return {"until": _("must be after the beginning")}
    return {}
