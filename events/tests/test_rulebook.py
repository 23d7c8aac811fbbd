"""The quick look finds what a comparison of every value with every rule finds, and costs no more than it should."""

import random
from datetime import UTC, datetime
from typing import Any, NamedTuple

from channels.keys import flatten, key_split
from events.conditions import Comparison
from events.rulebook import RuleBook
from events.sources import source_levels
from streams.structures import Structure, structure_walk

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CHANNEL, OTHER_CHANNEL = 1, 2


class Message(NamedTuple):
    value: Any
    structure: Structure
    tag: str | None = None
    digest: int = 0


class Given(NamedTuple):
    """A rule as a test says it."""

    source: str
    operator: str = ">"
    threshold: str = "90"
    device_key: int = 0
    tag: str = ""
    channel_key: int = CHANNEL


def book(*given: Given) -> RuleBook:
    """Rules with the keys 1, 2, 3 and so on."""
    rules = RuleBook()
    rules.take(
        (
            key,
            1,
            one.channel_key,
            one.device_key,
            one.tag,
            one.source,
            one.operator,
            one.threshold,
            None,
            0,
            "info",
            1,
            True,
        )
        for key, one in enumerate(given, start=1)
    )
    return rules


def found(rules: RuleBook, *values: Any, device_key: int = 7, tag: str | None = None) -> set[tuple[int, str]]:
    """Rule keys with key paths."""
    measured = [
        (CHANNEL, device_key, NOW, NOW, Message(value, structure_walk(value), tag)) for value in values
    ]
    return {(instance.rule_key, instance.path) for instance in rules.find(measured).candidates}


def expected(given: list[Given], value: Any, device_key: int, tag: str | None) -> set[tuple[int, str]]:
    """The same by comparing everything with everything."""
    return {
        (key, path)
        for key, one in enumerate(given, start=1)
        for path, scalar in flatten(value)
        if one.channel_key == CHANNEL
        and one.device_key in (0, device_key)
        and one.tag in ("", tag)
        and len(source_levels(one.source)) == len(key_split(path))
        and all(a is None or a == b for a, b in zip(source_levels(one.source), key_split(path), strict=True))
        and Comparison.of(one.operator, one.threshold).matches(scalar)
    }


def test_it_finds_what_is_beyond_and_nothing_else() -> None:
    rules = book(Given("cpu:idle", "<", "10"), Given("load1"), Given("mem:used", ">=", "5"))
    assert found(rules, {"cpu": {"idle": 10}, "load1": 90, "mem": {"used": 4}}) == set()
    assert found(rules, {"cpu": {"idle": 9.9}, "load1": 91}) == {(1, "cpu:idle"), (2, "load1")}


def test_a_pattern_watches_each_key_on_its_own() -> None:
    rules = book(Given("disk:*:used"))
    value = {"disk": {"sda": {"used": 95}, "sd:b": {"used": 96}, "sdc": {"used": 5, "free": 99}}}
    assert found(rules, value) == {(1, "disk:sda:used"), (1, "disk:sd\\:b:used")}


def test_any_element_of_an_array_counts() -> None:
    rules = book(Given("disks:used"), Given("load"))
    assert found(rules, {"disks": [{"used": 5}, {"used": 95}], "load": [1, [2, 95]]}) == {
        (1, "disks:used"),
        (2, "load"),
    }
    assert found(rules, {"disks": [{"used": 5}, {"used": None}], "load": []}) == set()


def test_a_structure_with_an_array_is_not_taken_for_one_without() -> None:
    rules = book(Given("load"), Given("cpu:idle"))
    quiet = {"load": 1, "cpu": {"idle": 1}}
    for value in (
        {"load": [95], "cpu": {"idle": 1}},
        {"load": 1, "cpu": {"idle": [1, 95]}},
        {"load": 1, "cpu": [{"idle": 95}]},
    ):
        assert len(found(rules, quiet, value)) == 1
        assert len(found(book(Given("load"), Given("cpu:idle")), value, quiet)) == 1


def test_bare_numbers_and_texts_are_watched_as_value() -> None:
    rules = book(Given("value", ">=", "95"), Given("value", "=", "down"))
    assert found(rules, 95) == {(1, "value")}
    assert found(rules, "down") == {(2, "value")}  # a text is neither above nor below a number
    assert found(rules, 5, "5", "94.9") == set()
    assert found(rules, "95") == {(1, "value")}
    assert found(rules, {"value": 95}) == {(1, "value")}


