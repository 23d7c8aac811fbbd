"""SQL that takes the numbers out of records: which numbers count, said once for charts, aggregates and roll-ups.

A number counts at its key path; the numbers of arrays on the way pool under it. `true` and `false` count as 1 and 0
where they are asked for. A bare number has the path `value`.

Records without arrays are the usual case and are read by plain steps from object to object, each made once a
record: PostgreSQL would evaluate an expression anew for every aggregate, were it not for the OFFSET 0 in between.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from channels.keys import BARE_KEY

Levels = tuple[str, ...]
Parameters = dict[str, Any]

# A record's metrics as an object; a bare number or text becomes one.
OBJECT = "CASE jsonb_typeof({value}) WHEN 'object' THEN {value} ELSE jsonb_build_object('value', {value}) END"


class Column(NamedTuple):
    """The numbers at a key path, or what is yes or no there."""

    levels: Levels
    boolean: bool = False


def pooled_path(levels: Levels) -> str:
    """A jsonpath that finds the values inside arrays too, in arrays within arrays down to three levels."""
    below = "".join(f"[*].{_quoted(level)}" for level in levels[1:])
    return f"lax $.{_quoted(levels[0])}{below}[*][*][*]"


def exact_path(levels: Levels) -> str:
    """A jsonpath that enters no array."""
    return "strict $" + "".join(f".{_quoted(level)}" for level in levels)


def plain_sql(columns: Sequence[Column], *, keep: str, records: str) -> tuple[str, Parameters]:
    """A SELECT with a row for each of the records: `keep`, then c0, c1, ... and `pooled`.

    c0 is the number of the first column as numeric, NULL where there is none. `pooled` tells that there are arrays
    on the way to a number, whose elements are not among these. `records` is a SELECT of `keep` and `value`.
    """
    parameters: Parameters = {}
    nodes = _nodes(columns)
    source = f"({records}) AS r"
    held: list[str] = ["value"]
    for depth in range(1, max((len(levels) for levels in nodes), default=0) + 1):
        steps = [
            f"{_step(levels, nodes, parameters)} AS {name}"
            for levels, name in nodes.items()
            if len(levels) == depth
        ]
        source = f"(SELECT {', '.join([keep, *held, *steps])} FROM {source} OFFSET 0) AS d{depth}"
        held += [name for levels, name in nodes.items() if len(levels) == depth]
    kinds = [f"jsonb_typeof({name}) AS t{name}" for name in nodes.values()]
    source = f"(SELECT {', '.join([keep, *held, *kinds])} FROM {source} OFFSET 0) AS typed"
    made = [f"{_number(column, nodes)} AS c{place}" for place, column in enumerate(columns)]
    arrays = " OR ".join(f"t{name} = 'array'" for name in nodes.values()) or "false"
    return (
        f"SELECT {', '.join([keep, *made])}, coalesce({arrays}, false) AS pooled FROM {source} OFFSET 0",
        parameters,
    )


def pooled_sql(columns: Sequence[Column], *, keep: str, records: str) -> tuple[str, Parameters]:
    """A SELECT with a row for each of the records: `keep`, then a0, a1, ... for the columns.

    Each is an array of four: how many numbers there are, elements of arrays included, their sum, minimum, maximum.
    """
    parameters: Parameters = {}
    made = []
    for place, column in enumerate(columns):
        parameters[f"path{place}"] = pooled_path(column.levels)
        kind, value = ("boolean", "f::boolean::int::numeric") if column.boolean else ("number", "f::numeric")
        made.append(
            f"(SELECT ARRAY[count(v), sum(v), min(v), max(v)] FROM (SELECT {value} AS v"
            f" FROM jsonb_path_query(object, %(path{place})s::jsonpath, silent => true) AS f"
            f" WHERE jsonb_typeof(f) = '{kind}' OFFSET 0) AS found) AS a{place}"
        )
    objects = f"SELECT {keep}, {OBJECT.format(value='value')} AS object FROM ({records}) AS r OFFSET 0"
    return f"SELECT {', '.join([keep, *made])} FROM ({objects}) AS o OFFSET 0", parameters


def columns_of(streams: Iterable[tuple[int, str, Levels]]) -> Iterator[tuple[Column, int]]:
    """The columns of these streams (key, type, levels), each with what it is called in roll-ups.

    That is the stream's own key, and the negative of it for yes and no.
    """
    for key, kind, levels in streams:
        if kind in ("number", "mixed"):
            yield Column(levels), key
        if kind in ("boolean", "mixed"):
            yield Column(levels, boolean=True), -key


def _nodes(columns: Sequence[Column]) -> dict[Levels, str]:
    """Every key path on the way to a column, and the name of what lies there."""
    found = {column.levels[:depth] for column in columns for depth in range(1, len(column.levels) + 1)}
    return {
        levels: f"x{place}" for place, levels in enumerate(sorted(found, key=lambda one: (len(one), one)))
    }


def _step(levels: Levels, nodes: Mapping[Levels, str], parameters: Parameters) -> str:
    name = nodes[levels]
    parameters[name] = levels[-1]
    if len(levels) > 1:
        return f"{nodes[levels[:-1]]} -> %({name})s"
    if levels[0] != BARE_KEY:
        return f"value -> %({name})s"
    return f"CASE jsonb_typeof(value) WHEN 'object' THEN value -> %({name})s ELSE value END"


def _number(column: Column, nodes: Mapping[Levels, str]) -> str:
    name = nodes[column.levels]
    if column.boolean:
        return f"CASE t{name} WHEN 'boolean' THEN {name}::boolean::int::numeric END"
    return f"CASE t{name} WHEN 'number' THEN {name}::numeric END"


def _quoted(level: str) -> str:
    return json.dumps(level, ensure_ascii=False)
