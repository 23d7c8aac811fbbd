"""Payloads into measurements: pure, values in, values out (contract, sections 4.1 and 4.4).

The common payload costs one orjson parse, a look for its structure (streams/structures.py) and a few searches;
whatever looks unusual (long numbers, exponents, repeated keys, escapes) is read again by the standard library, slowly
and exactly.
"""

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from devices.ids import tag_check
from servwatch_site.errors import Code, ServwatchError
from streams.structures import BARE_TEXT, MAX_DEPTH, BadStructure, Structure, structure_of, structure_walk
from streams.topics import Kind
from tokens.times import time_parse

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_DIGITS = 40
MAX_EXPONENT = 308
MAX_AHEAD = timedelta(hours=1)

# How a record came, kept with it (Record.form).
FORM_JSON, FORM_FLAT, FORM_BINARY = 0, 1, 2

_FLAT_KEYS = {"v": "value", "v2": "value2", "v3": "value3", "v4": "value4"}
_ENVELOPE_KEYS = frozenset({"at", "value", "tag"})
# Digits become "0" and E becomes "e", so that two plain searches find unusual numbers.
_NUMBER_LETTERS = bytes.maketrans(b"123456789E", b"000000000e")
_DIGITS_AND_BLANKS = b"0123456789.- \t\r\n"
_LONG_NUMBER = b"0" * 19  # a whole number of so many digits may not fit into 64 bits
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


class Measurement(NamedTuple):
    """One record to be. `at` None: the time of receipt counts. `text` is `value` as JSON for the database."""

    at: datetime | None
    tag: str | None
    form: int
    value: Any
    text: str
    digest: int
    structure: Structure
    repeated_keys: int


class Refusal(NamedTuple):
    """Why something cannot be stored: a stable code and one phrase for people.

    `payload` is set for an element of an array: the element's own bytes.
    """

    code: Code
    detail: str
    payload: bytes = b""


class State(NamedTuple):
    """The pairs of a state message, numbers typed."""

    pairs: dict[str, str | int | float]


class Ack(NamedTuple):
    """A device's acknowledgement of a command."""

    command_id: int


Parsed = list[Measurement | Refusal] | State | Ack


class _BadPayload(Exception):
    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(code, detail)


def parse(kind: Kind, payload: bytes, *, tag: str | None, zone: tzinfo) -> Parsed:
    """Everything a message holds, in its order; what is wrong with one element spares its neighbours."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        detail = f"the payload has {len(payload)} bytes; the most is {MAX_PAYLOAD_BYTES}"
        return [Refusal(Code.PAYLOAD_TOO_LARGE, detail)]
    try:
        if kind is Kind.JSON:
            return _parse_json(payload, tag=tag, zone=zone)
        if kind is Kind.BINARY:
            return [_binary(payload, tag=tag)]
        if kind is Kind.STATE:
            return _state(payload)
        if kind is Kind.ACK:
            return _ack(payload)
        return [_form(payload, tag=tag)]
    except BadStructure as error:
        return [_structure_refusal(error)]
    except _BadPayload as error:
        return [error.refusal]


def digest_of(tag: str | None, payload: bytes) -> int:
    """64 signed bits of tag, NUL and payload: with device and time it makes a record the same again."""
    text = (tag or "").encode() + b"\0" + payload
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)


def within_range(at: datetime, *, now: datetime, retention: timedelta) -> Refusal | None:
    """Whether a measurement's own time can be stored in a channel with this retention."""
    if at > now + MAX_AHEAD:
        return Refusal(
            Code.TIME_OUT_OF_RANGE, "the time is more than an hour ahead; check the device's clock"
        )
    if at < now - retention:
        return Refusal(Code.TIME_OUT_OF_RANGE, "the time is older than the channel keeps records")
    return None


# --- JSON ---


def _parse_json(payload: bytes, *, tag: str | None, zone: tzinfo) -> Parsed:
    value, skeleton, repeated = _load(payload)
    if isinstance(value, list) or is_envelope(value):
        return _parse_elements(value, skeleton, repeated, payload, tag=tag, zone=zone)
    structure = structure_walk(value) if skeleton is None else structure_of(value, skeleton)
    if skeleton is not None and skeleton.count(b'":') != structure.key_count:
        repeated = _load_exactly(payload)[2]
    text = payload.decode()
    return [Measurement(None, tag, FORM_JSON, value, text, digest_of(tag, payload), structure, repeated)]


def _parse_elements(
    value: Any, skeleton: bytes | None, repeated: int, payload: bytes, *, tag: str | None, zone: tzinfo
) -> list[Measurement | Refusal]:
    """An envelope or an array of them. Keys that are repeated anywhere count with the first measurement."""
    elements = value if isinstance(value, list) else [value]
    if not elements:
        raise _BadPayload(Code.INVALID_VALUE, "an empty array holds no measurement")
    found = [_element(element, tag=tag, zone=zone, exact=skeleton is None) for element in elements]
    if skeleton is not None and skeleton.count(b'":') != sum(map(_keys_in, elements, found)):
        repeated = _load_exactly(payload)[2]
    if repeated:
        for place, one in enumerate(found):
            if isinstance(one, Measurement):
                found[place] = one._replace(repeated_keys=repeated)
                break
    return found


