"""From parsed messages to what one transaction writes, with an outcome for every measurement. No database."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any, NamedTuple

import orjson

from devices.registry import AccountEntry, DeviceEntry, Newcomer, Registry
from servwatch_site.errors import Code
from streams.ledger import Tally
from streams.mapping import route
from streams.payload import Ack, Measurement, Parsed, Refusal, State, within_range
from streams.topics import Topic
from streams.writer import AnswerRow, Batch, RefusedRow, Row

NOBODY = 0  # account and device key where none is known


class Outcome(NamedTuple):
    """What became of one measurement. `status`: stored, duplicate or refused.

    Of a batch's new records those that the database knew already are reported as stored, too:
    they are there, which is what the sender asks.
    """

    status: str
    reason: Code | None = None
    detail: str = ""
    new_device: bool = False


class Remember(NamedTuple):
    """That a request's answer is to be kept in the transaction of its data, to be given again (Idempotency-Key).

    `answer` makes status and body of the outcomes; both digests have 32 bytes.
    """

    key_digest: bytes
    request_digest: bytes
    answer: Callable[[list[Outcome]], tuple[int, dict[str, Any]]]


class Early(NamedTuple):
    """What a message holds, read before its turn; it counts while the account is in the same time zone."""

    zone: tzinfo
    parsed: Parsed


class Incoming(NamedTuple):
    """A message as a connector received it. `packet_id` 0: nothing to acknowledge (QoS 0, HTTP).

    `redelivered`: the delivery log has shown that it was committed before. `addressed`: what a connector without
    topics knows in their place.
    """

    topic: str
    payload: bytes
    received_at: datetime
    source: str = "mqtt"
    packet_id: int = 0
    digest: int = 0
    redelivered: bool = False
    addressed: Topic | None = None
    remember: Remember | None = None
    early: Early | None = None


class RestWrite(NamedTuple):
    """Records that an application writes into a channel, checked already: device keys with measurements."""

    account_key: int
    channel_key: int
    rows: Sequence[tuple[int, Measurement]]
    received_at: datetime
    remember: Remember | None = None


class Prepared(NamedTuple):
    """A message with its topic read, its account known or None, and its payload parsed."""

    message: Incoming
    topic: Topic
    account: AccountEntry | None
    parsed: Parsed


class Plan:
    """Collects one batch. `give_up`: the database refuses the message, so it is kept as refused for that."""

    def __init__(
        self,
        registry: Registry,
        newcomers: Mapping[tuple[int, str], Newcomer],
        *,
        now: datetime,
        give_up: Refusal | None = None,
    ) -> None:
        self.batch = Batch(version=registry.version)
        self.accounts: set[int] = set()
        self.channels: set[int] = set()
        self.devices: set[int] = set()
        self._registry = registry
        self._newcomers = newcomers
        self._greeted: set[tuple[int, str]] = set()
        self._now = now
        self._give_up = give_up

    def add(self, item: Prepared) -> list[Outcome]:
        """Decide what becomes of a message; counts it, and remembers its delivery."""
        message, topic, account, parsed = item
        if message.packet_id:
            self.batch.deliveries.append((message.packet_id, message.digest))
        account_key = account.key if account is not None else NOBODY
        device = None
        if account is not None and topic.problem is None:
            device = self._registry.device(account_key, topic.device_id)
        tally = self.batch.ledger.tally(account_key, device.key if device is not None else NOBODY)
        count = len(parsed) if isinstance(parsed, list) else 1
        tally.receive(count, at=message.received_at)
        self.accounts.add(account_key)
        if device is not None:
            self.devices.add(device.key)
        if message.redelivered:
            tally.duplicate += count
            return [Outcome("duplicate")] * count
        if isinstance(parsed, list):
            outcomes = [self._element(item, element, device, tally) for element in parsed]
        else:
            outcomes = [self._sign(item, parsed, device, tally)]
        if self._newcomers and self._greet(item, account_key):
            outcomes = [outcome._replace(new_device=True) for outcome in outcomes]
        self._remember(account_key, message.remember, outcomes, at=message.received_at)
        return outcomes

    def add_write(self, write: RestWrite) -> list[Outcome]:
        """Records of an application; what the database refuses of them is told, not kept."""
        if self._give_up is not None:
            return [Outcome("refused", self._give_up.code, self._give_up.detail)] * len(write.rows)
        for place, (device_key, found) in enumerate(write.rows):
            # Without times of their own, equal records of one request are different ones all the same.
            at = found.at or write.received_at + timedelta(microseconds=place)
            tally = self.batch.ledger.tally(write.account_key, device_key)
            tally.receive(1, at=write.received_at)
            self._store(found, device_key, write.channel_key, tally, at=at, received_at=write.received_at)
            self.devices.add(device_key)
        self.accounts.add(write.account_key)
        outcomes = [_STORED] * len(write.rows)
        self._remember(write.account_key, write.remember, outcomes, at=write.received_at)
        return outcomes

    def _remember(
        self, account_key: int, remember: Remember | None, outcomes: list[Outcome], *, at: datetime
    ) -> None:
        if remember is None:
            return
        status, body = remember.answer(outcomes)
        self.batch.answers.append(
            AnswerRow(
                account_key, remember.key_digest, remember.request_digest, status, orjson.dumps(body), at
            )
        )

    def _greet(self, item: Prepared, account_key: int) -> bool:
        """Whether this message is the first contact of a device it made."""
        pair = (account_key, item.topic.device_id)
        newcomer = self._newcomers.get(pair)
        if newcomer is None or newcomer.device is None or pair in self._greeted:
            return False
        self._greeted.add(pair)
        return True

    def _sign(self, item: Prepared, sign: State | Ack, device: DeviceEntry | None, tally: Tally) -> Outcome:
        """A state, or the acknowledgement of a command: no record, but counted as stored."""
        target = self._target(item, device)
        if isinstance(target, Refusal) or device is None:
            return self._refuse(item, target if isinstance(target, Refusal) else _NO_DEVICE, device, None)
        if isinstance(sign, Ack):
            self.batch.acks.append((sign.command_id, device.key))
        else:
            told = {**sign.pairs, "last_update": item.message.received_at.isoformat()}
            self.batch.states[device.key] = told
        tally.stored += 1
        return _STORED

    def _element(
        self, item: Prepared, element: Measurement | Refusal, device: DeviceEntry | None, tally: Tally
    ) -> Outcome:
        if isinstance(element, Refusal):
            return self._refuse(item, element, device, None)
        target = self._target(item, device)
        if isinstance(target, Refusal) or device is None:
            return self._refuse(item, target if isinstance(target, Refusal) else _NO_DEVICE, device, element)
        at, received_at = element.at, item.message.received_at
        if at is None:
            at = received_at
        else:
            late = within_range(at, now=received_at, retention=self._registry.channel(target).retention)
            if late is not None:
                return self._refuse(item, late, device, element)
        self._store(element, device.key, target, tally, at=at, received_at=received_at)
        return _STORED

    def _target(self, item: Prepared, device: DeviceEntry | None) -> int | Refusal:
        if self._give_up is not None:
            return self._give_up
        if device is not None:
            return route(device)
        account_key = item.account.key if item.account else NOBODY
        newcomer = self._newcomers.get((account_key, item.topic.device_id))
        if newcomer is None or newcomer.refusal is None:
            return _NO_DEVICE
        return _NEWCOMER_REFUSALS[newcomer.refusal]

    def _store(
        self,
        found: Measurement,
        device_key: int,
        channel_key: int,
        tally: Tally,
        *,
        at: datetime,
        received_at: datetime,
    ) -> None:
        batch, structure = self.batch, found.structure
        batch.rows.append(
            Row(device_key, channel_key, at, found.digest, found.form, found.tag, structure.shape, found.text)
        )
        batch.measured.append((channel_key, device_key, at, received_at, found))
        structures = batch.streams.get(channel_key)
        if structures is None:
            structures = batch.streams[channel_key] = set()
            self.channels.add(channel_key)
        structures.add(structure)
        tally.attempted += 1
        tally.repeated_keys += found.repeated_keys

    def _refuse(
        self, item: Prepared, why: Refusal, device: DeviceEntry | None, found: Measurement | None
    ) -> Outcome:
        account_key = item.account.key if item.account else NOBODY
        device_key = device.key if device else NOBODY
        self.batch.ledger.refused(account_key, device_key, why.code)
        if device is None and item.account is not None and why.code in _NEWCOMER_REFUSALS:
            self.batch.unknown.append((account_key, item.topic.device_id, why.code, 1))
        alone = not isinstance(item.parsed, list) or len(item.parsed) == 1
        payload = item.message.payload
        if not alone:
            payload = why.payload if found is None else envelope_bytes(found)
        self.batch.refused.append(
            RefusedRow(
                account_key,
                device_key,
                clean(item.topic.device_id, 64),
                item.message.source,
                item.topic.kind,
                item.topic.tag or "",
                payload,
                why.code,
                clean(why.detail, 256),
                item.message.received_at,
            )
        )
        return Outcome("refused", why.code, why.detail)


_STORED = Outcome("stored")
_NO_DEVICE = Refusal(Code.NO_DEVICE, "the device was deleted while its message was on the way")
_NEWCOMER_REFUSALS: dict[Code, Refusal] = {
    Code.DEVICE_UNKNOWN: Refusal(
        Code.DEVICE_UNKNOWN, "the account takes no new devices; create the device in the console or by POST"
    ),
    Code.MAX_DEVICE_REACH: Refusal(
        Code.MAX_DEVICE_REACH, "the account has as many devices as it may; delete one or raise the limit"
    ),
}


def envelope_bytes(found: Measurement) -> bytes:
    """One measurement of an array as a message of its own, to be kept and replayed."""
    head: dict[str, Any] = {"at": found.at}
    if found.tag is not None:
        head["tag"] = found.tag
    return orjson.dumps(head)[:-1] + b',"value":' + found.text.encode() + b"}"


def clean(text: str, most: int) -> str:
    """Text from outside that a column can hold."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")[:most]
