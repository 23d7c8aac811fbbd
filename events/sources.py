"""A rule's source: a key path in which a level of its own that reads `*` stands for any key. Pure.

`disk:*:used_pct` holds for each disk on its own. A key that is really `*` is written `\\*`. Steps into arrays are
not written: any element counts.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Generic, TypeVar

from channels.keys import key_join, key_split

Levels = tuple[str | None, ...]  # None: any key

T = TypeVar("T")


def source_levels(source: str) -> Levels:
    """The levels of a source, or of a plain key path."""
    return tuple(None if raw == "*" else key_split(raw)[0] for raw in _raw_levels(source))


def path_digest(path: str) -> int:
    """64 signed bits that stand for a key path where it would be too long."""
    return int.from_bytes(
        blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True
    )


def _raw_levels(source: str) -> Iterator[str]:
    """Split at the `:` that no `\\` precedes, leaving escapes as they are."""
    start, place = 0, 0
    while place < len(source):
        if source[place] == "\\":
            place += 2
            continue
        if source[place] == ":":
            yield source[start:place]
            start = place + 1
        place += 1
    yield source[start:]


class SourceIndex(Generic[T]):
    """Finds what is watched at a key path: in one look for plain sources, by first level for patterns."""

    def __init__(self, items: Iterable[tuple[Levels, T]]) -> None:
        self._plain: dict[str, list[T]] = {}
        self._patterns: dict[str | None, list[tuple[Levels, T]]] = {}
        for levels, item in items:
            names = tuple(level for level in levels if level is not None)
            if len(names) == len(levels):
                self._plain.setdefault(key_join(names), []).append(item)
            else:
                self._patterns.setdefault(levels[0], []).append((levels, item))

    def at(self, path: str) -> list[T]:
        """Everything whose source is this path or a pattern that it fits."""
        found = list(self._plain.get(path, ()))
        if self._patterns:
            names = key_split(path)
            for first in (names[0], None):
                found += [item for levels, item in self._patterns.get(first, ()) if _fits(names, levels)]
        return found


def _fits(names: tuple[str, ...], levels: Levels) -> bool:
    return len(names) == len(levels) and all(
        level is None or level == name for name, level in zip(names, levels, strict=True)
    )
