"""Who is connected to the broker now, and who takes commands. Written by `broker_log.py`."""

from typing import Any

from django.db.models import (
    BooleanField,
    Exists,
    ExpressionWrapper,
    F,
    OuterRef,
    QuerySet,
    Subquery,
    TextField,
    Value,
)
from django.db.models.functions import Coalesce, NullIf

from devices.models import Device, Session
from tokens.models import Account

# Notified, without a payload, in the transaction in which a device begins to take commands.
COMMANDS_NOTIFY = "servwatch_commands"


def session_list(account: Account, *, after: str = "", limit: int | None = None) -> list[Any]:
    """The account's live sessions by client id, each with its device's id or None as `of_device`."""
    query: QuerySet[Any] = _live(account).annotate(
        of_device=Coalesce(
            NullIf(F("device_id"), Value("")),
            _device_called("client_id"),
            _device_called("named_device"),
            output_field=TextField(),
        )
    )
    if after:
        query = query.filter(client_id__gt=after)
    query = query.order_by("client_id")
    return list(query[:limit] if limit is not None else query)


def session_count(account: Account) -> int:
    return _live(account).count()


def device_listens(account_key: int, device_id: str) -> bool:
    """Whether a client that is connected now has subscribed to this device's commands."""
    return Session.objects.filter(
        account=account_key, connected=True, takes_commands=True, commands_for__contains=[device_id]
    ).exists()


def device_in_session() -> "ExpressionWrapper[Any]":
    """For a query of devices: whether one has a live session, as session_list() tells it."""
    of_account = Session.objects.filter(account=OuterRef("account"), connected=True)
    unnamed = of_account.filter(device_id="")
    other = Exists(
        Device.objects.filter(account=OuterRef("account"), device_id=OuterRef("client_id"), deleted_at=None)
    )
    subscribed = of_account.filter(device_id=OuterRef("device_id"))
    by_client_id = unnamed.filter(client_id=OuterRef("device_id"))
    by_part = unnamed.filter(~other, named_device=OuterRef("device_id"))
    found = Exists(subscribed) | Exists(by_client_id) | Exists(by_part)
    return ExpressionWrapper(found, output_field=BooleanField())


def _live(account: Account) -> QuerySet[Session]:
    return Session.objects.filter(account=account, connected=True)


def _device_called(field: str) -> Subquery:
    """A device of the session's account whose id is this field of it; told when asked, since devices come and go."""
    called = Device.objects.filter(account=OuterRef("account"), device_id=OuterRef(field), deleted_at=None)
    return Subquery(called.values("device_id")[:1])
