"""REST v2: notifiers, `/v2/notifier[/{notifier_id}]`, their test, and the secret that webhooks are signed with."""

from datetime import tzinfo
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from events import api_docs_notifiers as api_docs
from events.api_deliveries import delivery_object
from events.models import Notifier
from events.notifiers_store import (
    MOST_GROUP_S,
    notifier_create,
    notifier_delete,
    notifier_test,
    notifier_update,
)
from events.selectors_deliveries import (
    delivery_get_for_account,
    no_notifier,
    notifier_count,
    notifier_get_for_account,
    notifier_list,
    notifier_shown,
)
from events.signing import OVERLAP, SecretNow, signing_secret_now, signing_secret_rotate
from tokens.api_fields import TextField, TruthField, WholeNumberField
from tokens.api_options import option_error, page_asked, page_cut, page_headers
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account, ApiToken
from tokens.times import time_text


@extend_schema_view(**api_docs.NOTIFIER_LIST)
class NotifierListView(ApiView):
    """Where notifications go."""

    class InputSerializer(serializers.Serializer[Any]):
        kind = serializers.ChoiceField(choices=Notifier.Kind.choices, required=True)
        name = TextField(max_length=64)
        enabled = TruthField()
        group_s = WholeNumberField(low=0, high=MOST_GROUP_S)
        settings = serializers.DictField(required=False)

    def get(self, request: Request) -> Response:
        account, page = account_of(request), page_asked(request)
        after = _number(page.after) if page and page.after else 0
        if after is None:
            raise option_error("after", _("take it from the Link of the page before"))
        found = notifier_list(account, after=after, limit=page.limit + 1 if page else None)
        rows, next_after = page_cut(found, page, cursor=lambda row: str(row.pk))
        headers = page_headers(request, next_after=next_after, total=notifier_count(account)) if page else {}
        zone = account.zone
        return Response({"notifiers": [notifier_object(row, zone=zone) for row in rows]}, headers=headers)

    def post(self, request: Request) -> Response:
        """A new notifier. An event names it in `notifiers`."""
        account = account_of(request)
        given = body_checked(request, self.InputSerializer)
        settings = given.pop("settings", {})
        notifier = notifier_create(account, settings=settings, **given)
        return Response(notifier_object(notifier, zone=account.zone), status=201)


@extend_schema_view(**api_docs.NOTIFIER)
class NotifierView(ApiView):
    """One notifier."""

    class InputSerializer(serializers.Serializer[Any]):
        name = TextField(max_length=64)
        enabled = TruthField()
        group_s = WholeNumberField(low=0, high=MOST_GROUP_S)
        settings = serializers.DictField(required=False)

    def get(self, request: Request, notifier_id: str) -> Response:
        account = account_of(request)
        return Response(notifier_object(notifier_of(account, notifier_id), zone=account.zone))

    def put(self, request: Request, notifier_id: str) -> Response:
        """Change it. Settings that are not named stay, and so do secrets that are sent as they were shown."""
        account = account_of(request)
        notifier = notifier_of(account, notifier_id)
        notifier_update(notifier, now=timezone.now(), **body_checked(request, self.InputSerializer))
        return Response(notifier_object(notifier, zone=account.zone))

    def delete(self, request: Request, notifier_id: str) -> Response:
        """Answers it as it was. Events no longer name it, and what waits for it is cancelled."""
        account = account_of(request)
        notifier = notifier_of(account, notifier_id)
        gone = notifier_object(notifier, zone=account.zone)
        notifier_delete(notifier, now=timezone.now())
        return Response(gone)


@extend_schema_view(**api_docs.NOTIFIER_TEST)
class NotifierTestView(ApiView):
    """A test message."""

    body_optional = frozenset({"POST"})

    def post(self, request: Request, notifier_id: str) -> Response:
        """Send a test message on the way that all others go.

        The answer is the delivery that was queued; `GET /v2/delivery/{delivery_id}` tells a moment later how it went.
        """
        account = account_of(request)
        notifier = notifier_of(account, notifier_id)
        body_checked(request, _NoFields)
        delivery = notifier_test(notifier, now=timezone.now())
        fresh = delivery_get_for_account(account, delivery.pk)
        return Response(delivery_object(fresh, zone=account.zone), status=201)


@extend_schema_view(**api_docs.SIGNING_SECRET)
class SigningSecretView(ApiView):
    """The secret that the account's webhooks are signed with; for the scope admin."""

    scope_needed = ApiToken.Scope.ADMIN
    body_optional = frozenset({"POST"})

    def get(self, request: Request) -> Response:
        account = account_of(request)
        return Response(secret_object(signing_secret_now(account, now=timezone.now()), zone=account.zone))

    def post(self, request: Request) -> Response:
        """Replace it. For 24 hours webhooks are signed with both, so that receivers can change over."""
        account = account_of(request)
        body_checked(request, _NoFields)
        fresh = signing_secret_rotate(account, now=timezone.now(), overlap=OVERLAP)
        return Response(secret_object(fresh, zone=account.zone), status=201)


class _NoFields(serializers.Serializer[Any]):
    """A body without any field that counts."""


def notifier_of(account: Account, text: str) -> Notifier:
    """The notifier that a path names. Raises NOT_FOUND."""
    number = _number(text)
    if number is None:
        raise no_notifier()
    return notifier_get_for_account(account, number)


def notifier_object(notifier: Notifier, *, zone: tzinfo) -> dict[str, Any]:
    """What the API answers for a notifier; of secrets only scheme, host and the last characters."""
    return {
        "notifier_id": notifier.pk,
        "kind": notifier.kind,
        "name": notifier.name,
        "enabled": notifier.enabled,
        "group_s": notifier.group_s,
        "settings": notifier_shown(notifier),
        "failures": notifier.failures,
        "retry_at": time_text(notifier.retry_at, zone=zone),
        "last_ok_at": time_text(notifier.last_ok_at, zone=zone),
        "last_error": notifier.last_error,
        "created_at": time_text(notifier.created_at, zone=zone),
    }


def secret_object(now: SecretNow, *, zone: tzinfo) -> dict[str, Any]:
    """What the API answers for the secret. `previous_until`: so long the one before signs beside it."""
    return {
        "signing_secret": now.secret,
        "created_at": time_text(now.created_at, zone=zone),
        "previous_until": time_text(now.previous_until, zone=zone),
    }


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
