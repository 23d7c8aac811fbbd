"""REST v2: channels, `/v2/channel[/{channel_id}]`."""

from collections.abc import Sequence
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from channels import api_docs
from channels.models import Channel
from channels.selectors import (
    ChannelRow,
    channel_get_for_account,
    channel_list,
    channel_rows,
    tag_list,
    tag_updates,
)
from channels.services import channel_create, channel_delete, channel_update, tag_delete
from channels.tags import tag_check
from servwatch_site.errors import Code, ServwatchError
from tokens.api_fields import TextField, WholeNumberField
from tokens.api_options import (
    MAX_INT,
    Page,
    option_bool,
    option_error,
    option_text,
    page_asked,
    page_cut,
    page_headers,
)
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account
from tokens.times import time_text

Part = tuple[Channel, str | None]


@extend_schema_view(**api_docs.CHANNEL_LIST)
class ChannelListView(ApiView):
    """All channels of the account."""

    def get(self, request: Request) -> Response:
        """`X-WITHTAG: true` gives one row per channel and tag instead of one per channel."""
        account, page = account_of(request), page_asked(request)
        by_tag = option_bool(request, "withtag", header="X-WITHTAG") or False
        parts = _parts(channel_list(account), by_tag=by_tag)
        rows, next_after = page_cut(_after(parts, page), page, cursor=_cursor)
        headers = page_headers(request, next_after=next_after, total=len(parts)) if page else {}
        return Response(channel_objects(rows, by_tag=by_tag, account=account), headers=headers)


@extend_schema_view(**api_docs.CHANNEL)
class ChannelView(ApiView):
    """One channel; its id is chosen by the client."""

    body_optional = frozenset({"POST"})

    class InputSerializer(serializers.Serializer[Any]):
        class StreamSerializer(serializers.Serializer[Any]):
            key = serializers.CharField(max_length=1000, trim_whitespace=False)
            label = TextField(max_length=128)  # type: ignore[assignment]  # a field, not the serializer's own label
            unit = TextField(max_length=32)

        channel_name = TextField(max_length=64)
        retention_days = WholeNumberField(low=1, high=3650)
        streams = StreamSerializer(many=True, required=False)

    def get(self, request: Request, channel_id: str) -> Response:
        account = account_of(request)
        by_tag = option_bool(request, "withtag", header="X-WITHTAG") or False
        parts = _parts([channel_of(account, channel_id)], by_tag=by_tag)
        return Response(channel_objects(parts, by_tag=by_tag, account=account))

    def post(self, request: Request, channel_id: str) -> Response:
        """`X-TAGNAME` makes the tag at once; otherwise a tag comes into being when first used."""
        account, number = account_of(request), channel_number(channel_id)
        if number is None:
            raise ServwatchError(
                Code.INVALID_VALUE,
                _("A channel id is a whole number from 0 to %(high)d.") % {"high": MAX_INT},
                fields={"channel": _("not usable as a channel id")},
            )
        tag = option_text(request, "tag", header="X-TAGNAME", decode=True)
        given = body_checked(request, self.InputSerializer)
        if given.get("streams"):
            raise ServwatchError(
                Code.INVALID_VALUE,
                _("A new channel has no streams yet. Set labels and units once devices have sent."),
                fields={"streams": _("unknown in a new channel")},
            )
        channel = channel_create(
            account,
            number,
            name=given.get("channel_name", ""),
            retention_days=given.get("retention_days", 90),
            tag=None if tag is None else tag_check(tag),
        )
        return Response(
            channel_objects([(channel, tag)], by_tag=tag is not None, account=account), status=201
        )

    def put(self, request: Request, channel_id: str) -> Response:
        account = account_of(request)
        channel = channel_of(account, channel_id)
        given = body_checked(request, self.InputSerializer)
        names = {"channel_name": "name", "retention_days": "retention_days"}
        changes = {own: given[name] for name, own in names.items() if name in given}
        channel_update(channel, changes=changes, streams=given.get("streams", ()))
        return Response(channel_objects([(channel, None)], account=account))

    def delete(self, request: Request, channel_id: str) -> Response:
        """Answers the channel as it was, or with `X-TAGNAME` the part of it that had the tag.

        Its records are removed in the background; those of one tag before the answer.
        """
        account = account_of(request)
        channel = channel_of(account, channel_id)
        tag = option_text(request, "tag", header="X-TAGNAME", decode=True)
        gone = channel_objects([(channel, tag)], by_tag=tag is not None, account=account)
        if tag is None:
            channel_delete(channel, now=timezone.now())
        elif tag not in tag_updates(channel):
            raise option_error("tag", _("this channel has no such tag"))
        else:
            self.tag_records_delete(channel, tag)
            tag_delete(channel, tag)
        return Response(gone)

    def tag_records_delete(self, channel: Channel, tag: str) -> None:
        """Remove the records of the tag; the room that has the records does it."""
        raise NotImplementedError


def channel_number(text: str) -> int | None:
    """The number in a path; None when no channel can have it."""
    if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_INT:
        return int(text)
    return None


def channel_of(account: Account, text: str) -> Channel:
    """The channel that a path names. Raises NO_CHANNEL."""
    number = channel_number(text)
    if number is None:
        raise ServwatchError(Code.NO_CHANNEL, _("There is no such channel. A channel id is a whole number."))
    return channel_get_for_account(account, number)


def channel_objects(parts: Sequence[Part], *, by_tag: bool = False, account: Account) -> list[dict[str, Any]]:
    """What the API answers for these channels, or parts of channels by tag."""
    return [_channel_object(row, account=account) for row in channel_rows(parts, by_tag=by_tag)]


def _channel_object(row: ChannelRow, *, account: Account) -> dict[str, Any]:
    zone = account.zone
    return {
        "channel": row.channel.number,
        "channel_name": row.channel.name,
        "tag": row.tag,
        "last_update": time_text(row.last_update, zone=zone),
        "retention_days": row.channel.retention_days,
        "streams": [
            {
                "key": stream.key,
                "label": stream.label,
                "unit": stream.unit,
                "type": stream.type,
                "last_value": stream.last_value,
                "last_at": time_text(stream.last_at, zone=zone),
            }
            for stream in row.streams
        ],
    }


def _parts(channels: Sequence[Channel], *, by_tag: bool) -> list[Part]:
    return tag_list(channels) if by_tag else [(channel, None) for channel in channels]


def _cursor(part: Part) -> str:
    return f"{part[0].number}:{part[1] or ''}"


def _after(parts: list[Part], page: Page | None) -> list[Part]:
    """What follows the cursor, one row more than the page has, so that a next page shows."""
    if page is None:
        return parts
    if page.after:
        text, _colon, tag = page.after.partition(":")
        number = channel_number(text)
        if number is None:
            raise option_error("after", _("take it from the Link of the page before"))
        parts = [part for part in parts if (part[0].number, part[1] or "") > (number, tag)]
    return parts[: page.limit + 1]
