"""The only place that writes channels, their labels and units."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from channels.models import Channel, Stream, Tag
from servwatch_site.errors import Code, ServwatchError
from tokens.config import config_bump
from tokens.models import Account

EDITABLE = ("name", "retention_days")


@transaction.atomic
def channel_create(
    account: Account, number: int, *, name: str = "", retention_days: int = 90, tag: str | None = None
) -> Channel:
    """A new channel with the number the client chose. Raises CHANNEL_INUSE, INVALID_VALUE."""
    channel = Channel(
        account=account,
        number=number,
        name=name,
        retention_days=retention_days,
        config_version=config_bump(),
    )
    _clean(channel)
    try:
        with transaction.atomic():
            channel.save()
    except IntegrityError:
        raise ServwatchError(
            Code.CHANNEL_INUSE,
            _("Channel %(number)d exists already. Choose another number.") % {"number": number},
        ) from None
    if tag is not None:
        tag_create(channel, tag)
    return channel


@transaction.atomic
def channel_update(
    channel: Channel, *, changes: Mapping[str, Any], streams: Sequence[Mapping[str, str]] = ()
) -> Channel:
    """Change name and retention, and label and unit of streams (`key`, `label`, `unit`).

    Raises INVALID_VALUE with the fields that do not fit; nothing is changed then.
    """
    for name in EDITABLE:
        if name in changes:
            setattr(channel, name, changes[name])
    _clean(channel)
    channel.config_version = config_bump()
    channel.save(update_fields=[*EDITABLE, "config_version"])  # not the mark of a deletion meanwhile
    _streams_update(channel, streams)
    return channel


@transaction.atomic
def channel_delete(channel: Channel, *, now: datetime) -> None:
    """Take the channel away at once: its number is free, its devices count as unmapped; records go later."""
    Channel.objects.filter(pk=channel.pk, deleted_at=None).update(
        deleted_at=now, config_version=config_bump()
    )


@transaction.atomic
def tag_delete(channel: Channel, name: str) -> None:
    """Forget the tag; when it is used again it comes into being again."""
    Tag.objects.filter(channel=channel, name=name).delete()
    config_bump()  # so that writers forget that they know it


def tag_create(channel: Channel, name: str) -> Tag:
    """The tag of this name, made if it is new."""
    return Tag.objects.get_or_create(channel=channel, name=name)[0]


def _clean(channel: Channel) -> None:
    try:
        channel.full_clean(validate_constraints=False, exclude=["account"])
    except ValidationError as error:
        fields = {name: " ".join(texts) for name, texts in error.message_dict.items()}
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields) from None
    if not 1 <= channel.retention_days <= 3650:
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("Some fields do not fit."),
            fields={"retention_days": _("Retention lies between 1 and 3650 days.")},
        )


def _streams_update(channel: Channel, rows: Sequence[Mapping[str, str]]) -> None:
    """Set labels and units, in few queries however many there are."""
    if not rows:
        return
    known = {stream.key: stream for stream in Stream.objects.filter(channel=channel)}
    changed: dict[str, Stream] = {}
    for row in rows:
        stream = known.get(row["key"])
        if stream is None:
            raise ServwatchError(
                Code.INVALID_VALUE,
                _("This channel has no stream %(key)s.") % {"key": row["key"]},
                fields={"streams": row["key"]},
            )
        label, unit = row.get("label", stream.label), row.get("unit", stream.unit)
        if (label, unit) != (stream.label, stream.unit):
            stream.label, stream.unit = label, unit
            changed[stream.key] = stream
    for stream in changed.values():
        _clean_stream(stream)
    Stream.objects.bulk_update(changed.values(), ["label", "unit"], batch_size=500)


def _clean_stream(stream: Stream) -> None:
    try:
        stream.full_clean(exclude=["channel"], validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        raise ServwatchError(
            Code.INVALID_VALUE, _("Some fields do not fit."), fields={"streams": " ".join(error.messages)}
        ) from None
