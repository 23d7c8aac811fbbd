"""The ground every REST v2 view stands on, in the lowest room so that all rooms may use it."""

from typing import Any, cast

from django.http import HttpRequest
from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account, ApiToken


class ApiView(APIView):
    """A view of the v2 contract. `body_optional` names the methods that may come without a body."""

    body_optional: frozenset[str] = frozenset()

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        if request.META.get("CONTENT_LENGTH") in (None, "", "0"):
            # A chunked body has no length, which REST framework takes for no body at all. Any other number
            # makes it ask the parser, who sees what is really there.
            request.META["CONTENT_LENGTH"] = "-1"
        return super().initialize_request(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if request.method not in self.allowed_methods:
            self.http_method_not_allowed(request)  # before asking for a token that would not help
        super().initial(request, *args, **kwargs)

    def options(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """Which methods there are, in the header Allow."""
        return Response(status=204)

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {**super().default_response_headers, "Cache-Control": "no-store"}


def account_of(request: Request) -> Account:
    """The account the request's token speaks for."""
    return cast(ApiToken, request.auth).account


def body_checked(request: Request, serializer: type[Serializer[Any]]) -> dict[str, Any]:
    """The fields of the JSON object in the body that this serializer knows, checked; others are passed over.

    Raises BAD_JSON_FORMAT and INVALID_VALUE.
    """
    if not isinstance(request.data, dict):
        raise ServwatchError(
            Code.INVALID_VALUE, _("The body must be one JSON object with the fields to set.")
        )
    checked = serializer(data=request.data)
    checked.is_valid(raise_exception=True)
    return dict(checked.validated_data)