def test_a_rule_can_be_narrowed_to_a_device_and_a_tag() -> None:
    rules = book(
        Given("cpu", device_key=7),
        Given("cpu", tag="rack"),
        Given("cpu", device_key=7, tag="rack"),
        Given("cpu"),
    )
    assert {key for key, _ in found(rules, {"cpu": 95})} == {1, 4}
    assert {key for key, _ in found(rules, {"cpu": 95}, tag="rack")} == {1, 2, 3, 4}
    assert {key for key, _ in found(rules, {"cpu": 95}, device_key=8, tag="rack")} == {2, 4}
    assert {key for key, _ in found(rules, {"cpu": 95}, device_key=8, tag="other")} == {4}


def test_other_channels_rules_are_passed_over() -> None:
    found_ = book(Given("cpu", channel_key=OTHER_CHANNEL)).find(
        [(CHANNEL, 7, NOW, NOW, Message({"cpu": 95}, structure_walk({"cpu": 95})))]
    )
    assert (found_.candidates, found_.device_keys, found_.channel_keys) == ({}, set(), set())


def test_it_names_the_devices_that_a_rule_could_concern() -> None:
    quiet = Message({"cpu": 5}, structure_walk({"cpu": 5}))
    found_ = book(Given("disk")).find([(key % 2, key, NOW, NOW, quiet) for key in range(6)])
    assert (found_.device_keys, found_.channel_keys) == ({1, 3, 5}, {CHANNEL})


def test_changed_and_ended_rules_are_followed() -> None:
    rules = book(Given("cpu"), Given("load"))
    beyond = {"cpu": 95, "load": 95}
    assert found(rules, beyond) == {(1, "cpu"), (2, "load")}
    rules.take([(1, 1, CHANNEL, 0, "", "cpu", ">", "99", None, 0, "info", 2, True)])
    rules.take([(2, 1, CHANNEL, 0, "", "load", ">", "90", None, 0, "info", 2, False)])
    assert found(rules, beyond) == set()
    rules.take([(1, 1, OTHER_CHANNEL, 0, "", "cpu", ">", "5", None, 0, "info", 3, True)])
    assert found(rules, beyond) == set()
    assert rules.get(2) is None


def test_it_agrees_with_comparing_everything_with_everything() -> None:
    chance = random.Random(20261123)  # noqa: S311 - a test's chance
    scalars: list[Any] = [
        0,
        1,
        -1,
        5,
        5.5,
        90,
        90.5,
        1e30,
        10**30,
        True,
        False,
        "5",
        "90",
        "up",
        "down",
        "",
        None,
    ]
    thresholds = ["0", "1", "5", "5.5", "90", "1e30", "up", "down", "true", ""]
    sources = ["a", "b:c", "b:*", "*:c", "*", "d:e:f", "d:*:f", "*:*:*", "value"]

    def value(depth: int = 0) -> Any:
        kind = chance.random()
        if depth == 3 or (depth and kind < 0.6):
            return chance.choice(scalars)
        if depth and kind < 0.7:
            return [value(depth + 1) for _ in range(chance.randrange(3))]
        return {key: value(depth + 1) for key in chance.sample("abcdef", chance.randrange(1, 4))}

    for _ in range(150):
        given = [
            Given(
                chance.choice(sources),
                chance.choice(["<", ">", "<=", ">=", "=", "!="]),
                chance.choice(thresholds),
                chance.choice([0, 0, 7, 8]),
                chance.choice(["", "", "t"]),
                chance.choice([CHANNEL, CHANNEL, OTHER_CHANNEL]),
            )
            for _ in range(chance.randrange(1, 8))
        ]
        rules = book(*given)
        for _ in range(20):
            message, device_key, tag = value(), chance.choice([7, 9]), chance.choice([None, "t"])
            assert found(rules, message, device_key=device_key, tag=tag) == expected(
                given, message, device_key, tag
            )


def test_finding_needs_no_new_look_at_a_structure_it_knows() -> None:
    """Changing texts make a structure object for each message: they share what was worked out for their keys."""
    rules = book(Given("cpu"), Given("state", "=", "down"))
    found(rules, *({"cpu": 5, "state": f"s{number}"} for number in range(50)))
    scope = rules._channels[CHANNEL].scope(7, None)
    assert (len(scope.by_keys), len({id(scan) for scan in scope.by_structure.values()})) == (1, 1)
