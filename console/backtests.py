"""What a page says of a rule over past data: a verdict, the firings, and a chart with them drawn in."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from channels.models import Channel
from channels.selectors import stream_meta
from console.charting import MOST_LINES, ChartGroup, chart_groups, marks_json
from console.lengths import duration_words
from console.ranges import Range
from events.models import Rule
from events.selectors_pages import Marks, Period, thresholds_of
from events.sources import SourceIndex, source_levels
from servwatch_site.errors import Code, ServwatchError
from streams.backtest import MOST_PATIENCE_S, PATIENCE_S, Backtest, Firing, backtest
from tokens.models import Account

ROWS_SHOWN = 50


@dataclass(frozen=True)
class Row:
    firing: Firing
    lasted: str


@dataclass(frozen=True)
class Preview:
    """`chart_of`: whose values the chart shows, a device's id or "" for the whole channel."""

    found: Backtest
    verdict: str
    rows: Sequence[Row]
    chart_of: str
    chart_url: str
    groups: Sequence[ChartGroup]
    range: Range
    marks: str


def preview_of(account: Account, draft: Rule, *, now: datetime, in_full: bool = False) -> Preview:
    """`in_full`: for as long as a back-test may take. Raises INVALID_VALUE for a rule without a channel."""
    channel = draft.channel
    if channel is None:
        raise ServwatchError(
            Code.INVALID_VALUE, _("Some fields do not fit."), fields={"mapped_ch": _("required")}
        )
    patience_s = MOST_PATIENCE_S if in_full else PATIENCE_S
    found = backtest(account, draft, now=now, patience_s=patience_s)
    device_id = _whose(found, draft)
    keys = _keys(found, draft, channel, device_id)
    periods = [
        Period(0, firing.key, firing.at, firing.until, draft.severity)
        for firing in found.firings
        if firing.device_id == device_id or not device_id
    ]
    url = reverse("console:device-chart", args=[device_id]) if device_id else ""
    return Preview(
        found,
        _verdict(found),
        [
            Row(firing, duration_words(_lasted_s(firing, found)))
            for firing in found.firings[-ROWS_SHOWN:][::-1]
        ],
        device_id,
        url or reverse("console:channel-chart", args=[channel.number]),
        chart_groups(keys, stream_meta(channel)),
        Range(found.start, found.end, ""),
        json.dumps(marks_json(Marks(thresholds_of([draft], keys), periods))),
    )


def _verdict(found: Backtest) -> str:
    days = round((found.end - found.start).total_seconds() / 86_400)
    in_part = found.is_cut or found.devices_looked < found.devices or found.keys_looked < found.keys
    if not found.firing_count and in_part:
        if not found.devices_looked:
            return _("The time was not enough to say whether it would have fired.")
        return _("It would not have fired in what was looked at.")
    if not found.firing_count:
        return ngettext(
            "It would not have fired in %(n)d day.", "It would not have fired in %(n)d days.", days
        ) % {"n": days}
    text = ngettext(
        "It would have fired %(n)d time in %(days)d days, %(span)s in all.",
        "It would have fired %(n)d times in %(days)d days, %(span)s in all.",
        found.firing_count,
    )
    if in_part:
        text = ngettext(
            "It would have fired %(n)d time in what was looked at of %(days)d days, %(span)s in all.",
            "It would have fired %(n)d times in what was looked at of %(days)d days, %(span)s in all.",
            found.firing_count,
        )
    total = duration_words(sum(_lasted_s(firing, found) for firing in found.firings))
    if found.firing_count > len(found.firings):
        total = _("more than %(span)s") % {"span": total}
    return text % {"n": found.firing_count, "days": days, "span": total}


def _lasted_s(firing: Firing, found: Backtest) -> float:
    return ((firing.until or found.end) - firing.at).total_seconds()


def _whose(found: Backtest, draft: Rule) -> str:
    """The device that would have fired most; without any the one that the rule names."""
    counts = Counter(firing.device_id for firing in found.firings if firing.device_id)
    if counts:
        return str(counts.most_common(1)[0][0])
    return draft.device.device_id if draft.device else ""


def _keys(found: Backtest, draft: Rule, channel: Channel, device_id: str) -> list[str]:
    """The streams to draw: those that would have fired, else those that the rule is about."""
    fired = Counter(
        firing.key for firing in found.firings if firing.key and firing.device_id == (device_id or None)
    )
    if fired:
        return [key for key, _count in fired.most_common(MOST_LINES)]
    if not draft.source:
        return []
    index = SourceIndex([(source_levels(draft.source), draft)])
    return [key for key in stream_meta(channel) if index.at(key)][:MOST_LINES]
