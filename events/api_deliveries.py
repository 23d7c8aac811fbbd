"""REST v2: the delivery log, `/v2/delivery[/{delivery_id}]`."""

from datetime import tzinfo
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from events import api_docs_notifiers as api_docs
from events.models import Attempt, Delivery
from events.notifiers_store import delivery_resend
from events.selectors_deliveries import (
    DeliveryFilter,
    delivery_count,
    delivery_get_for_account,
    delivery_list,
    no_delivery,
)
from tokens.api_options import option_choice, option_int, page_headers
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account
from tokens.times import time_text

DEFAULT_LIST = 100
MOST_ID = 2**31 - 1


@extend_schema_view(**api_docs.DELIVERY_LIST)
class DeliveryListView(ApiView):
    """What was sent, what waits, and how each attempt ended."""

    def get(self, request: Request) -> Response:
        """The newest first; `?limit=` and `?after=` give pages."""
        account = account_of(request)
        limit = option_int(request, "limit", low=1, high=1_000) or DEFAULT_LIST
        narrow = DeliveryFilter(
            status=option_choice(request, "status", Delivery.Status.values) or "",
            notifier=option_int(request, "notifier"),
            alert=option_int(request, "alert"),
        )
        before = option_int(request, "after", low=1)
        rows = delivery_list(account, narrow=narrow, before=before, limit=limit + 1)
        next_after = str(rows[limit - 1].pk) if len(rows) > limit else ""
        total = delivery_count(account, narrow=narrow)
        headers = page_headers(request, next_after=next_after, total=total)
        zone = account.zone
        return Response(
            {"deliveries": [delivery_object(row, zone=zone) for row in rows[:limit]]}, headers=headers
        )


@extend_schema_view(**api_docs.DELIVERY)
class DeliveryView(ApiView):
    """One delivery."""

    def get(self, request: Request, delivery_id: str) -> Response:
        account = account_of(request)
        return Response(delivery_object(delivery_of(account, delivery_id), zone=account.zone))


@extend_schema_view(**api_docs.DELIVERY_RESEND)
class DeliveryResendView(ApiView):
    """Sending it again."""

    body_optional = frozenset({"POST"})

    class InputSerializer(serializers.Serializer[Any]):
        """None that counts."""

    def post(self, request: Request, delivery_id: str) -> Response:
        """Send it again at once, under the same `webhook-id`, whatever became of it before."""
        account = account_of(request)
        delivery = delivery_of(account, delivery_id)
        body_checked(request, self.InputSerializer)
        delivery_resend(delivery, now=timezone.now())
        return Response(delivery_object(delivery_of(account, delivery_id), zone=account.zone))


def delivery_of(account: Account, text: str) -> Delivery:
    """The delivery that a path names. Raises NOT_FOUND."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise no_delivery()
    return delivery_get_for_account(account, int(text))


def delivery_object(delivery: Delivery, *, zone: tzinfo) -> dict[str, Any]:
    """What the API answers for a delivery with its attempts, the oldest first."""
    return {
        "delivery_id": delivery.pk,
        "webhook_id": str(delivery.public_id),
        "notifier_id": None if delivery.notifier.implicit else delivery.notifier_id,
        "kind": delivery.notifier.kind,
        "event_id": delivery.rule_id,
        "test": delivery.is_test,
        "status": delivery.status,
        "created_at": time_text(delivery.created_at, zone=zone),
        "next_at": time_text(
            delivery.next_at if delivery.status == Delivery.Status.PENDING else None, zone=zone
        ),
        "expires_at": time_text(delivery.expires_at, zone=zone),
        "delivered_at": time_text(delivery.delivered_at, zone=zone),
        "notifications": [
            {"alert_id": item.alert_id, "kind": item.notification.kind} for item in delivery.items.all()
        ],
        "attempts": [_attempt_object(attempt, zone=zone) for attempt in delivery.attempts.all()],
    }


def _attempt_object(attempt: Attempt, *, zone: tzinfo) -> dict[str, Any]:
    return {
        "at": time_text(attempt.at, zone=zone),
        "ok": attempt.ok,
        "latency_ms": attempt.latency_ms,
        "status_code": attempt.status_code,
        "answer": attempt.answer,
        "error": attempt.error,
    }
