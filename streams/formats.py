"""How records and aggregates leave the API: JSON, CSV or a JSON object per line, made part by part.

A record's value stays the text that the database has, so that every digit is kept. What makes these texts runs
once per record of an export, which is why rows are plain tuples here and come in portions.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from functools import partial
from json.encoder import encode_basestring
from typing import Any

import orjson

from channels.keys import BARE_KEY, flatten
from streams.payload import FORM_FLAT
from streams.record_id import record_id
from streams.selectors import BEGINNING, Row
from tokens.times import time_text

JSON, CSV, NDJSON = FORMATS = ("json", "csv", "ndjson")
CONTENT_TYPES = {JSON: "application/json", CSV: "text/csv; charset=utf-8", NDJSON: "application/x-ndjson"}
PART_CHARACTERS = 256 * 1024
PORTION_TEXTS = 1_000  # of a page of the database, which has PAGE_CHARACTERS at most, and one record
FLAT_KEYS = ("value", "value2", "value3", "value4")

_MINUTE_US = 60_000_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

Levels = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A form of answer: what stands before, between and after the texts of its rows."""

    head: str = ""
    between: str = ""
    tail: str = ""


class _Digits(str):
    """A number as it is written, which no float can hold for every number."""

    __slots__ = ()


def parts(pages: Iterable[Sequence[str]], layout: Layout) -> Iterator[bytes]:
    """The whole answer in parts of some 256 KiB; JSON without its last part is no JSON."""
    held, size, separator = [layout.head], 0, ""
    for page in pages:
        for place in range(0, len(page), PORTION_TEXTS):
            text = layout.between.join(page[place : place + PORTION_TEXTS])
            held.append(separator + text)
            separator = layout.between
            size += len(text)
            if size > PART_CHARACTERS:
                yield "".join(held).encode()
                held, size = [], 0
    held.append(layout.tail)
    yield "".join(held).encode()


def record_layout(
    form: str, *, head: str, zone: tzinfo, keys: Sequence[str], asked: bool
) -> tuple[Layout, Callable[[Sequence[Row]], list[str]]]:
    """How records leave: what stands around them, and what makes their texts.

    `head`: the JSON up to its first record. `keys`: those asked for, or a table's columns.
    """
    if form == CSV:
        header = csv_text([["at", "device_id", "tag", *map(guarded, keys)]])
        return Layout(header), partial(records_csv, zone=zone, keys=keys)
    flat_keys = [key for key in FLAT_KEYS if key in keys] if asked else FLAT_KEYS
    if form == NDJSON:
        return Layout(), partial(records_json, zone=zone, flat_keys=flat_keys, end="\n")
    return Layout(head, ",", "]}"), partial(records_json, zone=zone, flat_keys=flat_keys)


def records_json(
    rows: Iterable[Row], *, zone: tzinfo, flat_keys: Sequence[str] = FLAT_KEYS, end: str = ""
) -> list[str]:
    """Each record as JSON text."""
    time = clock(zone)
    known: dict[str | None, str] = {None: "null"}
    texts = []
    for at_us, digest, device_key, device_id, tag, form, value in rows:
        device_text, tag_text = known.get(device_id), known.get(tag)
        if device_text is None:
            device_text = known[device_id] = orjson.dumps(device_id).decode()
        if tag_text is None:
            tag_text = known[tag] = orjson.dumps(tag).decode()
        key = record_id(device_key=device_key, at_us=at_us, digest=digest)
        pairs = flat_text(value, keys=flat_keys) if form == FORM_FLAT else f'"value":{value}'
        texts.append(
            f'{{"_id":"{key}","device_id":{device_text},"tag":{tag_text},{pairs},"at":"{time(at_us)}"}}{end}'
        )
    return texts


def records_csv(rows: Iterable[Row], *, zone: tzinfo, keys: Sequence[str]) -> list[str]:
    """Records as lines of a table, with a column for each of these key paths."""
    time = clock(zone)
    lines = []
    for at_us, _digest, _device_key, device_id, tag, _form, value in rows:
        found: dict[str, list[Any]] = {}
        for key, scalar in flatten(_loads(value)):
            found.setdefault(key, []).append(scalar)
        cells = [_cell(found[key]) if key in found else "" for key in keys]
        lines.append([time(at_us), guarded(device_id or ""), guarded(tag or ""), *cells])
    return [csv_text(lines)] if lines else []


