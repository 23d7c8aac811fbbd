"""REST v2: the account's own profile, `/v2/user`."""

from typing import Any, cast

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from tokens import api_docs
from tokens.api_auth import presented_secret, scope_allows
from tokens.api_fields import TextField
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account, ApiToken
from tokens.selectors import device_token_reveal, storage_use
from tokens.services import account_update


@extend_schema_view(**api_docs.USER)
class UserView(ApiView):
    """The account that the API token belongs to."""

    class InputSerializer(serializers.Serializer[Any]):
        email1 = TextField(max_length=254)
        email2 = TextField(max_length=254)
        organization = TextField(max_length=128)
        locale = TextField(max_length=64)
        user_alias = TextField(max_length=64)

    def get(self, request: Request) -> Response:
        return _answer(request, account_of(request))

    def put(self, request: Request) -> Response:
        given = body_checked(request, self.InputSerializer)
        return _answer(request, account_update(account_of(request), **given))


def _answer(request: Request, account: Account) -> Response:
    may_write = scope_allows(cast(ApiToken, request.auth), ApiToken.Scope.WRITE)
    return Response([user_object(account, api_token=presented_secret(request), with_device_token=may_write)])


def user_object(account: Account, *, api_token: str, with_device_token: bool) -> dict[str, Any]:
    """What the API answers for an account. `api_token` is the one the client sent; there is no limit to storage.

    With the device token one can send measurements, so a token that may only read does not see it.
    """
    use = storage_use(account.pk)
    return {
        "user_id": account.user_id,
        "api_token": api_token,
        "device_token": device_token_reveal(account) if with_device_token else None,
        "email1": account.email1,
        "email2": account.email2,
        "organization": account.organization,
        "locale": account.locale,
        "user_alias": account.user_alias,
        "storage": {
            "count": use.count,
            "usage_bytes": use.size_bytes,
            "maxSize": None,
            "avg_obj_size": use.size_bytes // use.count if use.count else 0,
        },
    }
