"""REST v2: records, `/v2/stream/{channel_id}`."""

import base64
import binascii
import logging
import re
import struct
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import chain

import orjson
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.request import Request

from channels.api import channel_of
from channels.models import Channel
from channels.selectors import last_updates
from devices.selectors import device_keys
from servwatch_site.errors import Code, ServwatchError
from streams.payload import FORM_FLAT
from streams.record_id import record_id
from streams.selectors import (
    AHEAD,
    BEGINNING,
    Position,
    RecordFilter,
    RecordRow,
    record_stream,
    records_newest,
)
from tokens.api_options import (
    MAX_PAGE,
    option_choice,
    option_error,
    option_int,
    option_text,
    page_headers,
)
from tokens.api_view import ApiView, account_of
from tokens.models import Account
from tokens.times import time_parse, time_text

LAST = "last"
PART_CHARACTERS = 256 * 1024
FLAT_KEYS = ("value", "value2", "value3", "value4")
# Options of the contract that change what the numbers mean; passing them over would be a wrong answer.
NOT_YET = {"aggregate": "X-AGGREGATE", "key": "", "interval": "", "max_points": "", "fill": "", "format": ""}

_CURSOR = struct.Struct(">qqq")
_LOST_PLUS = re.compile(r"(:[0-9]{2}(?:[.,][0-9]+)?) ([0-9]{2}:?[0-9]{2})\Z")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a request asks for. `newest`: the newest n; else a range, of which `limit` makes a page."""

    narrow: RecordFilter
    descending: bool
    newest: int | None = None
    limit: int | None = None
    after: Position | None = None


class StreamView(ApiView):
    """Records of one channel, over all its devices."""

    def get(self, request: Request, channel_id: str) -> HttpResponseBase:
        """The newest record, the newest n, or every record with start <= at < end.

        | header | query parameter | is |
        | --- | --- | --- |
        | X-STARTTIME | start | the first time; without it from the first record |
        | X-ENDTIME | end | the time behind the last, or `last`; required |
        | X-TAGNAME | tag | only this tag; percent-encoded |
        | X-PAGELIMIT | limit | how many of the newest; default 1 |
        | X-PAGESORT | sort | `asc` (default) or `desc` |
        | | device | only this device |

        With a range `?limit=` and `?after=` give pages with a Link to the next.
        """
        account = account_of(request)
        channel = channel_of(account, channel_id)
        wanted = _wanted(request, account, channel, now=timezone.now())
        newest = last_updates([channel]).get(channel.pk)
        head = _head(channel, newest=newest, zone=account.zone)
        if request.method == "HEAD":
            return _streamed(request, iter(()))  # no length: it would take the records to know it
        if wanted.newest is not None:
            rows = records_newest(wanted.narrow, limit=wanted.newest, channel_newest=newest)
            if not wanted.descending:
                rows.reverse()
            return _whole(record_parts(rows, head=head, zone=account.zone))
        if wanted.limit is not None:
            return _page(request, wanted, limit=wanted.limit, head=head, zone=account.zone)
        found = record_stream(wanted.narrow, descending=wanted.descending, after=wanted.after)
        return _answer(request, record_parts(found, head=head, zone=account.zone))


def record_text(row: RecordRow, *, zone: tzinfo) -> str:
    """A record as JSON text. Its value stays the text that the database has, so that every digit is kept."""
    at_us = (row.at - BEGINNING) // timedelta(microseconds=1)
    key = record_id(device_key=row.device_key, at_us=at_us, digest=row.digest)
    device_id = "null" if row.device_id is None else f'"{row.device_id}"'  # its letters need no escape
    tag = "null" if row.tag is None else orjson.dumps(row.tag).decode()
    value = flat_text(row.value) if row.form == FORM_FLAT else f'"value":{row.value}'
    return (
        f'{{"_id":"{key}","device_id":{device_id},"tag":{tag},{value},"at":"{time_text(row.at, zone=zone)}"}}'
    )


def flat_text(value: str) -> str:
    """The pairs of a flat record without their braces, and null for the values it does not have."""
    # A text inside cannot look like a key: its quotes are escaped.
    absent = [f', "{key}": null' for key in FLAT_KEYS if f'"{key}":' not in value]
    return value.strip()[1:-1] + "".join(absent)


def record_parts(rows: Iterable[RecordRow], *, head: str, zone: tzinfo) -> Iterator[bytes]:
    """The whole answer in parts of some 256 KiB; without its last part it is no JSON."""
    texts, size, before = [head], 0, ""
    for row in rows:
        text = record_text(row, zone=zone)
        texts.append(before + text)
        before = ","
        size += len(text)
        if size > PART_CHARACTERS:
            yield "".join(texts).encode()
            texts, size = [], 0
    texts.append("]}")
    yield "".join(texts).encode()


def cursor_text(position: Position) -> str:
    """An opaque text that names a place in the order of records."""
    at_us = (position.at - BEGINNING) // timedelta(microseconds=1)
    packed = _CURSOR.pack(at_us, position.device_key, position.digest)
    return base64.urlsafe_b64encode(packed).decode()


def cursor_parse(text: str) -> Position:
    """The place that cursor_text() named. Raises INVALID_VALUE."""
    try:
        at_us, device_key, digest = _CURSOR.unpack(base64.b64decode(text, altchars=b"-_", validate=True))
        return Position(BEGINNING + timedelta(microseconds=at_us), device_key, digest)
    except (ValueError, binascii.Error, struct.error, OverflowError):
        raise option_error("after", _("take it from the Link of the page before")) from None


def _wanted(request: Request, account: Account, channel: Channel, *, now: datetime) -> Wanted:
    for name, header in NOT_YET.items():
        if option_text(request, name, header=header) is not None:
            raise option_error(name, _("not available yet; leave it out"))
    end = option_text(request, "end", header="X-ENDTIME")
    if end is None:
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("The end is missing. Send X-ENDTIME with a time, or last for the newest record."),
            fields={"end": _("required")},
        )
    low = _time_option(request, "start", header="X-STARTTIME", zone=account.zone) or datetime.min.replace(
        tzinfo=UTC
    )
    device_id = option_text(request, "device")
    newest = end.lower() == LAST
    # No record lies further ahead, and the database need not plan for days that are empty.
    high = now + AHEAD if newest else _time_option(request, "end", header="X-ENDTIME", zone=account.zone)
    if high is None or (low > high and not newest):
        raise option_error("end", _("must not lie before the start"))
    narrow = RecordFilter(
        channel_key=channel.pk,
        low=low,
        high=high,
        tag=option_text(request, "tag", header="X-TAGNAME", decode=True),
        device_keys=None if device_id is None else device_keys(account, device_id),
    )
    descending = option_choice(request, "sort", ("asc", "desc"), header="X-PAGESORT") == "desc"
    limit = option_int(request, "limit", header="X-PAGELIMIT", low=1, high=MAX_PAGE)
    after = option_text(request, "after")
    if newest:
        if after is not None:
            raise option_error("after", _("pages are of a range; send an end time"))
        return Wanted(narrow, descending, newest=limit or 1)
    if request.headers.get("X-PAGELIMIT", "").strip():
        raise option_error(
            "limit", _("X-PAGELIMIT goes with X-ENDTIME last only; pages of a range use ?limit=")
        )
    position = None if after is None else cursor_parse(after)
    return Wanted(narrow, descending, limit=limit, after=position)


def _time_option(request: Request, name: str, *, header: str, zone: tzinfo) -> datetime | None:
    text = option_text(request, name, header=header)
    if text is None:
        return None
    # In a query a plus that was not encoded arrives as a space.
    text = _LOST_PLUS.sub(r"\1+\2", text)
    try:
        return time_parse(text, zone=zone)
    except ValueError as error:
        raise option_error(name, str(error)) from None


def _head(channel: Channel, *, newest: datetime | None, zone: tzinfo) -> str:
    """The answer up to its first record."""
    fields = {
        "channel": channel.number,
        "channel_name": channel.name,
        "last_update": time_text(newest, zone=zone),
    }
    return orjson.dumps(fields).decode()[:-1] + ',"stream":['


def _page(request: Request, wanted: Wanted, *, limit: int, head: str, zone: tzinfo) -> HttpResponse:
    found = record_stream(wanted.narrow, descending=wanted.descending, after=wanted.after, limit=limit + 1)
    rows = list(found)
    next_after = cursor_text(rows[limit - 1].position) if len(rows) > limit else ""
    response = _whole(record_parts(rows[:limit], head=head, zone=zone))
    for name, value in page_headers(request, next_after=next_after, total=None).items():
        response[name] = value
    return response


def _whole(parts: Iterable[bytes]) -> HttpResponse:
    return HttpResponse(b"".join(parts), content_type="application/json")


def _answer(request: Request, parts: Iterator[bytes]) -> HttpResponseBase:
    """A small answer whole, a large one streamed. What fails before the first part is an ordinary error."""
    first = next(parts)
    second = next(parts, None)
    if second is None:
        return _whole([first])
    return _streamed(request, _watched(chain([first, second], parts), path=request.path))


def _streamed(request: Request, parts: Iterator[bytes]) -> StreamingHttpResponse:
    content = _in_thread(parts) if isinstance(request._request, ASGIRequest) else parts
    return StreamingHttpResponse(content, content_type="application/json")


def _watched(parts: Iterator[bytes], *, path: str) -> Iterator[bytes]:
    """The status has been sent: what fails now can only break the connection, and must be in the log."""
    try:
        yield from parts
    except Exception:
        logger.exception("GET %s broke off after its beginning was sent", path)
        raise


async def _in_thread(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The parts, each made in the request's own thread, which has the database connection."""
    step = sync_to_async(lambda: next(parts, None), thread_sensitive=True)
    while (part := await step()) is not None:
        yield part
