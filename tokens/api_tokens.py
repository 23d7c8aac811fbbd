"""REST v2: API tokens and the device token, `/v2/token[/{token_id}]` and `/v2/token/device`; for the scope admin."""

from datetime import datetime, tzinfo
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from servwatch_site.errors import Code, ServwatchError
from tokens import api_docs
from tokens.api_fields import TextField, WholeNumberField
from tokens.api_options import page_asked, page_cut, page_headers
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account, ApiToken
from tokens.selectors import api_token_get_for_account, api_token_list, device_token_now
from tokens.services import (
    api_token_issue,
    api_token_revoke,
    api_token_rotate,
    api_token_update,
    device_token_issue,
)
from tokens.times import time_parse, time_text

MAX_OVERLAP_S = 30 * 86400


class MomentField(serializers.Field[datetime, Any, Any, Any]):
    """A time as the contract reads it, local to the account unless it has an offset; null for none."""

    default_error_messages = {"past": gettext_lazy("Must lie in the future.")}

    def __init__(self) -> None:
        super().__init__(required=False, allow_null=True)

    def to_internal_value(self, data: Any) -> datetime:
        try:
            at = time_parse(str(data), zone=self.context["zone"])
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None
        if at <= timezone.now():
            self.fail("past")
        return at

    def to_representation(self, value: Any) -> Any:
        return value


class OverlapSerializer(serializers.Serializer[Any]):
    """For how many seconds the replaced token still counts."""

    overlap_s = WholeNumberField(low=0, high=MAX_OVERLAP_S)


@extend_schema_view(**api_docs.TOKEN_LIST)
class TokenListView(ApiView):
    """The API tokens in force."""

    scope_needed = ApiToken.Scope.ADMIN

    class InputSerializer(serializers.Serializer[Any]):
        name = TextField(max_length=64)
        scopes = serializers.ListField(
            child=serializers.ChoiceField(choices=ApiToken.Scope.choices), required=False, min_length=1
        )
        expires_at = MomentField()

    def get(self, request: Request) -> Response:
        account, page = account_of(request), page_asked(request)
        found = api_token_list(account, now=timezone.now(), after=page.after if page else "")
        total = len(found)
        rows, next_after = page_cut(
            found[: page.limit + 1] if page else found, page, cursor=lambda row: str(row.pk)
        )
        headers = {}
        if page:
            total = len(api_token_list(account, now=timezone.now()))
            headers = page_headers(request, next_after=next_after, total=total)
        zone = account.zone
        return Response({"tokens": [token_object(row, zone=zone) for row in rows]}, headers=headers)

    def post(self, request: Request) -> Response:
        """A new token. `secret` is in this answer and in no later one."""
        account = account_of(request)
        given = body_checked(request, self.InputSerializer, zone=account.zone)
        if not given.get("name", "").strip():
            raise ServwatchError(
                Code.INVALID_VALUE,
                _("The name is missing. Say what the token is for."),
                fields={"name": _("required")},
            )
        token, secret = api_token_issue(
            account,
            name=given["name"],
            scopes=given.get("scopes", [ApiToken.Scope.READ]),
            expires_at=given.get("expires_at"),
        )
        return Response({**token_object(token, zone=account.zone), "secret": secret}, status=201)


@extend_schema_view(**api_docs.TOKEN)
class TokenView(ApiView):
    """One API token."""

    scope_needed = ApiToken.Scope.ADMIN
    body_optional = frozenset({"POST"})

    def get(self, request: Request, token_id: str) -> Response:
        account = account_of(request)
        return Response(token_object(token_of(account, token_id), zone=account.zone))

    def post(self, request: Request, token_id: str) -> Response:
        """Rotate: a new token like this one, which itself ends after `overlap_s` seconds (default 0: at once)."""
        account = account_of(request)
        token = token_of(account, token_id)
        overlap_s = body_checked(request, OverlapSerializer).get("overlap_s", 0)
        fresh, secret = api_token_rotate(token, now=timezone.now(), overlap_s=overlap_s)
        return Response({**token_object(fresh, zone=account.zone), "secret": secret}, status=201)

    def put(self, request: Request, token_id: str) -> Response:
        account = account_of(request)
        token = token_of(account, token_id)
        changes = body_checked(request, TokenListView.InputSerializer, zone=account.zone)
        return Response(token_object(api_token_update(token, changes=changes), zone=account.zone))

    def delete(self, request: Request, token_id: str) -> Response:
        """Revoke it. Answers the token as it was."""
        account = account_of(request)
        token = token_of(account, token_id)
        api_token_revoke(token, now=timezone.now())
        return Response(token_object(token, zone=account.zone))


@extend_schema_view(**api_docs.DEVICE_TOKEN)
class DeviceTokenView(ApiView):
    """The token that the account's devices use."""

    scope_needed = ApiToken.Scope.ADMIN
    body_optional = frozenset({"POST"})

    def get(self, request: Request) -> Response:
        return Response(device_token_object(account_of(request)))

    def post(self, request: Request) -> Response:
        """Replace it.

        For `overlap_s` seconds (default 0) the HTTP connector and brokers that ask us over HTTP take the old one, too.
        On Mosquitto it is a cut: it knows one password a user, so devices with the old token are disconnected within
        seconds.
        """
        account = account_of(request)
        overlap_s = body_checked(request, OverlapSerializer).get("overlap_s", 0)
        device_token_issue(account, overlap_s=overlap_s)
        return Response(device_token_object(account), status=201)


def token_of(account: Account, text: str) -> ApiToken:
    """The API token that a path names. Raises NOT_FOUND."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1
    return api_token_get_for_account(account, number, now=timezone.now())


def token_object(token: ApiToken, *, zone: tzinfo) -> dict[str, Any]:
    """What the API answers for an API token; never its secret. `hint` are the secret's first four letters."""
    return {
        "id": token.pk,
        "name": token.name,
        "scopes": token.scopes,
        "hint": token.hint,
        "created_at": time_text(token.created_at, zone=zone),
        "expires_at": time_text(token.expires_at, zone=zone),
        "last_used_at": time_text(token.last_used_at, zone=zone),
    }


def device_token_object(account: Account) -> dict[str, Any]:
    """What the API answers for the device token. `previous_until`: so long the one before it counts over HTTP."""
    now = device_token_now(account)
    return {
        "device_token": now.secret,
        "created_at": time_text(now.created_at, zone=account.zone),
        "previous_until": time_text(now.previous_until, zone=account.zone),
    }
