"""A rule over past data before it is saved: when it would have fired, and for how long.

Values: streams/backtest_values.py; silence: streams/backtest_silence.py; a rule that looks ahead is judged once an
hour. Everything counts as if it had come at the time it was measured, and nothing from before the span is known.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from django.db import OperationalError
from django.utils.translation import gettext as _

from channels.keys import Scalar
from channels.models import Stream
from events.conditions import Condition, number_of_text
from events.machine import Fired, Phase, State, step
from events.models import Cause, Rule
from events.replay import Spell
from events.trend import Point, Trend, Window, trend_condition, trend_of, trend_reading
from streams.backtest_patience import Patience, TimeIsOver
from streams.backtest_reads import SeriesReader
from streams.backtest_silence import SilenceOf, silences, usual_interval_s
from streams.backtest_values import Budget, ValuesLook
from streams.cover import HOUR, Resolution
from streams.folds import reading
from streams.models import RollupMark
from streams.trends import MOST_KEYS, devices_of, paths_of, tags_of
from tokens.models import Account

MOST_DAYS = 90
MOST_FIRINGS = 500
MOST_TAGS = 20
PATIENCE_S = 0.8  # of a back-test, unless more is asked for
MOST_PATIENCE_S = 10
SILENCE_LOOKS = 100  # devices, times key paths and tags
TREND_LOOKS = 20
LEARNED_INTERVALS, LEARNED_LEAST_S = (
    5.0,
    60.0,
)  # when the rule says "as long as is usual", as events/silence.py has it

T = TypeVar("T")


@dataclass(frozen=True)
class Firing:
    """One alert that there would have been.

    `tag` and, of a silent device, `key` are "" for none. `since`: from when the condition had held. `until` None: it
    would still fire. `peak`: the value farthest beyond the threshold, None of silence. `exact`: the times are those
    of records, else within a minute of them.
    """

    device_key: int
    device_id: str
    tag: str
    key: str
    cause: Cause
    since: datetime
    at: datetime
    until: datetime | None
    peak: Scalar
    exact: bool


@dataclass(frozen=True)
class Backtest:
    """What a rule would have done between `start` and `end`.

    `firings`: the newest MOST_FIRINGS, the oldest of them first; `firing_count` are all that were found.
    `resolution`: the coarsest stored data that was used. `devices_looked` of `devices` and `keys_looked` of `keys`
    were looked at. `notes`: sentences for people about what could not be looked at or said. `is_cut`: since the time
    was over; with more of it there may be more to say.
    """

    start: datetime
    end: datetime
    firings: list[Firing] = field(default_factory=list)
    firing_count: int = 0
    resolution: Resolution = Resolution.RAW
    devices_looked: int = 0
    devices: int = 0
    keys_looked: int = 0
    keys: int = 0
    notes: list[str] = field(default_factory=list)
    is_cut: bool = False


def backtest(
    account: Account,
    draft: Rule,
    *,
    now: datetime,
    days: int = 30,
    patience_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
) -> Backtest:
    """What this rule, saved or not (events.services.rule_draft), would have done in the `days` before `now`.

    Nothing is written, nobody is told. After `patience_s` by `clock` it ends with what it has found.
    """
    channel = draft.channel
    if channel is None or channel.account_id != account.pk or channel.deleted_at is not None:
        return Backtest(
            now, now, notes=[_("The event names no channel, so that there is nothing to look at.")]
        )
    span = min(timedelta(days=min(days, MOST_DAYS)), channel.retention)
    patience = Patience(min(patience_s, MOST_PATIENCE_S), clock)
    return _Look(draft, patience, start=now - span, end=now).run()


def _averages(
    reader: SeriesReader, devices: Sequence[int], paths: Sequence[str], step: timedelta
) -> list[tuple[int, str, datetime, float]]:
    return list(reader.averages(devices, paths, step=step))


class _Look:
    """The work on one back-test."""

    def __init__(self, rule: Rule, patience: Patience, *, start: datetime, end: datetime) -> None:
        self._rule = rule
        self._patience = patience
        self._is_cut = False
        self._start, self._end = start, end
        self._devices = devices_of(rule)
        self._ids = dict(self._devices)
        self._keys = list(self._ids)
        self._streams = paths_of(rule)
        self._tags = tags_of(rule)[:MOST_TAGS]
        self._found: list[Firing] = []
        self._notes: list[str] = []
        self._looked = len(self._keys)
        self._resolution = Resolution.RAW

    def run(self) -> Backtest:
        rule = self._rule
        if self._keys:
            if rule.source and not self._streams:
                self._notes.append(_("No message of this channel had such a key yet."))
            if rule.operator and rule.ahead_s is not None:
                self._trend(timedelta(seconds=rule.ahead_s))
            elif rule.operator:
                self._values()
            if rule.absent_s is not None:
                self._silence(rule.absent_s)
        else:
            self._notes.append(_("No device is mapped to this channel."))
        self._say_what_is_missing()
        self._found.sort(key=lambda one: (one.at, one.device_id, one.tag, one.key))
        return Backtest(
            self._start,
            self._end,
            firings=self._found[-MOST_FIRINGS:],
            firing_count=len(self._found),
            resolution=self._resolution,
            devices_looked=self._looked,
            devices=len(self._keys),
            keys_looked=min(len(self._streams), MOST_KEYS),
            keys=len(self._streams),
            notes=self._notes,
            is_cut=self._is_cut,
        )

    def _values(self) -> None:
        rule, budget = self._rule, Budget()
        whole = self._patience if rule.absent_s is None else self._patience.part(2)  # silence wants some, too
        condition = Condition.of(rule.operator, rule.threshold, rule.clear_threshold, rule.for_s)
        streams = self._streams[:MOST_KEYS]
        rolled = (Stream.Type.NUMBER, Stream.Type.BOOLEAN)
        has_number = number_of_text(rule.threshold) is not None
        numeric = [stream.key for stream in streams if has_number and stream.type in rolled]
        others = [stream.key for stream in streams if stream.key not in set(numeric)]
        if not streams:
            return
        for place, tag in enumerate(self._tags):
            patience = whole.part(len(self._tags) - place)
            budget.left_s = patience.left_s
            look = ValuesLook(self._reader(tag), condition, self._keys, budget)
            self._tried(partial(look.run, numeric=numeric, others=others), patience)
            for one in look.found:
                self._add(one.device_key, tag, one.path, Cause.VALUE, [one.spell])
            self._looked = min(self._looked, look.looked)
            self._resolution = max(self._resolution, look.resolution, key=list(Resolution).index)
            if look.looked < len(self._keys) or look.values_from is not None:
                self._is_cut = True
            if look.values_from is not None:
                sentence = _("The time was enough for values from %(time)s (UTC) on.")
                self._notes.append(sentence % {"time": f"{look.values_from:%Y-%m-%d %H:%M}"})
            if look.texts_from is not None:
                sentence = _("Texts are only looked at in the newest records, here from %(time)s (UTC) on.")
                self._notes.append(sentence % {"time": f"{look.texts_from:%Y-%m-%d %H:%M}"})

    def _silence(self, absent_s: int) -> None:
        rule = self._rule
        names = [(stream.key, [stream.pk, -stream.pk]) for stream in self._streams[:MOST_KEYS]]
        if not rule.source:
            names = [("", [])]
        tags: list[str | None] = [*self._tags] if rule.source or rule.tag else [None]
        devices = self._keys[: max(SILENCE_LOOKS // max(len(names) * len(tags), 1), 1)]
        rolled = RollupMark.objects.exclude(rolled_until=None).exists()
        looked = 0
        for device_key in devices:
            absent = timedelta(seconds=absent_s) if absent_s else self._usual(device_key)
            if absent is None:
                self._notes.append(
                    _("How often %(device)s usually sends is not known yet.")
                    % {"device": self._ids[device_key]}
                )
                looked += 1
                continue
            asked = [
                SilenceOf(rule.channel_id or 0, device_key, tag, path, stream_keys)
                for tag in tags
                for path, stream_keys in names
            ]
            if not all(self._silence_of(one, absent, rolled) for one in asked):
                break
            looked += 1
        self._looked = min(self._looked, looked)

    def _silence_of(self, one: SilenceOf, absent: timedelta, rolled: bool) -> bool:
        """Whether the time was enough."""
        spells = self._tried(
            partial(
                silences,
                one,
                low=self._start,
                high=self._end,
                absent=absent,
                rolled=rolled,
                most=MOST_FIRINGS,
            ),
            self._patience,
        )
        self._add(one.device_key, one.tag or "", one.path, Cause.SILENCE, spells or ())
        return spells is not None

    def _trend(self, ahead: timedelta) -> None:
        """Judged at the end of each hour, by what was known then."""
        window = Window.ahead(ahead)
        paths = [stream.key for stream in self._streams if stream.type != Stream.Type.STRING][:MOST_KEYS]
        devices = self._keys[: max(TREND_LOOKS // max(len(paths) * len(self._tags), 1), 1)]
        self._looked = min(self._looked, len(devices))
        self._resolution = Resolution.HOUR
        known_from = self._start
        for place, tag in enumerate(self._tags):
            patience = self._patience.part(len(self._tags) - place)
            reader = self._reader(tag, start=self._start - window.span)
            width = max(window.step, HOUR / 4)
            rows = self._tried(partial(_averages, reader, devices, paths, width), patience)
            if rows is None:
                self._looked = 0
            lines: dict[tuple[int, str], list[Point]] = {}
            for device_key, path, at, value in rows or ():
                lines.setdefault((device_key, path), []).append(Point(at, value))
            for number, ((device_key, path), points) in enumerate(lines.items()):
                trends = self._trends(points, window.span, patience.part(len(lines) - number))
                if trends and trends[0][0] > self._first_hour:
                    known_from = max(known_from, trends[0][0])
                self._add(device_key, tag, path, Cause.TREND, self._trend_spells(trends, ahead))
        if known_from > self._start:
            self._is_cut = True
            sentence = _("The time was enough for trends from %(time)s (UTC) on.")
            self._notes.append(sentence % {"time": f"{known_from:%Y-%m-%d %H:%M}"})

    @property
    def _first_hour(self) -> datetime:
        return self._start.replace(minute=0, second=0, microsecond=0) + HOUR

    def _trends(
        self, points: Sequence[Point], span: timedelta, patience: Patience
    ) -> list[tuple[datetime, Trend | None]]:
        """The trend at each hour, in order; the newest are made first, as far as the time goes."""
        found: list[tuple[datetime, Trend | None]] = []
        times = [point.at for point in points]
        at = self._end.replace(minute=0, second=0, microsecond=0)
        while at >= self._first_hour and (not found or patience.left_s() > 0):
            some = points[bisect_left(times, at - span) : bisect_left(times, at)]
            found.append((at, trend_of(some, at=at)))
            at -= HOUR
        return found[::-1]

    def _trend_spells(self, trends: Iterable[tuple[datetime, Trend | None]], ahead: timedelta) -> list[Spell]:
        rule = self._rule
        fires = Condition.of(rule.operator, rule.threshold, rule.clear_threshold, 0).fires
        asked = trend_condition(ahead, timedelta(seconds=rule.for_s))
        state: State | None = None
        spells: list[Spell] = []
        for at, trend in trends:
            if trend is None:
                continue
            state, transition = step(asked, state, trend_reading(trend, fires))
            if isinstance(transition, Fired):
                spells.append(Spell(transition.since, at, None, trend.value, exact=False))
            elif transition is not None:
                spells[-1].until = at
            elif state is not None and state.phase is Phase.FIRING:
                spells[-1].peak = trend.value
        return spells

    def _reader(self, tag: str, *, start: datetime | None = None) -> SeriesReader:
        return SeriesReader(self._rule.channel_id or 0, tag, start or self._start, self._end)

    def _usual(self, device_key: int) -> timedelta | None:
        seconds = usual_interval_s(device_key)
        if seconds is None:
            return None
        return timedelta(seconds=max(LEARNED_INTERVALS * seconds, LEARNED_LEAST_S))

    def _tried(self, look: Callable[[], T], patience: Patience) -> T | None:
        """What a look found; what takes too long is given up, and said."""
        with suppress(OperationalError, TimeIsOver), reading(), patience.limits_queries():
            return look()
        self._is_cut = True
        sentence = _("A part took too long to look at and is left out; name one device or fewer days.")
        if sentence not in self._notes:
            self._notes.append(sentence)
        return None

    def _add(self, device_key: int, tag: str, key: str, cause: Cause, spells: Iterable[Spell]) -> None:
        for one in spells:
            self._found.append(
                Firing(
                    device_key,
                    self._ids[device_key],
                    tag,
                    key,
                    cause,
                    one.since,
                    one.at,
                    one.until,
                    one.peak,
                    one.exact,
                )
            )

    def _say_what_is_missing(self) -> None:
        if self._looked < len(self._keys):
            sentence = _("Looked at %(looked)d of %(all)d devices; name one to look at it in full.")
            self._notes.append(sentence % {"looked": self._looked, "all": len(self._keys)})
        if len(self._streams) > MOST_KEYS:
            sentence = _("Looked at %(looked)d of %(all)d keys.")
            self._notes.append(sentence % {"looked": MOST_KEYS, "all": len(self._streams)})
        if any(not one.exact and one.cause == Cause.VALUE for one in self._found):
            self._notes.append(_("Some of the times are known to the minute only."))