def _keys_in(element: Any, found: Measurement | Refusal) -> int:
    """How many keys an envelope has on all levels; -1 for what was not walked."""
    return len(element) + found.structure.key_count if isinstance(found, Measurement) else -1


def exact_json(payload: bytes) -> Any | Refusal:
    """A JSON body as Python values with integers of any size, checked like a payload."""
    try:
        return _load(payload)[0]
    except _BadPayload as error:
        return error.refusal


def measurement_of(value: Any, *, at: Any = None, tag: Any = None, zone: tzinfo) -> Measurement | Refusal:
    """Metrics that are Python values already, such as those of a REST request, checked like a payload's."""
    try:
        own_tag = _own_tag(tag, default=None)
        # Written and read again, so that what a payload may not hold is found the same way.
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if len(text) > MAX_PAYLOAD_BYTES:
            raise _BadPayload(Code.PAYLOAD_TOO_LARGE, f"a value takes more than {MAX_PAYLOAD_BYTES} bytes")
        checked = _load(text)[0]
        structure = _structure(checked, text)
        moment_ = None if at is None else moment(at, zone=zone)
        digest = digest_of(own_tag, text)
        return Measurement(moment_, own_tag, FORM_JSON, checked, text.decode(), digest, structure, 0)
    except BadStructure as error:
        return _structure_refusal(error)
    except _BadPayload as error:
        return error.refusal


def is_envelope(value: Any) -> bool:
    """An object with its own time: keys among at, value, tag, with both at and value."""
    return isinstance(value, dict) and "at" in value and "value" in value and _ENVELOPE_KEYS.issuperset(value)


def _element(element: Any, *, tag: str | None, zone: tzinfo, exact: bool) -> Measurement | Refusal:
    try:
        if not is_envelope(element):
            raise _BadPayload(
                Code.INVALID_VALUE, 'an array holds objects like {"at": time, "value": metrics}'
            )
        at = moment(element["at"], zone=zone)
        if "tag" in element:
            tag = _own_tag(element["tag"], default=tag)
        value = element["value"]
        text = json.dumps(value, ensure_ascii=False).encode() if exact else orjson.dumps(value)
        structure = _structure(value, text)
        return Measurement(at, tag, FORM_JSON, value, text.decode(), digest_of(tag, text), structure, 0)
    except BadStructure as error:
        return _structure_refusal(error)._replace(payload=json.dumps(element).encode())
    except _BadPayload as error:
        return error.refusal._replace(payload=json.dumps(element).encode())


def _structure(value: Any, text: bytes) -> Structure:
    """Raises BadStructure."""
    return structure_of(value, text.translate(None, _DIGITS_AND_BLANKS))


def _structure_refusal(error: BadStructure) -> Refusal:
    return Refusal(_STRUCTURE_CODES[error.kind], error.detail)


_STRUCTURE_CODES = {"metrics": Code.INVALID_VALUE, "deep": Code.TOO_DEEP, "keys": Code.TOO_MANY_KEYS}


def moment(at: Any, *, zone: tzinfo) -> datetime:
    """A device's own time: ISO 8601 or epoch, the unit told by magnitude (< 1e11 s, < 1e14 ms, else us)."""
    try:
        if isinstance(at, str):
            return time_parse(at, zone=zone)
        if isinstance(at, bool) or not isinstance(at, (int, float)):
            raise ValueError("a time is text or a number")
        size = abs(at)
        if size < 1e11:
            step = timedelta(seconds=1) * at
        elif size < 1e14:
            step = timedelta(milliseconds=1) * at
        else:
            step = timedelta(microseconds=1) * at
        return datetime(1970, 1, 1, tzinfo=UTC) + step
    except (ValueError, OverflowError) as error:
        raise _BadPayload(Code.BAD_TIME, f"the time cannot be read: {error}") from None


def _own_tag(tag: Any, *, default: str | None) -> str | None:
    if tag is None:
        return default
    if not isinstance(tag, str):
        raise _BadPayload(Code.INVALID_VALUE, "a tag is text")
    try:
        return tag_check(tag)
    except ServwatchError as error:
        raise _BadPayload(error.code, error.message) from None


def _load(payload: bytes) -> tuple[Any, bytes | None, int]:
    """The value, and the text by which its structure is known. Where it had to be read exactly, slowly, there is
    no such text, but the number of repeated keys.
    """
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _load_exactly(payload)
    letters = payload.translate(_NUMBER_LETTERS)
    if b"0e" in letters or _LONG_NUMBER in letters or b"\\u0000" in payload:
        return _load_exactly(payload)
    return value, payload.translate(None, _DIGITS_AND_BLANKS), 0


