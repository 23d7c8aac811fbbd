"""The one shape of every error of the REST API and the connectors: `error`, `message` and perhaps `fields`."""

import logging
import secrets
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.translation import gettext as _
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.response import Response

from servwatch_site.errors import Code, ServwatchError

API_PATHS = ("v2", "post", "post_v1", "post_v2")
RETRY_AFTER_S = 5
MAX_FIELD_TEXT = 500

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

logger = logging.getLogger(__name__)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response:
    """What REST framework answers when a view raised."""
    request: HttpRequest = context["request"]
    known = error_known(error) or _unknown(error, request)
    return Response(error_body(known), status=known.status, headers=error_headers(known))


def error_body(error: ServwatchError) -> dict[str, Any]:
    body: dict[str, Any] = {"error": error.code.value, "message": error.message}
    if error.fields:
        body["fields"] = error.fields
    return body


def error_headers(error: ServwatchError) -> dict[str, str]:
    headers = dict(error.headers)
    if error.code is Code.AUTH_REQUIRED:
        headers["WWW-Authenticate"] = 'Bearer realm="servwatch"'
    if error.code in (Code.STORAGE_UNAVAILABLE, Code.BROKER_UNAVAILABLE):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return headers


def error_known(error: BaseException | None) -> ServwatchError | None:
    """The error of ours that another library's stands for; None: nobody expected it."""
    if isinstance(error, ServwatchError):
        return error
    if isinstance(error, exceptions.ValidationError):
        fields = _fields(error.detail)
        return ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields)
    if isinstance(error, exceptions.MethodNotAllowed):
        return ServwatchError(
            Code.METHOD_NOT_ALLOWED,
            _("This address does not know the method; the header Allow lists those it does."),
        )
    if isinstance(error, (exceptions.NotAuthenticated, exceptions.AuthenticationFailed)):
        return ServwatchError(
            Code.AUTH_REQUIRED, _("An API token is missing. Send it in the header X-APITOKEN.")
        )
    if isinstance(error, (exceptions.PermissionDenied, PermissionDenied)):
        return ServwatchError(
            Code.FORBIDDEN, _("This API token may not do this. Use one with the right scope.")
        )
    if isinstance(error, (exceptions.NotFound, Http404)):
        return _not_found()
    if isinstance(error, RequestDataTooBig):
        return ServwatchError(Code.PAYLOAD_TOO_LARGE, _("The body is too large. Send less at once."))
    if isinstance(error, SuspiciousOperation):
        return ServwatchError(
            Code.INVALID_VALUE,
            _("The request cannot be understood. Check its address and its headers."),
        )
    if isinstance(error, exceptions.ParseError):
        return ServwatchError(Code.BAD_JSON_FORMAT, _("The body is not JSON. Send UTF-8 JSON."))
    if isinstance(error, (OperationalError, InterfaceError)):
        logger.error("the database did not answer: %s", error)
        return ServwatchError(
            Code.STORAGE_UNAVAILABLE, _("The database does not answer at the moment. Try again shortly.")
        )
    return None


def is_api_path(path: str) -> bool:
    return path.lstrip("/").partition("/")[0] in API_PATHS


@csrf_exempt
def api_not_found(request: HttpRequest, **_captured: str) -> HttpResponse:
    """The last route under /v2: so that a path nobody knows answers in shape, also while debugging."""
    return error_answer(_not_found())


def handler400(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if not is_api_path(request.path):
        return defaults.bad_request(request, exception)
    return error_answer(error_known(exception) or _unknown(exception, request))


def handler403(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if not is_api_path(request.path):
        return defaults.permission_denied(request, exception)
    return error_answer(error_known(PermissionDenied()) or _not_found())


def handler404(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if not is_api_path(request.path):
        return defaults.page_not_found(request, exception)
    return error_answer(_not_found())


def handler500(request: HttpRequest) -> HttpResponseBase:
    """For what goes wrong around the views, such as a database that is away before the view is reached."""
    if not is_api_path(request.path):
        return defaults.server_error(request)
    error = sys.exc_info()[1]
    return error_answer(error_known(error) or _unknown(error, request))


def in_shape(view: AsyncView) -> AsyncView:
    """A view outside REST framework whose errors leave in the same shape."""

    @csrf_exempt
    async def shaped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return await view(request, *args, **kwargs)
        except Exception as error:
            return error_answer(error_known(error) or _unknown(error, request))

    return shaped


def error_answer(error: ServwatchError) -> HttpResponse:
    """The error as an answer outside REST framework."""
    return JsonResponse(
        error_body(error),
        status=error.status,
        headers=error_headers(error),
        json_dumps_params={"ensure_ascii": False, "separators": (",", ":")},
    )


def _not_found() -> ServwatchError:
    return ServwatchError(Code.NOT_FOUND, _("There is nothing at this address. Check the path."))


def _unknown(error: BaseException | None, request: HttpRequest) -> ServwatchError:
    number = secrets.token_hex(6)
    logger.error("%s %s failed; id %s", request.method, request.path, number, exc_info=error)
    return ServwatchError(
        Code.INTERNAL_ERROR,
        _("Something went wrong on our side. Give the operator this id from the log: %(number)s.")
        % {"number": number},
    )


def _fields(detail: Any, name: str = "") -> dict[str, str]:
    """REST framework's nested errors as one level: `streams.0.label`."""
    if isinstance(detail, dict):
        pairs = [(str(key), inner) for key, inner in detail.items()]
    elif isinstance(detail, list) and any(isinstance(inner, (dict, list)) for inner in detail):
        pairs = [(str(number), inner) for number, inner in enumerate(detail)]
    else:
        texts = detail if isinstance(detail, list) else [detail]
        return {name or "body": " ".join(map(str, texts))[:MAX_FIELD_TEXT]}
    fields: dict[str, str] = {}
    for key, inner in pairs:
        if inner:
            own = name if key == "non_field_errors" else f"{name}.{key}" if name else key
            fields |= _fields(inner, own)
    return fields
