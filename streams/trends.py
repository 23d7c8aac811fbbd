"""Rules that look ahead (`ahead_s`), judged by the worker from roll-ups; their alerts have the cause `trend`.

All is read first, without a lock; then each rule's alerts are settled in a transaction (events/trend_alerts.py).
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from channels.models import Stream, Tag
from devices.models import Device
from events.models import Rule
from events.selectors import rules_ahead
from events.sources import SourceIndex, source_levels
from events.trend import Point, Window, trend_of
from events.trend_alerts import Judged, trend_settle
from streams.backtest_reads import SeriesReader
from streams.folds import reading

logger = logging.getLogger(__name__)

DEVICES_AT_ONCE = 200
MOST_KEYS = 120
LIMIT_S = 20  # of one query
STALE_STEPS = 3  # without a point for so many, nothing is said of a device


def trends_check(*, now: datetime) -> int:
    """Begin and end what the rules that look ahead say; returns how many alerts began or ended."""
    changes = 0
    for rule in rules_ahead():
        try:
            judged = list(trends_of(rule, now=now))
            if judged:
                changes += trend_settle(rule, judged)
        except Exception:  # one rule's trouble is not the others'
            logger.exception("The trend of event %s could not be judged.", rule.pk)
    return changes


def paths_of(rule: Rule) -> list[Stream]:
    """The streams of its channel that a rule's source names, by key; MOST_KEYS at most."""
    if not rule.source or rule.channel_id is None:
        return []
    index = SourceIndex([(source_levels(rule.source), True)])
    streams = Stream.objects.filter(channel=rule.channel).order_by("key")
    return [stream for stream in streams if index.at(stream.key)]


def tags_of(rule: Rule) -> list[str]:
    """The tags under which a rule looks at its channel, "" for none among them."""
    if rule.tag:
        return [rule.tag]
    names = Tag.objects.filter(channel=rule.channel).order_by("name").values_list("name", flat=True)
    return ["", *names]


def devices_of(rule: Rule) -> list[tuple[int, str]]:
    """Key and id of the devices that a rule holds for: those mapped to its channel now, or the one it names."""
    devices = Device.objects.filter(account_id=rule.account_id, deleted_at=None)
    if rule.device_id is not None:
        devices = devices.filter(pk=rule.device_id)
    else:
        devices = devices.filter(channel=rule.channel, enabled=True)
    return list(devices.order_by("pk").values_list("pk", "device_id"))


def trends_of(rule: Rule, *, now: datetime) -> Iterator[Judged]:
    """Where the values that a rule watches are heading, of devices that send at present."""
    window = Window.ahead(timedelta(seconds=rule.ahead_s or 0))
    paths = [stream.key for stream in paths_of(rule) if stream.type != Stream.Type.STRING][:MOST_KEYS]
    devices = [key for key, _ in devices_of(rule)]
    for tag in tags_of(rule):
        for place in range(0, len(devices), DEVICES_AT_ONCE):
            keys = devices[place : place + DEVICES_AT_ONCE]
            for (device_key, path), points in points_read(rule, keys, paths, tag=tag, now=now).items():
                trend = trend_of(points, at=now)
                if trend is not None and now - points[-1].at <= STALE_STEPS * window.step:
                    yield Judged(device_key, tag, path, trend)


def points_read(
    rule: Rule, device_keys: Sequence[int], paths: Sequence[str], *, tag: str, now: datetime
) -> dict[tuple[int, str], list[Point]]:
    """Device key and key path -> what its trend is made of."""
    window = Window.ahead(timedelta(seconds=rule.ahead_s or 0))
    found: dict[tuple[int, str], list[Point]] = {}
    if not paths or rule.channel_id is None:
        return found
    reader = SeriesReader(rule.channel_id, tag, now - window.span - window.step, now)
    with reading(limit_s=LIMIT_S):
        for device_key, path, at, value in reader.averages(device_keys, paths, step=window.step):
            found.setdefault((device_key, path), []).append(Point(at, value))
    return found
