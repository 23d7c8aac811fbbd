"""When a value meets a rule's condition. Pure.

Value and threshold are compared as numbers when both are, else as texts; only `=` and `!=` compare a text with a
threshold that is a number. A boolean is 1 or 0 beside a number and `true` or `false` beside a text. Integers beyond 64
bits compare as floats.
"""

import json
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from channels.keys import Scalar

Number = int | float

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
ORDERING = ("<", ">", "<=", ">=")
_BEYOND = 2**63
EVERYTHING = (-math.inf, math.inf)
NOTHING = (math.inf, -math.inf)


def number_of_text(text: str) -> Number | None:
    """The number that a text is, None when it is none."""
    text = text.strip()
    if _INTEGER.fullmatch(text):
        return _narrow(int(text))
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def number_of(value: Scalar) -> Number | None:
    """The number that a value of a message is, None when it is none."""
    if isinstance(value, str):
        return number_of_text(value)
    if isinstance(value, float):
        return value
    return None if value is None else _narrow(int(value))


def text_of(value: Scalar) -> str:
    """The value as people write it: texts as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _narrow(number: int) -> Number:
    return number if -_BEYOND <= number < _BEYOND else float(number)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`operator` and the threshold, as a text and, where it is one, as a number."""

    operator: str
    text: str
    number: Number | None
    compare: Callable[[Any, Any], bool]

    @classmethod
    def of(cls, operator_: str, threshold: str) -> "Comparison":
        return cls(operator_, threshold, number_of_text(threshold), _COMPARE[operator_])

    def matches(self, value: Scalar) -> bool:
        """Null matches nothing: it is the absence of a value."""
        if self.number is not None:
            left = value if type(value) is float else number_of(value)  # the common case first
            if left is not None:
                return self.compare(left, self.number)
            if self.operator in ORDERING:  # `N/A` is not above 90
                return False
        if value is None:
            return False
        if isinstance(value, bool):
            return self.compare(text_of(value), self.text.strip().lower())
        return self.compare(text_of(value), self.text)

    def quiet_range(self) -> tuple[Number, Number]:
        """Numbers from low to high, both included, that do not match for sure; a number outside may match or not.

        Of `=` every number but the threshold is quiet, which no range can say: see `equal_to`.
        """
        number = self.number
        if number is None or (self.operator == "=" and abs(number) >= _BEYOND):
            return NOTHING
        low, high = EVERYTHING
        ranges: dict[str, tuple[Number, Number]] = {
            ">": (low, number),
            ">=": (low, math.nextafter(number, low)),
            "<": (number, high),
            "<=": (math.nextafter(number, high), high),
            "!=": (number, number),
            "=": EVERYTHING,
        }
        return ranges[self.operator]

    @property
    def equal_to(self) -> Number | None:
        """The one number that `=` matches."""
        return self.number if self.operator == "=" else None


@dataclass(frozen=True, slots=True)
class Condition:
    """What a rule asks: `fires` for `for_` in measurement time; once firing it goes on while `holds`."""

    fires: Comparison
    holds: Comparison
    for_: timedelta

    @classmethod
    def of(cls, operator_: str, threshold: str, clear_threshold: str | None, for_s: int) -> "Condition":
        fires = Comparison.of(operator_, threshold)
        holds = fires if clear_threshold is None else Comparison.of(operator_, clear_threshold)
        return cls(fires, holds, timedelta(seconds=for_s))


def first_match(comparison: Comparison, values: Iterable[Scalar]) -> tuple[Scalar] | None:
    """The first of an array's elements that matches, packed so that it can be told from none."""
    for value in values:
        if comparison.matches(value):
            return (value,)
    return None
