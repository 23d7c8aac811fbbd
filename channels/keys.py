"""Key paths: how one number inside nested metrics is named.

`{"cpu": {"idle": 93.1}}` has the path `cpu:idle`. A `:` or `\\` inside a key is escaped by `\\`. Elements of an
array pool under the array's own path. A bare number or string has the path `value`.
"""

from collections.abc import Iterator
from typing import Any

BARE_KEY = "value"

Scalar = str | float | int | bool | None


def key_join(levels: tuple[str, ...]) -> str:
    return ":".join(level.replace("\\", "\\\\").replace(":", "\\:") for level in levels)


def key_split(path: str) -> tuple[str, ...]:
    """The levels of a path; a trailing lone `\\` stands for itself."""
    levels, level, escaped = [], "", False
    for letter in path:
        if escaped:
            level, escaped = level + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == ":":
            levels.append(level)
            level = ""
        else:
            level += letter
    return (*levels, level + "\\" if escaped else level)


def flatten(value: Any) -> Iterator[tuple[str, Scalar]]:
    """Every scalar of the metrics with its path, in the order they came; array elements each on their own."""
    if isinstance(value, (dict, list)):
        yield from _walk(value, None)
    else:
        yield BARE_KEY, value


def _walk(value: Any, path: str | None) -> Iterator[tuple[str, Scalar]]:
    """`path` None is the top: an empty key is a key all the same."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if "\\" in key or ":" in key:
                key = key.replace("\\", "\\\\").replace(":", "\\:")
            inner_path = key if path is None else f"{path}:{key}"
            if isinstance(inner, (dict, list)):
                yield from _walk(inner, inner_path)
            else:
                yield inner_path, inner
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, BARE_KEY if path is None else path)
    else:
        yield BARE_KEY if path is None else path, value


def value_at(value: Any, levels: tuple[str, ...]) -> list[Scalar]:
    """The scalars at a path, several when an array lies on the way, none when it is absent."""
    if isinstance(value, list):
        return [scalar for inner in value for scalar in value_at(inner, levels)]
    if not levels:
        return [] if isinstance(value, dict) else [value]
    if isinstance(value, dict):
        return value_at(value[levels[0]], levels[1:]) if levels[0] in value else []
    return [value] if levels == (BARE_KEY,) else []


_UNITS = {
    "_pct": "%",
    "_percent": "%",
    "_bytes_s": "B/s",
    "_bytes": "B",
    "_bits_s": "bit/s",
    "s_s": "/s",  # reads_s, packets_s: a plural counted per second
    "_s": "s",
    "_ms": "ms",
    "_us": "µs",
    "_c": "°C",
    "_celsius": "°C",
    "_rpm": "rpm",
    "_mhz": "MHz",
    "_hz": "Hz",
    "_w": "W",
    "_v": "V",
}
_CPU_SHARES = frozenset({"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "total"})


def unit_of(path: str) -> str:
    """The unit that the ending of a key tells (`mem:used_bytes` is in B), or nothing; people can change it."""
    name = path.lower()
    if name.startswith("cpu:") and name[4:] in _CPU_SHARES:
        return "%"
    ending = max((ending for ending in _UNITS if name.endswith(ending)), key=len, default="")
    return _UNITS.get(ending, "")
