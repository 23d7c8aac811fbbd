"""Stands in for services of maintenance windows until they are there; goes at the merge."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from events.models import Maintenance
from tokens.models import Account


class Window(NamedTuple):
    starts_at: datetime
    ends_at: datetime


def maintenance_create(account: Account, *, changes: Mapping[str, Any], by: str) -> Maintenance:
    return Maintenance.objects.create(account=account, created_by=by, **changes)


def maintenance_end(row: Maintenance, *, now: datetime) -> None:
    Maintenance.objects.filter(pk=row.pk).update(ends_at=now)


def maintenance_delete(row: Maintenance) -> None:
    Maintenance.objects.filter(pk=row.pk).delete()


def window_now_or_next(row: Maintenance, *, now: datetime) -> Window | None:
    return Window(row.starts_at, row.ends_at) if now < row.ends_at else None


def maintenance_get_for_account(account: Account, key: int) -> Maintenance | None:
    return Maintenance.objects.filter(account=account, pk=key).first()
