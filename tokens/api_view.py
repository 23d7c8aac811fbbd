"""The ground every REST v2 view stands on, in the lowest room so that all rooms may use it."""

from typing import Any, cast

from django.http import HttpRequest
from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from servwatch_site.errors import Code, ServwatchError
from tokens.api_throttle import usage_headers, usage_note
from tokens.models import Account, ApiToken
from tokens.rate_limits import client_address, stranger_shut_out, stranger_usage


class ApiView(APIView):
    """A view of the v2 contract.

    `body_optional` names the methods that may come without a body. `scope_needed`: the scope for every method,
    instead of read for reading and write for the rest.
    """

    body_optional: frozenset[str] = frozenset()
    scope_needed: ApiToken.Scope | None = None

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        if request.META.get("CONTENT_LENGTH") in (None, "", "0"):
            # A chunked body has no length, which REST framework takes for no body at all. Any other number
            # makes it ask the parser, who sees what is really there.
            request.META["CONTENT_LENGTH"] = "-1"
        return super().initialize_request(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if request.method not in self.allowed_methods:
            self.http_method_not_allowed(request)  # before asking for a token that would not help
        shut_out = stranger_shut_out(client_address(request._request))
        if shut_out is not None:
            usage_note(request, shut_out)
            raise shut_out.error()
        super().initial(request, *args, **kwargs)

    def check_permissions(self, request: Request) -> None:
        """Counts first: a token that may not do what it asks for must not ask without limit."""
        super().check_throttles(request)
        super().check_permissions(request)

    def check_throttles(self, request: Request) -> None:
        """Done with the permissions."""

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, ServwatchError) and exc.code is Code.AUTH_REQUIRED:
            usage = stranger_usage(client_address(self.request._request))
            usage_note(self.request, usage)
            if usage.exceeded:
                exc = usage.error()
        return super().handle_exception(exc)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        answer = super().finalize_response(request, response, *args, **kwargs)
        for name, value in usage_headers(request).items():
            answer[name] = value
        return answer

    def options(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """Which methods there are, in the header Allow."""
        return Response(status=204)

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {**super().default_response_headers, "Cache-Control": "no-store"}


def account_of(request: Request) -> Account:
    """The account the request's token speaks for."""
    return cast(ApiToken, request.auth).account


def body_checked(request: Request, serializer: type[Serializer[Any]], **context: Any) -> dict[str, Any]:
    """The fields of the JSON object in the body that this serializer knows, checked; others are passed over.

    `context` is for its fields.

    Raises BAD_JSON_FORMAT and INVALID_VALUE.
    """
    if not isinstance(request.data, dict):
        raise ServwatchError(
            Code.INVALID_VALUE, _("The body must be one JSON object with the fields to set.")
        )
    checked = serializer(data=request.data, context=context)
    checked.is_valid(raise_exception=True)
    return dict(checked.validated_data)
