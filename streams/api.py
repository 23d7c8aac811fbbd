"""REST v2: records and aggregates of them, `GET /v2/stream/{channel_id}`."""

import base64
import binascii
import logging
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import chain
from typing import TypeVar

import orjson
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.request import Request

from channels.api import channel_of
from channels.keys import key_join, key_split
from channels.models import Channel, Stream
from devices.selectors import device_keys
from servwatch_site.errors import Code, ServwatchError
from streams.aggregates import (
    FILLS,
    MOST_BUCKETS,
    NAMES,
    Aggregates,
    Asked,
    Entry,
    aggregates,
    interval_parse,
)
from streams.formats import (
    CONTENT_TYPES,
    CSV,
    FORMATS,
    JSON,
    Layout,
    csv_text,
    guarded,
    nested,
    nesting_places,
    numbers_json,
    only,
    parts,
    record_layout,
)
from streams.selectors import (
    AHEAD,
    BEGINNING,
    Position,
    RecordFilter,
    RecordRow,
    Row,
    channels_newest,
    record_pages,
    records_newest,
)
from tokens.api_options import (
    MAX_PAGE,
    option_choice,
    option_error,
    option_int,
    option_text,
    option_time,
    page_headers,
)
from tokens.api_view import ApiView, account_of
from tokens.models import Account
from tokens.times import time_text

LAST = "last"
MOST_KEYS = 100

_CURSOR = struct.Struct(">qqq")

logger = logging.getLogger(__name__)

Levels = tuple[str, ...]
AnyResponse = TypeVar("AnyResponse", bound=HttpResponseBase)


@dataclass(frozen=True)
class Wanted:
    """What a request asks for. `newest`: the newest n; else a range, of which `limit` makes a page.

    `asked`: aggregates instead of records.
    """

    channel: Channel
    narrow: RecordFilter
    descending: bool
    form: str
    zone: tzinfo
    keys: list[Levels] | None = None
    newest: int | None = None
    limit: int | None = None
    after: Position | None = None
    asked: Asked | None = None


class StreamView(ApiView):
    """Records of one channel, over all its devices."""

    def get(self, request: Request, channel_id: str) -> HttpResponseBase:
        """The newest record, the newest n, or every record with start <= at < end; or aggregates of a range.

        | header | query parameter | is |
        | --- | --- | --- |
        | X-STARTTIME | start | the first time; without it from the first record |
        | X-ENDTIME | end | the time behind the last, or `last`; required |
        | X-TAGNAME | tag | only this tag; percent-encoded |
        | X-PAGELIMIT | limit | how many of the newest; default 1 |
        | X-PAGESORT | sort | `asc` (default) or `desc` |
        | X-AGGREGATE | aggregate | of `avg sum min max count p50 p95 p99 rate`, several by commas; not with `last` |
        | | interval | aggregates by `30s`, `5m`, `1h`, `1d`, `1w`; default aggregate `avg` |
        | | max_points | aggregates by the smallest even interval that gives no more buckets than this |
        | | fill | empty buckets: `none` (left out), `null`, `previous`, `linear`, `zero` |
        | | key | only this key path; repeatable |
        | | device | only this device |
        | | format | `json`, `csv` or `ndjson` |

        With a range `?limit=` and `?after=` give pages with a Link to the next.
        """
        account = account_of(request)
        channel = channel_of(account, channel_id)
        now = timezone.now()
        wanted = _wanted(request, account, channel, now=now)
        if request.method == "HEAD":
            return _streamed(request, iter(()), wanted)  # no length: it would take the records to know it
        newest = channels_newest([channel.pk], now=now).get(channel.pk)
        if wanted.asked is not None:
            made = aggregates(wanted.narrow, wanted.asked, zone=account.zone, now=now)
            return _answer(request, _aggregate_parts(made, wanted, newest=newest), wanted)
        if wanted.newest is not None:
            rows = _newest(wanted, limit=wanted.newest, channel_newest=newest)
            if not wanted.descending:
                rows = rows[::-1]
            layout, texts = _layout(wanted, newest=newest)
            return _whole(parts([texts(rows)], layout), wanted)
        if wanted.limit is not None:
            return _page(request, wanted, limit=wanted.limit, newest=newest)
        return _answer(request, _streamed_parts(wanted, newest=newest), wanted)


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
    end = option_text(request, "end", header="X-ENDTIME")
    if end is None:
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("The end is missing. Send X-ENDTIME with a time, or last for the newest record."),
            fields={"end": _("required")},
        )
    start = option_time(request, "start", header="X-STARTTIME", zone=account.zone)
    low = start or datetime.min.replace(tzinfo=UTC)
    device_id = option_text(request, "device")
    newest = end.lower() == LAST
    # No record lies further ahead, and the database need not plan for days that are empty.
    high = now + AHEAD if newest else option_time(request, "end", header="X-ENDTIME", zone=account.zone)
    if high is None or (low > high and not newest):
        raise option_error("end", _("must not lie before the start"))
    wanted = Wanted(
        channel,
        RecordFilter(
            channel_key=channel.pk,
            low=low,
            high=high,
            tag=option_text(request, "tag", header="X-TAGNAME", decode=True),
            device_keys=None if device_id is None else device_keys(account, device_id),
        ),
        descending=option_choice(request, "sort", ("asc", "desc"), header="X-PAGESORT") == "desc",
        form=option_choice(request, "format", FORMATS) or JSON,
        zone=account.zone,
        keys=_keys(request),
    )
    limit = option_int(request, "limit", header="X-PAGELIMIT", low=1, high=MAX_PAGE)
    after = option_text(request, "after")
    asked = _asked(request, wanted, from_start=start is not None)
    if asked is not None:
        _refuse_pages(request, newest=newest, limit=limit, after=after)
        return replace(wanted, asked=asked)
    if newest:
        if after is not None:
            raise option_error("after", _("pages are of a range; send an end time"))
        return replace(wanted, newest=limit or 1)
    if request.headers.get("X-PAGELIMIT", "").strip():
        raise option_error(
            "limit", _("X-PAGELIMIT goes with X-ENDTIME last only; pages of a range use ?limit=")
        )
    return replace(wanted, limit=limit, after=None if after is None else cursor_parse(after))


