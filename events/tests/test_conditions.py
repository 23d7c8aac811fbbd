import math
from typing import Any

import pytest

from events.conditions import Comparison, number_of_text


@pytest.mark.parametrize(
    ("value", "operator", "threshold", "matches"),
    [
        # Exactly equal.
        (90, ">", "90", False),
        (90, ">=", "90", True),
        (90.0, "=", "90", True),
        (90, "=", "90.0", True),
        (90, "!=", "9e1", False),
        (90, "<", "90", False),
        (90, "<=", "90", True),
        # Numbers.
        (90.1, ">", "90", True),
        (-3, "<", "-2.5", True),
        (0.3, "=", " 0.3 ", True),
        (0.30000000000000004, "=", "0.3", False),
        # Texts that are numbers compare as numbers, others as texts.
        ("9", "<", "10", True),
        ("9", "<", "10x", False),
        ("12.50", "=", "12.5", True),
        ("down", "=", "down", True),
        ("Down", "=", "down", False),
        ("up", "!=", "down", True),
        ("down", "!=", "down", False),
        ("b", ">", "a", True),
        ("", "=", "", True),
        ("N/A", "!=", "5", True),
        ("N/A", "=", "5", False),
        # Only = and != hold a text against a number.
        ("N/A", ">", "5", False),
        ("N/A", ">=", "5", False),
        ("", "<", "5", False),
        ("-", "<=", "5", False),
        ("5", "<=", "5", True),
        ("a", "<", "b", True),
        (5, "=", "five", False),
        (5, "!=", "five", True),
        ("日本", "=", "日本", True),
        # Booleans.
        (True, "=", "true", True),
        (True, "=", "True", True),
        (False, "=", "true", False),
        (False, "!=", "true", True),
        (False, "=", "0", True),
        (True, "<", "1", False),
        (False, "<", "1", True),
        # Integers beyond 64 bits compare as floats.
        (9_007_199_254_740_993, "=", "9007199254740993", True),
        (9_007_199_254_740_993, "=", "9007199254740992", False),
        (10**30 + 1, "=", "1e30", True),
        (10**30, ">", "99999999999999999999999999999", True),
        (-(10**30), "<", "-1e29", True),
        # Null is the absence of a value.
        (None, "!=", "5", False),
        (None, "=", "", False),
        (None, "=", "null", False),
    ],
)
def test_values_and_thresholds(value: Any, operator: str, threshold: str, matches: bool) -> None:
    assert Comparison.of(operator, threshold).matches(value) is matches


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-inf", "1e999", "0x10", "1_000", "٣", "--1", "1e", ".", "9" * 400]
)
def test_texts_that_are_no_number(text: str) -> None:
    assert number_of_text(text) is None


@pytest.mark.parametrize("text", ["5", "+5", "5.", "5.0", "50e-1", " 5\n", ".5e1"])
def test_texts_that_are_a_number(text: str) -> None:
    assert number_of_text(text) == 5


@pytest.mark.parametrize("threshold", ["0", "-0.5", "90", "1e-300", "9007199254740993", "1e30", "x"])
@pytest.mark.parametrize("operator", ["<", ">", "<=", ">=", "=", "!="])
def test_what_is_in_the_quiet_range_never_matches(operator: str, threshold: str) -> None:
    comparison = Comparison.of(operator, threshold)
    low, high = comparison.quiet_range()
    near = [comparison.number] if comparison.number is not None else []
    near += [math.nextafter(number, direction) for number in near for direction in (-math.inf, math.inf)]
    near += [int(number) + step for number in near for step in (-1, 0, 1)]
    for value in (*near, 0, -1, 1, 1e308, -1e308, 2**63, -(2**63), 10**30 + 1, True, False):
        if low <= value <= high and value != comparison.equal_to:
            assert not comparison.matches(value), value
