"""REST v2: writing and removing records, the other half of `/v2/stream/{channel_id}`; tags go with their records."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_view
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from channels.api import ChannelView, channel_of
from channels.models import Channel
from devices.selectors import device_keys, device_keys_present
from servwatch_site.errors import HTTP_STATUS, Code, ServwatchError
from streams import api_docs
from streams.api import StreamView
from streams.connectors.http import body_limit_error, idempotency_key
from streams.intake import WAIT_S, Write, intake
from streams.payload import Measurement, Refusal, exact_json, measurement_of, within_range
from streams.plan import Outcome
from streams.purges import records_delete
from streams.selectors import AHEAD, RecordFilter
from tokens.api_options import header_text, option_error, option_text, option_time
from tokens.api_view import account_of
from tokens.models import Account

MAX_BODY_BYTES = 1024 * 1024
MOST_RECORDS = 10_000


class ExactJsonParser(BaseParser):
    """JSON whatever the Content-Type says, with integers of any size; what no record may hold is refused."""

    media_type = "*/*"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        body: bytes = stream.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise body_limit_error()
        value = exact_json(body)
        if isinstance(value, Refusal):
            raise ServwatchError(value.code, _("The body cannot be used: %(why)s.") % {"why": value.detail})
        return value


@extend_schema_view(**api_docs.RECORDS_OF_CHANNEL)
class RecordsView(StreamView):
    """Records of one channel: reading, which streams/api.py has, and writing."""

    parser_classes = (ExactJsonParser,)

    def post(self, request: Request, channel_id: str) -> Response:
        """Write one record or an array of records; all of them, or none.

        A record is `{"value": metrics, "at": time, "tag": text, "device_id": text}`; only `value` is required.
        Without `at` the time of receipt counts. The devices must exist. With an `Idempotency-Key` the same request
        sent again within a day stores nothing and gets the same answer.
        """
        account, now = account_of(request), timezone.now()
        channel = channel_of(account, channel_id)
        rows = _rows(request, account, channel, now=now)
        key = header_text(request.headers, "Idempotency-Key")
        write = Write(
            account_key=account.pk,
            channel_key=channel.pk,
            rows=rows,
            answer=_written,
            key=idempotency_key(key, names=("stream", str(channel.pk)), body=_canonical(request))
            if key
            else None,
        )
        answer = intake().submit(write).result(timeout=WAIT_S)
        return Response(answer.body, status=answer.status)

    def delete(self, request: Request, channel_id: str) -> Response:
        """Remove the records with start <= at < end; both bounds are required. Answers how many there were."""
        account = account_of(request)
        channel = channel_of(account, channel_id)
        low = option_time(request, "start", header="X-STARTTIME", zone=account.zone)
        high = option_time(request, "end", header="X-ENDTIME", zone=account.zone)
        for name, bound in (("start", low), ("end", high)):
            if bound is None:
                raise option_error(name, _("removing records needs both bounds"))
        if low is None or high is None or low > high:
            raise option_error("end", _("must not lie before the start"))
        device_id = option_text(request, "device")
        narrow = RecordFilter(
            channel_key=channel.pk,
            low=low,
            high=high,
            tag=option_text(request, "tag", header="X-TAGNAME", decode=True),
            device_keys=None if device_id is None else device_keys(account, device_id),
        )
        return Response({"channel": channel.number, "deleted": records_delete(narrow)})


class ChannelWithRecordsView(ChannelView):
    """A channel whose tags can be deleted with their records."""

    def tag_records_delete(self, channel: Channel, tag: str) -> None:
        beginning = datetime.min.replace(tzinfo=UTC)
        records_delete(RecordFilter(channel.pk, beginning, timezone.now() + AHEAD, tag=tag))


def _rows(
    request: Request, account: Account, channel: Channel, *, now: datetime
) -> list[tuple[int, Measurement]]:
    """Device keys with measurements. Raises INVALID_VALUE and others with the fields, NO_DEVICE."""
    given = request.data if isinstance(request.data, list) else [request.data]
    if not 1 <= len(given) <= MOST_RECORDS:
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("Send one record or an array of 1 to %(most)d records.") % {"most": MOST_RECORDS},
        )
    tag = option_text(request, "tag", header="X-TAGNAME", decode=True)
    found = [
        _measurement(record, place, account, channel, tag=tag, now=now) for place, record in enumerate(given)
    ]
    ids = {record["device_id"] for record in given if record.get("device_id") is not None}
    keys = device_keys_present(account, ids)
    unknown = sorted(ids - keys.keys())
    if unknown:
        raise ServwatchError(
            Code.NO_DEVICE,
            _("There is no device %(id)s. Create it, or leave device_id out.") % {"id": unknown[0]},
        )
    # Records of no device are kept under a key that no device has, the channel's own.
    return [
        (keys.get(record.get("device_id") or "", -channel.pk), measurement)
        for record, measurement in zip(given, found, strict=True)
    ]


def _measurement(
    record: Any, place: int, account: Account, channel: Channel, *, tag: str | None, now: datetime
) -> Measurement:
    if not isinstance(record, dict) or "value" not in record:
        raise _bad(place, "value", Code.INVALID_VALUE, _("a record is an object with a value"))
    device_id = record.get("device_id")
    if device_id is not None and not isinstance(device_id, str):
        raise _bad(place, "device_id", Code.INVALID_VALUE, _("must be text"))
    own_tag = record.get("tag")
    found = measurement_of(
        record["value"], at=record.get("at"), tag=tag if own_tag is None else own_tag, zone=account.zone
    )
    if isinstance(found, Refusal):
        raise _bad(place, "value", found.code, found.detail)
    if found.at is not None:
        late = within_range(found.at, now=now, retention=channel.retention)
        if late is not None:
            raise _bad(place, "at", late.code, late.detail)
    return found


def _bad(place: int, name: str, code: Code, why: str) -> ServwatchError:
    return ServwatchError(
        code,
        _("Record %(number)d cannot be stored, so none was: %(why)s.") % {"number": place + 1, "why": why},
        fields={f"{place}.{name}": why},
    )


def _written(outcomes: list[Outcome]) -> tuple[int, dict[str, Any]]:
    refused = next((outcome for outcome in outcomes if outcome.status == "refused"), None)
    if refused is None:
        return 201, {"count": len(outcomes)}
    code = refused.reason or Code.STORAGE_REFUSED
    message = _("The records cannot be stored: %(why)s.") % {"why": refused.detail}
    return HTTP_STATUS[code], {"error": code.value, "message": message}


def _canonical(request: Request) -> bytes:
    return json.dumps(request.data, sort_keys=True).encode()
