"""Charts on pages: which streams share one, what span they show, and their data as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, JsonResponse
from django.utils import timezone

from channels.keys import key_split, unit_of
from channels.models import Channel, Stream
from console.access import account_of
from console.ranges import Range, range_parse
from events.selectors_pages import Marks, chart_marks
from streams.charts import MOST_KEYS, Chart, Source, chart

MOST_LINES = 8  # more lines than this in one chart tell nobody anything


@dataclass(frozen=True)
class Line:
    key: str
    label: str


@dataclass(frozen=True)
class ChartGroup:
    """Streams drawn in one chart: same parent path, same unit."""

    title: str
    unit: str
    lines: list[Line]

    @property
    def ident(self) -> str:
        return "chart-" + "".join(
            letter if letter.isalnum() else "-" for letter in f"{self.title}-{self.unit}"
        )


def chart_groups(keys: Sequence[str], meta: Mapping[str, Stream]) -> list[ChartGroup]:
    """One chart for each parent path and unit, split when it would hold too many lines."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for key in keys[:MOST_KEYS]:
        stream = meta.get(key)
        *parents, name = key_split(key)
        unit = stream.unit if stream else unit_of(key)
        line = Line(key, (stream.label if stream else "") or name)
        groups.setdefault((" ".join(parents) or name, unit), []).append(line)
    return [
        ChartGroup(title, unit, lines[first : first + MOST_LINES])
        for (title, unit), lines in groups.items()
        for first in range(0, len(lines), MOST_LINES)
    ]


def first_query(groups: Sequence[ChartGroup], span: Range) -> str:
    """What static/js/charts.js asks first, as the query of an address; empty for a page without charts."""
    keys = [("key", line.key) for group in groups for line in group.lines]
    return f"{urlencode(keys)}&{span.query}" if keys else ""


def range_of(request: HttpRequest) -> Range:
    """The span that the page's address asks for."""
    return range_parse(
        length=request.GET.get("range", ""),
        start=request.GET.get("from", ""),
        end=request.GET.get("to", ""),
        zone=account_of(request).zone,
        now=timezone.now(),
    )


def chart_json(request: HttpRequest, source: Source, *, channel: Channel | None) -> JsonResponse:
    """`key=` (repeatable) over the page's span: times in epoch seconds, and per key avg, min and max.

    `resolution` names the stored data that was used: raw, minute or hour. With them come the thresholds of the
    channel's rules, and the alerts of that time.
    """
    span = range_of(request)
    keys = [key for key in request.GET.getlist("key")[:MOST_KEYS] if "\0" not in key]
    found = chart(source, keys, start=span.start, end=span.end)
    marks = chart_marks(
        account_of(request),
        channel=channel,
        device_key=source.key if source.column == "device_key" else None,
        keys=keys,
        start=span.start,
        end=span.end,
    )
    answer = JsonResponse(_as_json(found, span) | marks_json(marks))
    answer["Cache-Control"] = "no-store"
    return answer


def marks_json(marks: Marks) -> dict[str, Any]:
    """Marks as the page's script draws them."""
    return {
        "thresholds": [
            {
                "key": one.key,
                "value": one.value,
                "clear": one.clear,
                "operator": one.operator,
                "severity": one.severity,
            }
            for one in marks.thresholds
        ],
        "periods": [
            {
                "key": one.key,
                "start": one.at.timestamp(),
                "end": one.until.timestamp() if one.until else None,
                "severity": one.severity,
            }
            for one in marks.periods
        ],
    }


def _as_json(found: Chart, span: Range) -> dict[str, Any]:
    return {
        "start": span.start.timestamp(),
        "end": span.end.timestamp(),
        "step_s": found.step_s,
        "resolution": found.resolution,
        "times": [at.timestamp() for at in found.times],
        "series": {
            key: {"avg": one.avg, "min": one.min, "max": one.max} for key, one in found.series.items()
        },
    }
