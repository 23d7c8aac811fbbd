"""Reads of notifiers and deliveries for pages, API and /metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Min, Prefetch, Q, QuerySet
from django.utils.translation import gettext as _

from events.models import Attempt, Delivery, DeliveryItem, Notifier
from events.notifiers import kind_of
from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account


@dataclass(frozen=True)
class DeliveryFilter:
    """What a delivery log shows. `status`: one of Delivery.Status."""

    status: str = ""
    notifier: int | None = None
    alert: int | None = None


@dataclass(frozen=True)
class Outstanding:
    """Of all accounts. `oldest_at`: when the longest waiting was made."""

    pending: int
    oldest_at: datetime | None
    expired: int
    receivers_failing: int


def notifier_list(account: Account, *, after: int = 0, limit: int | None = None) -> list[Notifier]:
    """The account's notifiers by id, those after `after`; implicit ones are not among them."""
    return list(_notifiers(account).filter(pk__gt=after)[:limit])


def notifier_count(account: Account) -> int:
    return _notifiers(account).count()


def notifier_get_for_account(account: Account, notifier_key: int) -> Notifier:
    """The account's notifier. Raises NOT_FOUND, also for a stranger's."""
    notifier = _notifiers(account).filter(pk=notifier_key).first()
    if notifier is None:
        raise no_notifier()
    return notifier


def notifiers_get_for_account(account: Account, keys: Sequence[int]) -> list[Notifier]:
    """The account's notifiers with these keys. Raises NOT_FOUND when one of them is none."""
    found = list(_notifiers(account).filter(pk__in=set(keys)))
    if len(found) != len(set(keys)):
        raise no_notifier()
    return found


def no_notifier() -> ServwatchError:
    return ServwatchError(
        Code.NOT_FOUND, _("There is no such notifier. GET /v2/notifier lists those there are.")
    )


def notifier_shown(notifier: Notifier) -> dict[str, Any]:
    """Its settings as they may be seen: of secrets the end only."""
    try:
        return kind_of(notifier.kind).shown(notifier.reveal())
    except ValueError:  # encrypted with another key: they have to be given again
        return {}


def delivery_list(
    account: Account, *, narrow: DeliveryFilter, before: int | None = None, limit: int | None = None
) -> list[Delivery]:
    """The account's deliveries, the newest first, those before `before`, with their attempts."""
    rows = _deliveries_narrowed(account, narrow)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return list(_with_details(rows)[:limit])


def delivery_count(account: Account, *, narrow: DeliveryFilter) -> int:
    return _deliveries_narrowed(account, narrow).count()


def delivery_get_for_account(account: Account, delivery_key: int) -> Delivery:
    """One delivery. Raises NOT_FOUND, also for a stranger's."""
    row = _with_details(Delivery.objects.filter(account=account, pk=delivery_key)).first()
    if row is None:
        raise no_delivery()
    return row


def no_delivery() -> ServwatchError:
    return ServwatchError(
        Code.NOT_FOUND, _("There is no such delivery. GET /v2/delivery lists those there are.")
    )


def deliveries_outstanding() -> Outstanding:
    """What waits to be sent, over all accounts."""
    pending = Delivery.objects.filter(status=Delivery.Status.PENDING).aggregate(
        n=Count("pk"), at=Min("created_at")
    )
    return Outstanding(
        pending=pending["n"],
        oldest_at=pending["at"],
        expired=Delivery.objects.filter(status=Delivery.Status.EXPIRED).count(),
        receivers_failing=Notifier.objects.filter(deleted_at=None, enabled=True, failures__gte=3).count(),
    )


def _notifiers(account: Account) -> QuerySet[Notifier]:
    return Notifier.objects.filter(account=account, implicit=False, deleted_at=None).order_by("pk")


def _deliveries_narrowed(account: Account, narrow: DeliveryFilter) -> QuerySet[Delivery]:
    rows = Delivery.objects.filter(account=account)
    if narrow.status:
        rows = rows.filter(status=narrow.status)
    if narrow.notifier is not None:
        rows = rows.filter(notifier=narrow.notifier)
    if narrow.alert is not None:
        about = DeliveryItem.objects.filter(alert=narrow.alert).values("delivery")
        rows = rows.filter(Q(pk__in=about))
    return rows


def _with_details(rows: QuerySet[Delivery]) -> QuerySet[Delivery]:
    return (
        rows.select_related("notifier", "rule")
        .prefetch_related(
            Prefetch("items", DeliveryItem.objects.select_related("notification").order_by("pk")),
            Prefetch("attempts", Attempt.objects.order_by("pk")),
        )
        .order_by("-pk")
    )
