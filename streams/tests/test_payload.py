import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from servwatch_site.errors import Code
from streams.payload import (
    FORM_BINARY,
    FORM_FLAT,
    FORM_JSON,
    MAX_PAYLOAD_BYTES,
    Measurement,
    Refusal,
    State,
    parse,
    within_range,
)
from streams.topics import Kind

TOKYO = ZoneInfo("Asia/Tokyo")
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def one(payload: bytes, *, kind: Kind = Kind.JSON, tag: str | None = None) -> Measurement:
    parsed = parse(kind, payload, tag=tag, zone=TOKYO)
    assert isinstance(parsed, list) and len(parsed) == 1
    assert isinstance(parsed[0], Measurement), parsed[0]
    return parsed[0]


def refusal(payload: bytes, *, kind: Kind = Kind.JSON) -> Refusal:
    parsed = parse(kind, payload, tag=None, zone=TOKYO)
    assert isinstance(parsed, list) and len(parsed) == 1
    assert isinstance(parsed[0], Refusal), parsed[0]
    return parsed[0]


def test_it_keeps_the_original_text_of_plain_metrics() -> None:
    payload = b'{ "cpu": {"idle": 93.10}, "n": 123456789012345678901234567890 }'
    found = one(payload)
    assert found.text == payload.decode()
    assert found.at is None
    assert found.form == FORM_JSON
    assert found.structure.keys == (("cpu:idle", "number"), ("n", "number"))


@pytest.mark.parametrize("payload", [b"11.5", b'"up"', b" 7 "])
def test_it_takes_bare_numbers_and_texts(payload: bytes) -> None:
    assert one(payload).structure.keys[0][0] == "value"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", Code.BAD_JSON_FORMAT),
        (b"{", Code.BAD_JSON_FORMAT),
        (b"{'a': 1}", Code.BAD_JSON_FORMAT),
        (b'{"a": "\xff"}', Code.BAD_JSON_FORMAT),
        (b'{"a": "x\x00y"}', Code.BAD_JSON_FORMAT),
        (b"NaN", Code.BAD_NUMBER),
        (b'{"a": Infinity}', Code.BAD_NUMBER),
        (b'{"a": -Infinity}', Code.BAD_NUMBER),
        (b'{"a": 1e400}', Code.BAD_NUMBER),
        (b'{"a": 1e-20000}', Code.BAD_NUMBER),
        (b'{"a": [1e130000, 1e130000]}', Code.BAD_NUMBER),
        (b'{"a": 1e309}', Code.BAD_NUMBER),
        (b'{"a": ' + b"9" * 300 + b"}", Code.BAD_NUMBER),
        (b'{"a": 0.' + b"0" * 300 + b"1}", Code.BAD_NUMBER),
        (b'{"a": 1E99999999999}', Code.BAD_NUMBER),
        (b'{"a": "x\\u0000y"}', Code.BAD_TEXT),
        (b'{"x\\u0000y": 1}', Code.BAD_TEXT),
        (b'{"a": "\\ud800"}', Code.BAD_TEXT),
        (b"true", Code.INVALID_VALUE),
        (b"null", Code.INVALID_VALUE),
        (b"[]", Code.INVALID_VALUE),
        (b"[1]", Code.INVALID_VALUE),
        (b'{"at": "yesterday", "value": 1}', Code.BAD_TIME),
        (b'{"at": true, "value": 1}', Code.BAD_TIME),
        (b'{"at": 1e300, "value": 1}', Code.BAD_TIME),
        (b'{"at": 0, "value": null}', Code.INVALID_VALUE),
        (b'{"at": 0, "value": 1, "tag": 5}', Code.INVALID_VALUE),
        (b'{"at": 0, "value": 1, "tag": "a/b"}', Code.INVALID_VALUE),
        (b'{"a":' * 17 + b"1" + b"}" * 17, Code.TOO_DEEP),
        (b"[" * 100_000, Code.TOO_DEEP),
        (json.dumps({f"k{n}": n for n in range(1_001)}).encode(), Code.TOO_MANY_KEYS),
        (json.dumps({"k" * 1_001: 1}).encode(), Code.TOO_MANY_KEYS),
        (b'"' + b"x" * MAX_PAYLOAD_BYTES + b'"', Code.PAYLOAD_TOO_LARGE),
    ],
)
def test_it_refuses_what_cannot_be_stored_and_says_why(payload: bytes, code: Code) -> None:
    found = refusal(payload)
    assert found.code == code
    assert found.detail


def test_it_takes_sixteen_levels_and_a_thousand_paths() -> None:
    assert one(b'{"a":' * 16 + b"1" + b"}" * 16).structure.keys
    assert len(one(json.dumps({f"k{n}": n for n in range(1_000)}).encode()).structure.keys) == 1_000


@pytest.mark.parametrize(
    "number", ["1e308", "1e-308", "-0", "0.1e1", "12345678901234567890123456789012345678.9"]
)
def test_it_takes_unusual_but_storable_numbers(number: str) -> None:
    assert one(f'{{"a": {number}}}'.encode()).structure.keys == (("a", "number"),)


