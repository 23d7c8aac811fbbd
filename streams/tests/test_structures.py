import json
import random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from streams import structures
from streams.payload import Measurement, parse
from streams.structures import structure_walk
from streams.topics import Kind

UTC = ZoneInfo("UTC")
KEYS = ("a", "a1", "a2", "b", "b-1", "b.1", "x:y", "é", "")
LEAVES: tuple[Any, ...] = (
    1,
    1.5,
    -2,
    True,
    False,
    None,
    "",
    "1",
    "-",
    "text 1",
    "[]",
    {},
    [],
    [1],
    [1, 2],
    [[1]],
)


def structure(payload: bytes) -> structures.Structure:
    parsed = parse(Kind.JSON, payload, tag=None, zone=UTC)
    assert isinstance(parsed, list)
    assert isinstance(parsed[0], Measurement), parsed[0]
    return parsed[0].structure


def made(chance: random.Random, depth: int = 0) -> Any:
    if depth < 3 and chance.random() < 0.4:
        return {key: made(chance, depth + 1) for key in chance.sample(KEYS, chance.randrange(4))}
    if depth < 3 and chance.random() < 0.1:
        return [made(chance, depth + 1) for _ in range(chance.randrange(3))]
    return chance.choice(LEAVES)


def test_a_remembered_structure_is_the_one_that_walking_finds() -> None:
    chance = random.Random(7)  # noqa: S311 - the same values each time
    structures._known.clear()
    met = 0
    for _ in range(20_000):
        value = {key: made(chance) for key in chance.sample(KEYS, chance.randrange(4))}
        text = json.dumps(value, separators=chance.choice([(",", ":"), (", ", ": ")])).encode()
        known = len(structures._known)
        found, walked = structure(text), structure_walk(value)
        assert (found.keys, found.shape, found.key_count) == (walked.keys, walked.shape, walked.key_count), (
            text
        )
        met += len(structures._known) == known
    assert met > 1_000  # that many came from memory, or had nothing to remember


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1}', b'{"a1":1}'),
        (b'{"a1":1,"a2":2}', b'{"a2":1,"a1":2}'),
        (b'{"a":{"b1":1}}', b'{"a":{"b2":1}}'),
        (b'{"a":[{"b":1}]}', b'{"a":[{"b1":1}]}'),
        (b'{"a":[1]}', b'{"a":[]}'),
        (b'{"a":[ 1]}', b'{"a":[ ]}'),
        (b'{"a":1}', b'{"a":""}'),
        (b'{"a":"1"}', b'{"a":1}'),
        (b'{"a":1}', b'{"a":true}'),
        (b'{"a-b":1}', b'{"ab":1}'),
        (b'{"a.b":1}', b'{"ab":1}'),
        (b'{"a b":1}', b'{"ab":1}'),
        (b'{"a1":{"x":1},"a2":5}', b'{"a1":{"x":1},"a1":5}'),
        (b'{"a1":{},"a2":1,"a1":2}', b'{"a1":{},"a2":1,"a2":2}'),
    ],
)
def test_texts_that_look_alike_are_told_apart(one: bytes, other: bytes) -> None:
    for first, second in ((one, other), (other, one)):
        structures._known.clear()
        structure(first)
        assert structure(second).keys == structure_walk(json.loads(second)).keys


def test_messages_of_one_structure_share_it() -> None:
    assert structure(b'{"cpu":{"idle":93.1},"n":-1}') is structure(b'{"cpu": {"idle": 7}, "n": 20}')


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "MOST_KNOWN", 10)
    for number in range(50):
        structure(b'{"%b":1}' % (b"k" * (number + 1)))
    assert len(structures._known) <= 10
    before = len(structures._known)
    structure(b'{"%b":"%b"}' % (b"k", b"x" * structures.MOST_KNOWN_BYTES))
    assert len(structures._known) == before


def test_repeated_keys_are_counted_wherever_they_are() -> None:
    def repeated(payload: bytes) -> list[int]:
        parsed = parse(Kind.JSON, payload, tag=None, zone=UTC)
        assert isinstance(parsed, list)
        return [found.repeated_keys for found in parsed if isinstance(found, Measurement)]

    assert repeated(b'{"a":1,"a":2}') == [1]
    assert repeated(b'{"a":"\\":","b":2}') == [0]
    assert repeated(b'{"at":1763889000,"value":{"a":1,"a":2,"b":{"c":1,"c":1}}}') == [2]
    assert repeated(b'[{"at":1763889000,"value":1},{"at":1763889001,"value":{"a":1,"a":2}}]') == [1, 0]
    assert repeated(b'[{"at":"bad","value":1},{"at":1763889001,"value":{"a":1,"b":2}}]') == [0]