def _asked(request: Request, wanted: Wanted, *, from_start: bool) -> Asked | None:
    names = _aggregate_names(request)
    text = option_text(request, "interval")
    interval = None if text is None else interval_parse(text)
    max_points = option_int(request, "max_points", low=1, high=MOST_BUCKETS)
    if interval is not None and max_points is not None:
        raise option_error("max_points", _("goes without an interval, which it chooses"))
    fill = option_choice(request, "fill", FILLS)
    if interval is None and max_points is None and fill is not None:
        raise option_error("fill", _("needs an interval or max_points"))
    if not names and interval is None and max_points is None:
        return None
    return Asked(
        names or ("avg",), wanted.keys, interval, max_points, fill or "none", wanted.descending, from_start
    )


def _aggregate_names(request: Request) -> tuple[str, ...]:
    """In the order asked for, from the header or from the query parameter, which may be repeated."""
    given = option_text(request, "aggregate", header="X-AGGREGATE")
    if given is None:
        return ()
    texts = (
        [given]
        if request.headers.get("X-AGGREGATE", "").strip()
        else request.query_params.getlist("aggregate")
    )
    names = [name.strip().lower() for text in texts for name in text.split(",") if name.strip()]
    if not names or not set(names) <= set(NAMES):
        raise option_error("aggregate", _("must be one of: %(choices)s") % {"choices": ", ".join(NAMES)})
    return tuple(dict.fromkeys(names))


def _refuse_pages(request: Request, *, newest: bool, limit: int | None, after: str | None) -> None:
    """Aggregates are of a whole range."""
    if newest:
        name = next(
            (name for name in ("interval", "max_points") if option_text(request, name) is not None),
            "aggregate",
        )
        raise option_error(name, _("aggregates are of a range; send an end time instead of last"))
    for name, given in (("limit", limit), ("after", after)):
        if given is not None:
            raise option_error(name, _("pages are of records; aggregates come whole"))


def _keys(request: Request) -> list[Levels] | None:
    """The key paths asked for. One that no record can have finds nothing."""
    texts = [text for text in request.query_params.getlist("key") if text]
    if len(texts) > MOST_KEYS:
        raise option_error("key", _("at most %(most)d key paths") % {"most": MOST_KEYS})
    if any("\0" in text or "\ufffd" in text for text in texts):
        raise option_error("key", _("not readable text"))
    return list(dict.fromkeys(map(key_split, texts))) or None


def _streamed_parts(wanted: Wanted, *, newest: datetime | None) -> Iterator[bytes]:
    layout, texts = _layout(wanted, newest=newest)
    narrow = wanted.narrow
    shape: Callable[[list[Row]], list[str]] = texts
    if wanted.keys is not None:
        narrow, keep = _named(narrow, wanted.keys), only(wanted.keys)

        def shape(rows: list[Row]) -> list[str]:
            return texts(keep(rows))

    return parts(record_pages(narrow, descending=wanted.descending, after=wanted.after, shape=shape), layout)


def _rows(wanted: Wanted, *, limit: int) -> list[Row]:
    """The first records, as many as asked for."""
    if wanted.keys is None:
        pages = record_pages(wanted.narrow, descending=wanted.descending, after=wanted.after, limit=limit)
    else:
        pages = record_pages(
            _named(wanted.narrow, wanted.keys),
            descending=wanted.descending,
            after=wanted.after,
            limit=limit,
            shape=only(wanted.keys),
        )
    return list(chain.from_iterable(pages))


