"""The structure of metrics: which key paths they have, of which types. Looked up by their text, since walking the
keys of every message would cost more than reading it.

Two JSON texts that are equal but for digits, points, minus signs and blanks nest alike and have values of the same
types at the same places. Their keys may still differ in digits, so the keys of every object are compared before a
known structure counts.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from channels.keys import BARE_KEY

MAX_DEPTH = 16
MAX_KEY_PATHS = 1_000
MAX_KEY_LENGTH, MAX_KEY_BYTES = 1_000, 2_500  # an entry of an index holds no more
MOST_KNOWN = 4_096
MOST_KNOWN_BYTES = 8_192  # of one text; a longer one is walked each time

KeyTypes = tuple[tuple[str, str], ...]
Step = str | int
_TYPES = {int: "number", float: "number", str: "string", bool: "boolean"}


class BadStructure(ValueError):
    """Metrics that are none, nest too deep, or have too many key paths. `kind`: "metrics", "deep" or "keys"."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Structure:
    """One object per structure while it is remembered, compared by identity.

    `keys` are the key paths with their types, array elements pooled under one path; `shape` is a number for the set
    of top-level keys; `key_count` counts the keys on all levels.
    """

    __slots__ = ("_objects", "key_count", "keys", "shape")

    def __init__(
        self, keys: KeyTypes, shape: int, objects: tuple[tuple[tuple[Step, ...], tuple[str, ...]], ...] = ()
    ) -> None:
        self.keys = keys
        self.shape = shape
        self.key_count = sum(len(names) for _, names in objects)
        self._objects = objects

    def fits(self, value: Any) -> bool:
        """Whether every object in the metrics has the keys of this structure, outer ones first."""
        for path, names in self._objects:
            inner = value
            for step in path:
                inner = inner[step]
            if tuple(inner) != names:
                return False
        return True


BARE_NUMBER = Structure(((BARE_KEY, "number"),), 0)
BARE_TEXT = Structure(((BARE_KEY, "string"),), 0)
_known: dict[bytes, Structure] = {}


def structure_of(value: Any, skeleton: bytes) -> Structure:
    """The structure of metrics. `skeleton` is their JSON text without digits, points, minus signs and blanks.

    Raises BadStructure.
    """
    known = _known.get(skeleton)
    if known is not None and known.fits(value):
        return known
    structure = structure_walk(value)
    # An empty array looks like one with a number, and of a repeated key only the last value is left to compare.
    if (
        structure.key_count
        and len(skeleton) <= MOST_KNOWN_BYTES
        and b"[]" not in skeleton
        and skeleton.count(b'":') == structure.key_count
    ):
        if len(_known) >= MOST_KNOWN:
            _known.clear()  # what is in use comes back with its next message
        _known[skeleton] = structure
    return structure


def structure_walk(value: Any) -> Structure:
    """The structure, found by walking all keys. Raises BadStructure."""
    if type(value) is dict:
        found: list[tuple[str, str]] = []
        objects: list[tuple[tuple[Step, ...], tuple[str, ...]]] = []
        _walk(value, None, (), found, objects)
        keys = tuple(dict.fromkeys(found))
        if len(keys) > MAX_KEY_PATHS:
            raise BadStructure("keys", f"the metrics have more than {MAX_KEY_PATHS} key paths")
        return Structure(keys, shape_of(value), tuple(objects))
    if type(value) in (int, float):
        return BARE_NUMBER
    if type(value) is str:
        return BARE_TEXT
    raise BadStructure("metrics", "metrics are an object, a number or a text")


def shape_of(value: Any) -> int:
    """31 bits that are equal for equal sets of top-level keys; 0 for what is no object."""
    if not isinstance(value, dict):
        return 0
    text = "\0".join(sorted(value)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") & 0x7FFFFFFF


def _walk(
    value: Any,
    path: str | None,
    steps: tuple[Step, ...],
    found: list[tuple[str, str]],
    objects: list[tuple[tuple[Step, ...], tuple[str, ...]]],
) -> None:
    """Notes the key paths with types, and the keys of every object. `path` None: the top."""
    if len(steps) >= MAX_DEPTH:
        raise BadStructure("deep", f"objects and arrays nest deeper than {MAX_DEPTH} levels")
    inners: Iterator[tuple[Step, str, Any]]
    if type(value) is dict:
        objects.append((steps, tuple(value)))
        inners = ((key, _joined(path, key), inner) for key, inner in value.items())
    else:
        inners = ((place, path or "", inner) for place, inner in enumerate(value))
    for step, inner_path, inner in inners:
        kind = _TYPES.get(type(inner))
        if kind is not None:
            if len(inner_path) > MAX_KEY_LENGTH or len(inner_path.encode()) > MAX_KEY_BYTES:
                raise BadStructure(
                    "keys", f"a key path is longer than {MAX_KEY_LENGTH} characters or {MAX_KEY_BYTES} bytes"
                )
            found.append((inner_path, kind))
        elif inner is not None:
            _walk(inner, inner_path, (*steps, step), found, objects)


def _joined(path: str | None, key: str) -> str:
    if "\\" in key or ":" in key:
        key = key.replace("\\", "\\\\").replace(":", "\\:")
    return key if path is None else f"{path}:{key}"