def test_it_counts_repeated_keys_and_the_last_wins() -> None:
    found = one(b'{"a": 1, "a": 2, "b": {"c": 1, "c": 2}}')
    assert found.repeated_keys == 2
    assert found.value == {"a": 2, "b": {"c": 2}}


def test_it_is_not_fooled_by_colons_in_texts() -> None:
    assert one(b'{"a": "\\":x", "b" : "y\\":"}').repeated_keys == 0


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("1763889000", datetime(2025, 11, 23, 9, 10, tzinfo=UTC)),
        ("1763889000.5", datetime(2025, 11, 23, 9, 10, 0, 500000, tzinfo=UTC)),
        ("1763889000123", datetime(2025, 11, 23, 9, 10, 0, 123000, tzinfo=UTC)),
        ("1763889000123456", datetime(2025, 11, 23, 9, 10, 0, 123456, tzinfo=UTC)),
        ('"2025-11-23T09:10:00Z"', datetime(2025, 11, 23, 9, 10, tzinfo=UTC)),
        ('"2025-11-23T18:10:00+09:00"', datetime(2025, 11, 23, 9, 10, tzinfo=UTC)),
        ('"2025-11-23 18:10"', datetime(2025, 11, 23, 9, 10, tzinfo=UTC)),
    ],
)
def test_it_reads_a_measurements_own_time(at: str, expected: datetime) -> None:
    assert one(f'{{"at": {at}, "value": {{"a": 1}}}}'.encode()).at == expected


def test_it_takes_an_object_with_other_keys_as_plain_metrics() -> None:
    assert one(b'{"at": 1, "value": 2, "load": 3}').at is None
    assert one(b'{"at": 1, "tag": "x"}').at is None


def test_it_spares_the_neighbours_of_a_bad_element() -> None:
    payload = b'[{"at": 1763889000, "value": 1}, {"at": "?", "value": 2}, 3, {"at": 1763889001, "value": 4}]'
    parsed = parse(Kind.JSON, payload, tag="rack", zone=TOKYO)
    assert isinstance(parsed, list)
    assert [type(found) for found in parsed] == [Measurement, Refusal, Refusal, Measurement]
    assert isinstance(parsed[1], Refusal) and json.loads(parsed[1].payload) == {"at": "?", "value": 2}
    assert isinstance(parsed[0], Measurement) and parsed[0].tag == "rack"


def test_its_own_tag_wins_over_the_topics() -> None:
    assert one(b'{"at": 1763889000, "value": 1, "tag": "own"}', tag="topic").tag == "own"


def test_it_keeps_long_integers_exact_inside_an_envelope() -> None:
    assert one(b'{"at": 1763889000, "value": {"n": 123456789012345678901234567890}}').text == (
        '{"n": 123456789012345678901234567890}'
    )


def test_equal_tag_and_payload_have_equal_digests() -> None:
    assert one(b'{"a":1}', tag="x").digest == one(b'{"a":1}', tag="x").digest
    assert one(b'{"a":1}', tag="x").digest != one(b'{"a":1}').digest
    assert one(b'{"a":1}').digest != one(b'{"a":2}').digest


def test_shapes_tell_top_level_keys_apart() -> None:
    assert one(b'{"a":1,"b":2}').structure.shape == one(b'{"b":5,"a":6}').structure.shape
    assert one(b'{"a":1}').structure.shape != one(b'{"b":1}').structure.shape


def test_it_reads_the_older_form() -> None:
    found = one(b"v=11.1&v2=47.9&v4=ok", kind=Kind.FORM)
    assert found.form == FORM_FLAT
    assert found.value == {"value": 11.1, "value2": 47.9, "value4": "ok"}


@pytest.mark.parametrize("payload", [b"", b"v", b"x=1", b"v=1&w=2", b"v=%ff", b"v=%00", b"\xff=1"])
def test_it_refuses_bad_pairs(payload: bytes) -> None:
    assert refusal(payload, kind=Kind.FORM).code in (Code.INVALID_VALUE, Code.BAD_TEXT)


def test_it_stores_bytes_as_hex() -> None:
    found = one(b"\x00\xff\x10", kind=Kind.BINARY)
    assert (found.form, found.text) == (FORM_BINARY, '"00ff10"')


def test_it_types_the_pairs_of_a_state() -> None:
    state = parse(Kind.STATE, b"fw=1.2.3&temp=41.5&up=1200&note=a+b", tag=None, zone=TOKYO)
    assert state == State({"fw": "1.2.3", "temp": 41.5, "up": 1200, "note": "a b"})


def test_it_refuses_times_out_of_range() -> None:
    days = timedelta(days=90)
    assert within_range(NOW, now=NOW, retention=days) is None
    assert within_range(NOW + timedelta(minutes=59), now=NOW, retention=days) is None
    for at in (NOW + timedelta(minutes=61), NOW - timedelta(days=91)):
        found = within_range(at, now=NOW, retention=days)
        assert found is not None
        assert found.code == Code.TIME_OUT_OF_RANGE


def test_an_empty_key_is_a_key() -> None:
    assert one(b'{"": {"x": 1}, "x": 2}').structure.keys == ((":x", "number"), ("x", "number"))
