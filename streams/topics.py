"""What a topic says: whose device sends which kind of message (contract, section 4.1)."""

from enum import StrEnum
from typing import NamedTuple

from devices.ids import device_id_check, tag_check
from servwatch_site.errors import Code, ServwatchError


class Kind(StrEnum):
    """The kinds of message; OTHER is a topic that means nothing here."""

    JSON = "json"
    BINARY = "binary"
    STATE = "state"
    ACK = "ack"
    FORM = "form"
    OTHER = "other"


class Topic(NamedTuple):
    """`problem` is set when the topic cannot be used; the rest is what could be read of it."""

    token: str
    kind: Kind
    device_id: str
    tag: str | None
    problem: tuple[Code, str] | None = None


MOST_REMEMBERED, MOST_CHARACTERS_REMEMBERED = 50_000, 256
_remembered: dict[str, Topic] = {}
# No topic matches two of these: some brokers would send its messages twice.
SUBSCRIPTIONS = ("+/json/+/#", "+/binary/+/#", "+/state/+/#", "+/ack/+/#", "+/+")
_KINDS = {"json": Kind.JSON, "binary": Kind.BINARY, "state": Kind.STATE, "ack": Kind.ACK}


def topic_parse(topic: str) -> Topic:
    """Read `TOKEN/json/DEVICE[/TAG]`, `TOKEN/binary/DEVICE[/TAG]`, `TOKEN/state/DEVICE` or `TOKEN/DEVICE`.

    `TOKEN/ack/DEVICE` acknowledges a command; the MQTT 5 properties of the command name it. An older device whose id
    is `ack` sends to `TOKEN/ack`, which is no acknowledgement.
    """
    known = _remembered.get(topic)
    if known is None:
        known = _read(topic)
        if len(topic) < MOST_CHARACTERS_REMEMBERED:
            if len(_remembered) >= MOST_REMEMBERED:
                _remembered.clear()
            _remembered[topic] = known
    return known


def _read(topic: str) -> Topic:
    token, _, rest = topic.partition("/")
    levels = rest.split("/")
    kind = _KINDS.get(levels[0])
    if kind is None or (kind is Kind.ACK and len(levels) == 1):
        kind, levels = Kind.FORM, ["", *levels]
    if len(levels) < 2:
        return _unusable(token, kind, "", Code.BAD_TOPIC, "the topic names no device")
    device_id = levels[1]
    most = 3 if kind in (Kind.JSON, Kind.BINARY) else 2
    if len(levels) > most:
        return _unusable(token, kind, device_id, Code.BAD_TOPIC, "the topic has too many levels")
    tag = levels[2] if len(levels) > 2 else None
    try:
        device_id_check(device_id)
        if tag is not None:
            tag_check(tag)
    except ServwatchError as error:
        code = error.code if error.code is Code.DEVICE_ID_ZERO else Code.BAD_TOPIC
        return _unusable(token, kind, device_id, code, error.message)
    return Topic(token, kind, device_id, tag)


def _unusable(token: str, kind: Kind, device_id: str, code: Code, detail: str) -> Topic:
    return Topic(token, kind, device_id[:64], None, (code, detail))
