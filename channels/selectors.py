"""Reads of channels, streams and latest values for pages and API."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import F, Max, Window
from django.db.models.functions import RowNumber
from django.utils.translation import gettext as _

from channels.keys import Scalar, flatten
from channels.models import Channel, Latest, Stream, Tag
from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account

ROWS_OF_A_SHAPE = 50


@dataclass(frozen=True)
class StreamNow:
    """A stream with its newest value. `last_at` is the time of measurement."""

    key: str
    label: str
    unit: str
    type: str
    last_value: Scalar
    last_at: datetime | None

    @property
    def type_name(self) -> str:
        """The type in the reader's language."""
        return str(Stream.Type(self.type).label)


@dataclass(frozen=True)
class ValueNow:
    """The newest value of one key path, in one device or a whole channel."""

    key: str
    value: Scalar
    at: datetime
    tag: str | None


@dataclass(frozen=True)
class ChannelRow:
    """A channel as the API lists it: in the whole, or the part of it that has one tag."""

    channel: Channel
    tag: str | None
    last_update: datetime | None
    streams: list[StreamNow]


def channel_get_for_account(account: Account, number: int) -> Channel:
    """The account's channel. Raises NO_CHANNEL, also for a stranger's."""
    channel = Channel.objects.filter(account=account, number=number, deleted_at=None).first()
    if channel is None:
        raise ServwatchError(
            Code.NO_CHANNEL, _("There is no channel %(number)d. Create it first.") % {"number": number}
        )
    return channel


def channel_list(account: Account) -> list[Channel]:
    return list(Channel.objects.filter(account=account, deleted_at=None).order_by("number"))


def tag_updates(channel: Channel) -> dict[str, datetime | None]:
    """Every tag of the channel with the time of its newest record."""
    newest = (
        Latest.objects.filter(channel_key=channel.pk).exclude(tag="").values("tag").annotate(newest=Max("at"))
    )
    times = {row["tag"]: row["newest"] for row in newest}
    return {
        name: times.get(name) for name in Tag.objects.filter(channel=channel).values_list("name", flat=True)
    }


def tag_list(channels: Sequence[Channel]) -> list[tuple[Channel, str | None]]:
    """Every tag of these channels. None stands for what has no tag: where there is such, and where no tag is."""
    keys = [channel.pk for channel in channels]
    found: dict[int, set[str]] = {key: set() for key in keys}
    for key, name in Tag.objects.filter(channel__in=keys).values_list("channel_id", "name"):
        found[key].add(name)
    for key, name in Latest.objects.filter(channel_key__in=keys).values_list("channel_key", "tag").distinct():
        found[key].add(name)
    return [(channel, name or None) for channel in channels for name in sorted(found[channel.pk] or {""})]


def channel_rows(parts: Sequence[tuple[Channel, str | None]], *, by_tag: bool = False) -> list[ChannelRow]:
    """These channels with their streams; `by_tag` tells the values of each tag apart. Two queries for any number."""
    keys = {channel.pk for channel, _tag in parts}
    streams: dict[int, list[Stream]] = {key: [] for key in keys}
    for stream in Stream.objects.filter(channel__in=keys).order_by("key"):
        streams[stream.channel_id].append(stream)
    latest: dict[tuple[int, str | None], list[Latest]] = {}
    for row in Latest.objects.filter(channel_key__in=keys):
        latest.setdefault((row.channel_key, row.tag or None if by_tag else None), []).append(row)
    return [
        _channel_row(channel, tag, streams[channel.pk], latest.get((channel.pk, tag), []))
        for channel, tag in parts
    ]


def stream_list(channel: Channel) -> list[StreamNow]:
    """The streams of a channel with their newest values over all its devices."""
    values = {now.key: now for now in values_now(_newest_rows(channel))}
    return [_stream_now(stream, values.get(stream.key)) for stream in _streams(channel)]


def _newest_rows(channel: Channel) -> list[Latest]:
    """The newest of the channel's latest rows, some of each tag and shape: thousands of devices say the same keys."""
    rank = Window(RowNumber(), partition_by=[F("tag"), F("shape")], order_by=F("at").desc())
    rows = Latest.objects.filter(channel_key=channel.pk).annotate(rank=rank)
    return list(rows.filter(rank__lte=ROWS_OF_A_SHAPE))


def stream_meta(channel: Channel) -> dict[str, Stream]:
    """Key path -> stream, for labels, units and types."""
    return {stream.key: stream for stream in _streams(channel)}


def streams_named(channel_keys: Iterable[int], keys: Iterable[str]) -> dict[tuple[int, str], Stream]:
    """(channel key, key path) -> stream, of several channels in one query."""
    rows = Stream.objects.filter(channel__in=set(channel_keys), key__in=set(keys))
    return {(stream.channel_id, stream.key): stream for stream in rows}


def latest_of_device(device_key: int) -> list[ValueNow]:
    """What a device last said, per key path."""
    return values_now(Latest.objects.filter(device_key=device_key))


def latest_of_devices(device_keys: Sequence[int]) -> dict[int, dict[str, ValueNow]]:
    """Device key -> key path -> newest value, in one query whatever the number of devices."""
    found: dict[int, list[Latest]] = {key: [] for key in device_keys}
    for row in Latest.objects.filter(device_key__in=device_keys):
        found[row.device_key].append(row)
    return {key: {now.key: now for now in values_now(rows)} for key, rows in found.items()}


def values_now(rows: Iterable[Latest]) -> list[ValueNow]:
    """The newest value of each key path in these rows, sorted by path."""
    newest: dict[str, ValueNow] = {}
    for row in sorted(rows, key=lambda row: row.at):
        for key, value in flatten(row.value):
            newest[key] = ValueNow(key=key, value=value, at=row.at, tag=row.tag or None)
    return [newest[key] for key in sorted(newest)]


def _streams(channel: Channel) -> list[Stream]:
    return list(Stream.objects.filter(channel=channel).order_by("key"))


def _stream_now(stream: Stream, now: ValueNow | None) -> StreamNow:
    return StreamNow(
        key=stream.key,
        label=stream.label,
        unit=stream.unit,
        type=stream.type,
        last_value=now.value if now else None,
        last_at=now.at if now else None,
    )


def _channel_row(channel: Channel, tag: str | None, streams: list[Stream], rows: list[Latest]) -> ChannelRow:
    values = {now.key: now for now in values_now(rows)}
    return ChannelRow(
        channel=channel,
        tag=tag,
        last_update=max((row.at for row in rows), default=None),
        streams=[_stream_now(stream, values.get(stream.key)) for stream in streams],
    )
