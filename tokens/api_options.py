"""Options of a request: from its `X-...` header, or from the query parameter of the obvious name.

Where both are given the header counts. An empty option is none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TypeVar
from urllib.parse import unquote

from django.utils.translation import gettext as _
from rest_framework.request import Request

from servwatch_site.errors import Code, ServwatchError
from tokens.times import time_parse

MAX_PAGE = 10_000
MAX_INT = 2**31 - 1

_LOST_PLUS = re.compile(r"(:[0-9]{2}(?:[.,][0-9]+)?) ([0-9]{2}:?[0-9]{2})\Z")

T = TypeVar("T")


def option_text(request: Request, name: str, *, header: str = "", decode: bool = False) -> str | None:
    """The option's text. `decode`: the header is percent-encoded, as the query parameter always is."""
    given = request.headers.get(header, "").strip() if header else ""
    if given:
        return _decoded(given, name=name) if decode else given
    given = request.query_params.get(name, "")
    if "\0" in given or "\ufffd" in given:  # U+FFFD is what is left of broken UTF-8
        raise option_error(name, _("not readable text"))
    return given.strip() or None


def header_text(headers: Mapping[str, str], name: str, *, decode: bool = False) -> str:
    """A header's text, empty without one. `decode`: it is percent-encoded. Raises INVALID_VALUE."""
    given = headers.get(name, "").strip()
    return _decoded(given, name=name) if decode else given


def option_int(
    request: Request, name: str, *, header: str = "", low: int = 0, high: int = MAX_INT
) -> int | None:
    """A whole number between `low` and `high`."""
    text = option_text(request, name, header=header)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high):
        raise option_error(
            name, _("must be a whole number from %(low)d to %(high)d") % {"low": low, "high": high}
        )
    return int(text)


def option_bool(request: Request, name: str, *, header: str = "") -> bool | None:
    text = option_choice(request, name, ("true", "false"), header=header)
    return None if text is None else text == "true"


def option_choice(request: Request, name: str, choices: Sequence[str], *, header: str = "") -> str | None:
    text = option_text(request, name, header=header)
    if text is None:
        return None
    if text.lower() not in choices:
        raise option_error(name, _("must be one of: %(choices)s") % {"choices": ", ".join(choices)})
    return text.lower()


def option_time(request: Request, name: str, *, header: str = "", zone: tzinfo) -> datetime | None:
    """A time, local to `zone` unless it has an offset."""
    text = option_text(request, name, header=header)
    if text is None:
        return None
    # In a query a plus that was not encoded arrives as a space.
    text = _LOST_PLUS.sub(r"\1+\2", text)
    try:
        return time_parse(text, zone=zone)
    except ValueError as error:
        raise option_error(name, str(error)) from None


def option_error(name: str, text: str) -> ServwatchError:
    """INVALID_VALUE for one option."""
    return ServwatchError(
        Code.INVALID_VALUE,
        _("The option %(name)s cannot be used: %(text)s.") % {"name": name, "text": text},
        fields={name: text},
    )


@dataclass(frozen=True)
class Page:
    """Which part of a list is asked for: at most `limit` rows, those after the cursor."""

    limit: int
    after: str


def page_asked(request: Request) -> Page | None:
    """The page of `?limit=` and `?after=`; None asks for the whole list."""
    limit = option_int(request, "limit", low=1, high=MAX_PAGE)
    after = option_text(request, "after")
    if limit is None and after is None:
        return None
    return Page(limit=limit or MAX_PAGE, after=after or "")


def page_cut(rows: Sequence[T], page: Page | None, *, cursor: Callable[[T], str]) -> tuple[Sequence[T], str]:
    """The rows of the page, out of one row more than asked for, and the cursor of the next page ("": none)."""
    if page is None or len(rows) <= page.limit:
        return rows, ""
    return rows[: page.limit], cursor(rows[page.limit - 1])


def page_headers(request: Request, *, next_after: str, total: int | None) -> dict[str, str]:
    """`Link` to the next page and the number of rows over all pages."""
    headers = {}
    if total is not None:
        headers["X-Total-Count"] = str(total)
    if next_after:
        query = request.query_params.copy()
        query["after"] = next_after
        url = request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
        headers["Link"] = f'<{url}>; rel="next"'
    return headers


def _decoded(text: str, *, name: str) -> str:
    try:
        if not text.isascii():
            raise ValueError
        plain = unquote(text, errors="strict")
    except ValueError:
        raise option_error(name, _("send it as UTF-8, percent-encoded")) from None
    if "\0" in plain:
        raise option_error(name, _("not readable text"))
    return plain