def _named(narrow: RecordFilter, keys: Sequence[Levels]) -> RecordFilter:
    """Leaves out in the database what surely has none of the keys."""
    return replace(narrow, names=sorted({levels[0] for levels in keys}))


def _newest(wanted: Wanted, *, limit: int, channel_newest: datetime | None) -> Sequence[Row]:
    """The newest records first."""
    if wanted.keys is None:
        return records_newest(wanted.narrow, limit=limit, channel_newest=channel_newest)
    return _rows(replace(wanted, descending=True), limit=limit)


def _head(wanted: Wanted, *, newest: datetime | None) -> str:
    """The answer's first fields, without the closing brace."""
    fields = {
        "channel": wanted.channel.number,
        "channel_name": wanted.channel.name,
        "last_update": time_text(newest, zone=wanted.zone),
    }
    return orjson.dumps(fields).decode()[:-1]


def _layout(
    wanted: Wanted, *, newest: datetime | None
) -> tuple[Layout, Callable[[Sequence[Row]], list[str]]]:
    if wanted.keys is not None:
        keys = list(map(key_join, wanted.keys))
    elif wanted.form == CSV:
        keys = sorted(Stream.objects.filter(channel=wanted.channel).values_list("key", flat=True))
    else:
        keys = []
    head = _head(wanted, newest=newest) + ',"stream":['
    return record_layout(wanted.form, head=head, zone=wanted.zone, keys=keys, asked=wanted.keys is not None)


def _aggregate_parts(made: Aggregates, wanted: Wanted, *, newest: datetime | None) -> Iterator[bytes]:
    names = wanted.asked.names if wanted.asked else ()
    if wanted.form == CSV:
        header = csv_text([["at", "aggr_type", *(guarded(key_join(levels)) for levels in made.keys)]])
        return parts(([_entry_csv(entry, made, zone=wanted.zone)] for entry in made.entries), Layout(header))
    places = nesting_places(made.keys)
    several = len(names) > 1
    texts = (_entry_json(entry, places, zone=wanted.zone, several=several) for entry in made.entries)
    if wanted.form != JSON:
        return parts(([f"{text}\n"] for text in texts), Layout())
    fields = {"aggr_type": ",".join(names)}
    if made.interval is not None:
        fields |= {"interval": str(made.interval), "resolution": made.resolution}
    head = f'{_head(wanted, newest=newest)},{numbers_json(fields)[1:-1]},"result":['
    return parts(([text] for text in texts), Layout(head, ",", "]}"))


def _entry_json(entry: Entry, places: dict[Levels, Levels], *, zone: tzinfo, several: bool) -> str:
    fields = {"aggr_type": entry.name} if several else {}
    value = nested(entry.values, places)
    return numbers_json({"_id": None, **fields, "value": value, "at": time_text(entry.at, zone=zone)})


def _entry_csv(entry: Entry, made: Aggregates, *, zone: tzinfo) -> str:
    values = (entry.values.get(levels) for levels in made.keys)
    cells = ["" if value is None else numbers_json(value) for value in values]
    return csv_text([[time_text(entry.at, zone=zone) or "", entry.name, *cells]])


def _page(request: Request, wanted: Wanted, *, limit: int, newest: datetime | None) -> HttpResponse:
    rows = _rows(wanted, limit=limit + 1)
    next_after = cursor_text(RecordRow._make(rows[limit - 1]).position) if len(rows) > limit else ""
    layout, texts = _layout(wanted, newest=newest)
    response = _whole(parts([texts(rows[:limit])], layout), wanted)
    for name, value in page_headers(request, next_after=next_after, total=None).items():
        response[name] = value
    return response


def _whole(parts: Iterable[bytes], wanted: Wanted) -> HttpResponse:
    return _described(HttpResponse(b"".join(parts)), wanted)


def _answer(request: Request, parts: Iterator[bytes], wanted: Wanted) -> HttpResponseBase:
    """A small answer whole, a large one streamed. What fails before the first part is an ordinary error."""
    first = next(parts)
    second = next(parts, None)
    if second is None:
        return _whole([first], wanted)
    return _streamed(request, _watched(chain([first, second], parts), path=request.path), wanted)


def _streamed(request: Request, parts: Iterator[bytes], wanted: Wanted) -> StreamingHttpResponse:
    content = _in_thread(parts) if isinstance(request._request, ASGIRequest) else parts
    return _described(StreamingHttpResponse(content), wanted)


def _described(response: AnyResponse, wanted: Wanted) -> AnyResponse:
    response["Content-Type"] = CONTENT_TYPES[wanted.form]
    if wanted.form == CSV:
        response["Content-Disposition"] = f'attachment; filename="channel-{wanted.channel.number}.csv"'
    return response


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