def _load_exactly(payload: bytes) -> tuple[Any, None, int]:
    """As `_load`, with integers of any size."""
    repeated = 0

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(items)
        repeated += len(items) - len(found)
        return found

    try:
        value = json.loads(
            payload.decode("utf-8"),
            parse_int=_number,
            parse_float=_number,
            parse_constant=_not_finite,
            object_pairs_hook=pairs,
        )
    except UnicodeDecodeError:
        raise _BadPayload(Code.BAD_JSON_FORMAT, "the payload is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _BadPayload(
            Code.BAD_JSON_FORMAT, f"not JSON at character {error.pos + 1}: {error.msg}"
        ) from None
    except RecursionError:
        raise _BadPayload(Code.TOO_DEEP, f"objects and arrays nest deeper than {MAX_DEPTH} levels") from None
    _check_texts(value, depth=0)
    return value, None, repeated


def _number(text: str) -> int | float:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise _BadPayload(Code.BAD_NUMBER, "a number cannot be read")
    whole, fraction, exponent = match.groups()
    if len(whole) + len(fraction or "") > MAX_DIGITS:
        raise _BadPayload(Code.BAD_NUMBER, f"a number has more than {MAX_DIGITS} digits")
    if exponent is not None and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
        raise _BadPayload(Code.BAD_NUMBER, f"a number has an exponent beyond {MAX_EXPONENT}")
    if fraction is None and exponent is None:
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise _BadPayload(Code.BAD_NUMBER, "a number is too large")
    return number


def _not_finite(name: str) -> float:
    raise _BadPayload(Code.BAD_NUMBER, f"{name} is not a number that can be stored")


def _check_texts(value: Any, *, depth: int) -> None:
    """Refuse what jsonb cannot hold in any text: NUL, and halves of a surrogate pair."""
    if depth > MAX_DEPTH:
        raise _BadPayload(Code.TOO_DEEP, f"objects and arrays nest deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        if "\0" in value:
            raise _BadPayload(Code.BAD_TEXT, "a text holds the character NUL")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _BadPayload(Code.BAD_TEXT, "a text holds half of a surrogate pair")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_texts(key, depth=depth)
            _check_texts(inner, depth=depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner, depth=depth + 1)


# --- older and other forms ---


def _form(payload: bytes, *, tag: str | None) -> Measurement:
    """`v=11.1&v2=47.9`: up to four values, answered flat."""
    flat: dict[str, str | int | float] = {}
    for name, text in _pairs(payload):
        key = _FLAT_KEYS.get(name)
        if key is None:
            raise _BadPayload(Code.INVALID_VALUE, "a form-encoded message has the values v, v2, v3 and v4")
        flat[key] = _typed(text)
    if not flat:
        raise _BadPayload(Code.INVALID_VALUE, "the message holds no value; send v=...")
    written = orjson.dumps(flat)
    structure = _structure(flat, written)
    return Measurement(None, tag, FORM_FLAT, flat, written.decode(), digest_of(tag, payload), structure, 0)


def _binary(payload: bytes, *, tag: str | None) -> Measurement:
    """Raw bytes, stored as a hex string."""
    value = payload.hex()
    return Measurement(None, tag, FORM_BINARY, value, f'"{value}"', digest_of(tag, payload), BARE_TEXT, 0)


def _state(payload: bytes) -> State:
    pairs = _pairs(payload)
    if not pairs:
        raise _BadPayload(Code.INVALID_VALUE, "the state holds no pair; send name=value")
    return State({name: _typed(text) for name, text in pairs})


def _ack(payload: bytes) -> Ack:
    """The id of the command, as its correlation data gave it."""
    text = payload.strip()
    if not text.isdigit() or len(text) > 18:
        raise _BadPayload(Code.INVALID_VALUE, "an acknowledgement is the correlation data of the command")
    return Ack(int(text))


def _pairs(payload: bytes) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(
            payload.decode("utf-8").strip(),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=100,
        )
    except UnicodeDecodeError:
        raise _BadPayload(Code.INVALID_VALUE, "the message is not UTF-8") from None
    except ValueError as error:
        raise _BadPayload(Code.INVALID_VALUE, f"not form-encoded pairs: {error}") from None
    _check_pairs(pairs)
    return pairs


def _check_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    for name, text in pairs:
        if "\0" in name or "\0" in text:
            raise _BadPayload(Code.BAD_TEXT, "a text holds the character NUL")


def _typed(text: str) -> str | int | float:
    """A number where the text is one as JSON writes it, else the text itself."""
    if not _JSON_NUMBER.fullmatch(text):
        return text
    number = _number(text)
    return number if isinstance(number, float) or abs(number) < 2**63 else float(number)