def csv_text(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue()


def flat_text(value: str, *, keys: Sequence[str] = FLAT_KEYS) -> str:
    """The pairs of a flat record without their braces, and null for those of `keys` it does not have."""
    # A text inside cannot look like a key: its quotes are escaped.
    absent = [f', "{key}": null' for key in keys if f'"{key}":' not in value]
    return value.strip()[1:-1] + "".join(absent)


def clock(zone: tzinfo) -> Callable[[int], str]:
    """What makes time_text() of microseconds since 1970, fast for times of the same minute."""
    minute, prefix, suffix, whole = -1, "", "", True

    def text(at_us: int) -> str:
        nonlocal minute, prefix, suffix, whole
        number, rest_us = divmod(at_us, _MINUTE_US)
        if number != minute:
            local = (BEGINNING + timedelta(minutes=number)).astimezone(zone)
            beginning = local.isoformat(timespec="minutes")
            minute, prefix, suffix = number, beginning[:16], beginning[16:]
            whole = number >= 0 and local.second == 0  # long ago offsets had seconds
        if not whole:
            return time_text(BEGINNING + timedelta(microseconds=at_us), zone=zone) or ""
        second, rest_us = divmod(rest_us, 1_000_000)
        if rest_us % 1000:
            return f"{prefix}:{second:02}.{rest_us:06}{suffix}"
        return f"{prefix}:{second:02}.{rest_us // 1000:03}{suffix}"

    return text


# --- only some key paths ---


def only(keys: Sequence[Levels]) -> Callable[[Sequence[Row]], list[Row]]:
    """What leaves of each record only these key paths, in the same nesting, and drops records without any."""
    tree: dict[str, Any] = {}
    for levels in keys:
        node = tree
        for level in levels:
            node = node.setdefault(level, {})
        node[_HERE] = {}
    bare = _HERE in tree.get(BARE_KEY, {})

    def keep(rows: Sequence[Row]) -> list[Row]:
        kept: list[Row] = []
        for row in rows:
            value = _loads(row[6])
            text = _pruned(value, tree) if isinstance(value, (dict, list)) else None
            if text is None and bare and not isinstance(value, dict):
                text = _pruned(value, tree[BARE_KEY])
            if text is not None:
                kept.append((*row[:6], text))
        return kept

    return keep


_HERE = "\0"  # marks the end of an asked path; no key of a record has this letter


def _pruned(value: Any, tree: Mapping[str, Any]) -> str | None:
    if isinstance(value, dict):
        pairs = []
        for key, inner in value.items():
            below = tree.get(key)
            text = _pruned(inner, below) if below else None
            if text is not None:
                pairs.append(f"{encode_basestring(key)}: {text}")
        return "{" + ", ".join(pairs) + "}" if pairs else None
    if isinstance(value, list):
        found = [text for inner in value if (text := _pruned(inner, tree)) is not None]
        return "[" + ", ".join(found) + "]" if found else None
    return _scalar_text(value) if _HERE in tree else None


# --- aggregates ---


def nested(values: Mapping[Levels, Any], places: Mapping[Levels, Levels]) -> dict[str, Any]:
    """Values by key path in the nesting of the metrics; `places` are from nesting_places()."""
    root: dict[str, Any] = {}
    for levels, value in values.items():
        *above, last = places[levels]
        node = root
        for level in above:
            node = node.setdefault(level, {})
        node[last] = value
    return root


def nesting_places(keys: Iterable[Levels]) -> dict[Levels, Levels]:
    """Where each key path goes in one nested object.

    A key that is a number in one record and an object in another cannot be both in one object: its number goes
    inside, under the empty key, or where that is a path of its own under the first free of `value`, `value2`...
    """
    taken = set(keys)
    objects = {levels[:length] for levels in taken for length in range(1, len(levels))}
    places = {}
    for levels in sorted(taken):
        place = levels
        if levels in objects:
            names = ("", BARE_KEY, *(f"{BARE_KEY}{number}" for number in range(2, len(taken) + 3)))
            place = next(
                inner for name in names if (inner := (*levels, name)) not in taken and inner not in objects
            )
        places[levels] = place
    return places


def numbers_json(value: Any) -> str:
    """JSON with whole numbers of any size; refuses NaN and infinity."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


# --- cells and scalars ---


def _loads(text: str) -> Any:
    return json.loads(text, parse_int=_Digits, parse_float=_Digits)


def _scalar_text(value: Any) -> str:
    if isinstance(value, _Digits):
        return str(value)
    if isinstance(value, str):
        return encode_basestring(value)
    return {True: "true", False: "false", None: "null"}[value]


def _cell(values: Sequence[Any]) -> str:
    if len(values) > 1:
        return "[" + ",".join(map(_scalar_text, values)) + "]"
    (value,) = values
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, _Digits):
        return guarded(value)
    return _scalar_text(value)


def guarded(text: str) -> str:
    """Text that a spreadsheet would take for a formula gets a quotation mark before it."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
