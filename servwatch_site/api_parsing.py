"""JSON in and out of the REST API, whatever Content-Type and Accept say."""

import json
from collections.abc import Iterable, Mapping
from typing import IO, Any

import orjson
from django.utils.translation import gettext as _
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from servwatch_site.errors import Code, ServwatchError

MAX_BODY_BYTES = 1024 * 1024


class AnyJsonParser(BaseParser):
    """Reads UTF-8 JSON: the published curl samples send none of the content types that say so."""

    media_type = "*/*"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        context = parser_context or {}
        request: Request = context["request"]
        body = _read(stream, declared=request.META.get("CONTENT_LENGTH", ""))
        if not body.strip():
            if request.method in getattr(context["view"], "body_optional", ()):
                return {}
            raise ServwatchError(Code.BAD_JSON_FORMAT, _("The body is empty. Send a JSON object."))
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ServwatchError(
                Code.BAD_JSON_FORMAT,
                _(
                    "The body is not JSON at line %(line)d, column %(column)d. Send UTF-8, without NaN or Infinity."
                )
                % {"line": error.lineno, "column": error.colno},
            ) from None


class JsonRenderer(BaseRenderer):
    """Writes compact JSON; integers of any size stay exact."""

    media_type = "application/json"
    format = "json"
    charset = None
    render_style = "binary"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        if data is None:
            return b""
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "replace")


class AlwaysJson(BaseContentNegotiation):
    """There is one parser and one renderer."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type or ""


def _read(stream: IO[Any], *, declared: str) -> bytes:
    too_large = declared.isdecimal() and int(declared) > MAX_BODY_BYTES
    body: bytes = b"" if too_large else stream.read(MAX_BODY_BYTES + 1)
    if too_large or len(body) > MAX_BODY_BYTES:
        raise ServwatchError(
            Code.PAYLOAD_TOO_LARGE,
            _("The body is larger than %(limit)d bytes. Send less at once.") % {"limit": MAX_BODY_BYTES},
        )
    return body
