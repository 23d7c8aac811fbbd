"""Back-tests against every record run through the machine one by one."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from django.db import connection

from channels.keys import key_split
from devices.models import DeviceTraffic
from events.conditions import Condition
from events.evaluation import scalars_at
from events.machine import Fired, Reading, State, step
from events.models import Alert, Cause, Rule
from events.replay import NO_AGE
from events.services import rule_draft
from streams.backtest import Backtest, backtest
from streams.backtest_values import Budget
from streams.cover import Resolution
from streams.tests.test_rollups import HOUR, MINUTE, SECOND, RollupCase

Line = tuple[str, str, str]  # device, tag, key
Times = list[tuple[datetime, datetime | None]]


class BacktestCase(RollupCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = datetime.now(UTC).replace(minute=25, second=40, microsecond=0) - HOUR
        self.begin = self.now - 8 * HOUR

    def draft(self, source: str = "load", operator: str = ">", threshold: str = "60", **more: Any) -> Rule:
        changes = {"channel": self.servers, "source": source, "operator": operator, "threshold": threshold}
        return rule_draft(self.owner, changes=changes | more)

    def run_it(self, draft: Rule, *, days: int = 1) -> Backtest:
        """With a clock that stands still, so that a busy machine changes nothing."""
        return backtest(self.owner, draft, now=self.now, days=days, patience_s=10, clock=lambda: 0.0)

    def found(self, draft: Rule, **more: Any) -> dict[Line, Times]:
        times: dict[Line, Times] = {}
        for one in self.run_it(draft, **more).firings:
            times.setdefault((one.device_id, one.tag, one.key), []).append((one.at, one.until))
        return times

    def expected(self, draft: Rule, *paths: str) -> dict[Line, Times]:
        """By every record."""
        condition = Condition.of(draft.operator, draft.threshold, draft.clear_threshold, draft.for_s)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT d.device_id, coalesce(r.tag, ''), r.at, r.value::text FROM streams_record r"
                " JOIN devices_device d ON d.id = r.device_key WHERE r.channel_key = %s ORDER BY r.at, r.digest",
                [self.servers.pk],
            )
            rows = cursor.fetchall()
        states: dict[Line, State | None] = {}
        found: dict[Line, Times] = {}
        for device, tag, at, text in rows:
            for path in paths:
                line, values = (device, tag, path), scalars_at(json.loads(text), key_split(path))
                if not values:
                    continue
                states[line], transition = step(condition, states.get(line), Reading(at, values, NO_AGE))
                if isinstance(transition, Fired):
                    found.setdefault(line, []).append((at, None))
                elif transition is not None:
                    found[line][-1] = (found[line][-1][0], at)
        return found

    def wander(self, name: str, *, count: int = 2_000, tag: str = "", level: float = 50) -> None:
        """Records every ten seconds or so from `begin` on, of which some are longer apart."""
        at, value, some = self.begin, level, []
        for number in range(count):
            gap = self.random.random() < 0.004
            at += 11 * MINUTE if gap else self.random.choice([5, 10, 10, 15]) * SECOND
            if at >= self.now:
                break
            value = min(max(value + self.random.gauss(0, 4), 0), 100)
            told: dict[str, Any] = {"load": round(value, 1), "n": number, "disks": {}}
            told["disks"] = {name: {"pct": round(value + k, 2)} for k, name in enumerate(("/", "/var"))}
            told["up"], told["mode"] = value < 70, "hot" if value > 70 else "cold"
            some.append((at, told))
        for place in range(0, len(some), 500):
            self.store(name, *some[place : place + 500], tag=tag)

    @contextmanager
    def many(self, **budget: Any) -> Iterator[None]:
        """Few records count as many, so that roll-ups are read."""
        with patch("streams.backtest_values.FEW_RECORDS", 100), patch("streams.backtest.Budget") as made:
            made.return_value = Budget(**budget)
            yield


class ValuesTest(BacktestCase):
    def test_it_says_what_every_record_says(self) -> None:
        self.device("web-2")
        self.device("idle")
        self.wander("web-1")
        self.wander("web-1", tag="blue", count=600)
        self.wander("web-2", level=20)
        self.roll()
        for more in (
            {},
            {"for_s": 45},
            {"for_s": 300},
            {"clear_threshold": "50", "for_s": 120},
            {"operator": "<", "threshold": "30"},
            {"operator": "<=", "threshold": "30", "clear_threshold": "40"},
            {"operator": "!=", "threshold": "0"},
        ):
            draft = self.draft(**more)
            expected = self.expected(draft, "load")
            assert expected
            assert self.found(draft) == expected, more  # from records
            with self.many():
                found = self.run_it(draft)
            assert found.resolution == Resolution.MINUTE
            assert all(one.exact for one in found.firings) and found.notes == []
            with self.many():
                assert self.found(draft) == expected, more
        assert not Alert.objects.exists() and not Rule.objects.exists()

    def test_hours_of_firing_need_no_look_at_their_minutes(self) -> None:
        self.begin = self.now - 30 * HOUR
        values = [50] * 20 + [90] * 700 + [61] * 300 + [95] + [40] * 30 + [99] * 500
        some = [(self.begin + n * MINUTE, {"load": value}) for n, value in enumerate(values)]
        for place in range(0, len(some), 500):
            self.store("web-1", *some[place : place + 500])
        self.roll()
        for more in ({}, {"for_s": 120}, {"for_s": 5000}, {"clear_threshold": "45"}):
            draft = self.draft(**more)
            with self.many():
                found = self.run_it(draft, days=2).firings
            expected = self.expected(draft, "load")["web-1", "", "load"]
            assert [(one.at, one.until) for one in found] == expected, more
            assert [one.peak for one in found] == [95, 99]

    def test_the_span_begins_and_ends_within_an_hour(self) -> None:
        self.begin = self.now - 3 * HOUR
        some = [(self.begin + n * 30 * SECOND, {"load": 70 if n % 50 < 20 else 30}) for n in range(360)]
        self.store("web-1", *some)
        self.roll()
        draft = self.draft(for_s=90)
        reader_days = timedelta(hours=2, minutes=13) / timedelta(days=1)
        with self.many():
            found = backtest(self.owner, draft, now=self.now, days=reader_days)  # type: ignore[arg-type]
        start = self.now - timedelta(hours=2, minutes=13)
        values = [(at, value["load"]) for at, value in some if at >= start]
        assert found.start == start
        state, expected = None, []
        condition = Condition.of(">", "60", None, 90)
        for at, value in values:
            state, transition = step(condition, state, Reading(at, [value], NO_AGE))
            if isinstance(transition, Fired):
                expected.append(at)
        assert [one.at for one in found.firings] == expected

    def test_patterns_yes_and_no_texts_tags_and_single_devices(self) -> None:
        self.device("web-2")
        self.wander("web-1", count=900)
        self.wander("web-1", tag="blue", count=500)
        self.wander("web-2", count=900, level=70)
        self.roll()
        for source, threshold, operator, paths in (
            ("disks:*:pct", "70", ">", ("disks:/:pct", "disks:/var:pct")),
            ("up", "1", "<", ("up",)),
            ("up", "false", "=", ("up",)),
            ("mode", "hot", "=", ("mode",)),
            ("n", "250", "=", ("n",)),
        ):
            draft = self.draft(source, operator, threshold)
            expected = self.expected(draft, *paths)
            assert expected, source
            with self.many():
                assert self.found(draft) == expected, source
        draft = self.draft(device=self.web1, tag="blue", threshold="50")
        expected = {
            line: times
            for line, times in self.expected(draft, "load").items()
            if line[:2] == ("web-1", "blue")
        }
        with self.many():
            assert self.found(draft) == expected

    def test_without_any_roll_ups_it_says_the_same(self) -> None:
        self.wander("web-1", count=700)
        draft = self.draft(for_s=60)
        with self.many():
            assert self.found(draft) == self.expected(draft, "load")

    def test_minutes_alone_are_right_to_a_minute_and_it_says_so(self) -> None:
        self.wander("web-1")
        self.roll()
        draft = self.draft(clear_threshold="50")
        with self.many(raw_minutes=0):
            found = self.run_it(draft)
        ends = [
            (at, until or self.now) for times in self.expected(draft, "load").values() for at, until in times
        ]
        for one in found.firings:
            assert any(low - MINUTE <= one.at <= high for low, high in ends)
        for low, high in ends:
            assert any(
                one.at - MINUTE <= low and (one.until or self.now) + MINUTE >= high for one in found.firings
            )
        assert not any(one.exact for one in found.firings)
        assert len(found.notes) == 1

    def test_when_the_time_is_over_the_newest_hours_are_the_answer_and_it_says_from_when(self) -> None:
        self.wander("web-1")
        self.roll()
        draft = self.draft()
        whole = self.expected(draft, "load")["web-1", "", "load"]
        ticks = itertools.count()
        with self.many(), patch("streams.backtest_values.HOURS_AT_ONCE", 1):
            # Each look at the clock takes a tick: so many that reading ends after the first hours.
            found = backtest(
                self.owner, draft, now=self.now, days=1, patience_s=10, clock=lambda: next(ticks) / 2
            )
        (note,) = [note for note in found.notes if "values from" in note]
        since = datetime.strptime(note, "The time was enough for values from %Y-%m-%d %H:%M (UTC) on.")
        since = since.replace(tzinfo=UTC)
        assert found.is_cut and self.begin < since < self.now
        assert (found.devices_looked, found.devices) == (1, 1)
        assert found.firings and all(one.at >= since for one in found.firings)
        later = [one.at for one in found.firings][1:]  # what goes on at the cut seems to begin there
        assert later and all(any(abs(at - known) <= MINUTE for known, _ in whole) for at in later)

    def test_when_the_time_is_over_it_says_how_many_devices_were_looked_at(self) -> None:
        for number in range(4):
            self.device(f"web-{number + 2}")
            self.wander(f"web-{number + 2}", count=700)
        self.roll()
        ticks = itertools.count()
        with self.many(), patch("streams.backtest_values.FIRST_DEVICES", 1):
            found = backtest(
                self.owner, self.draft(), now=self.now, days=1, patience_s=10, clock=lambda: next(ticks) / 5
            )
        assert found.is_cut and 0 < found.devices_looked < found.devices == 5
        assert f"Looked at {found.devices_looked} of 5 devices" in " ".join(found.notes)

    def test_without_any_time_it_says_that_nothing_was_looked_at(self) -> None:
        self.wander("web-1")
        found = backtest(self.owner, self.draft(), now=self.now, days=1, patience_s=0, clock=lambda: 0.0)
        assert found.is_cut and found.devices_looked == 0 and found.firings == []
        assert any("took too long" in note for note in found.notes)

    def test_it_says_how_many_devices_it_looked_at(self) -> None:
        for number in range(2, 6):
            self.device(f"web-{number}")
            self.wander(f"web-{number}", count=400)
        self.roll()
        with self.many(device_hours=9):
            found = self.run_it(self.draft(threshold="1"))
        assert (found.devices, found.devices_looked) in {(5, n) for n in range(1, 5)}
        assert any("devices" in note for note in found.notes)
        with self.many():  # nothing fires anywhere: the channel's own hours say so
            found = self.run_it(self.draft(threshold="1000"))
        assert (found.devices_looked, found.firings, found.resolution) == (5, [], Resolution.HOUR)

    def test_what_is_not_there_is_said(self) -> None:
        assert self.run_it(self.draft("nothing")).notes
        assert self.run_it(self.draft(channel=self.backups)).notes
        strange = rule_draft(
            self.owner, changes={"channel": self.servers, "source": "n", "operator": ">", "threshold": "1"}
        )
        assert backtest(self.stranger, strange, now=self.now).firings == []


class SilenceTest(BacktestCase):
    def silences(self, **more: Any) -> list[tuple[str, datetime, datetime | None]]:
        draft = rule_draft(self.owner, changes={"channel": self.servers, **more})
        found = self.run_it(draft)
        assert {one.cause for one in found.firings} <= {Cause.SILENCE}
        return [(one.key, one.at, one.until) for one in found.firings]

    def test_gaps_are_silences_however_they_are_looked_for(self) -> None:
        times = [self.begin + 10 * n * SECOND for n in range(60)]
        times += [times[-1] + 300 * SECOND, times[-1] + 4 * HOUR]
        times += [times[-1] + 10 * n * SECOND for n in range(1, 60)]
        self.store(
            "web-1", *((at, {"n": n, "extra": 1} if n % 30 else {"n": n}) for n, at in enumerate(times))
        )
        self.roll()
        last = times[-1]
        pairs = [(low, high) for low, high in zip(times, [*times[1:], None], strict=True)]
        for absent_s in (60, 240, 400, 2 * 3600 + 1800, 4 * 3600 - 301):
            absent = absent_s * SECOND
            expected = [("", low + absent, high) for low, high in pairs if (high or self.now) - low >= absent]
            assert self.silences(absent_s=absent_s) == expected, absent_s
        assert last + 240 * SECOND in [at for _, at, until in self.silences(absent_s=240) if until is None]

    def test_a_stream_may_be_silent_while_its_device_sends(self) -> None:
        times = [self.begin + 60 * n * SECOND for n in range(240)]
        silent = [n for n in range(240) if 30 < n < 60]
        self.store(
            "web-1", *((at, {"n": n} | ({} if n in silent else {"k": n})) for n, at in enumerate(times))
        )
        self.roll()
        self.now = times[-1] + 10 * SECOND
        for absent_s in (120, 600):
            assert self.silences(source="k", absent_s=absent_s) == [
                ("k", times[30] + absent_s * SECOND, times[60])
            ]
        assert self.silences(absent_s=600) == []

    def test_the_usual_cadence_is_that_of_the_device(self) -> None:
        times = [self.begin + 60 * n * SECOND for n in range(20)]
        self.store("web-1", *((at, {"n": 1}) for at in times))
        DeviceTraffic.objects.filter(device_key=self.web1.pk).update(usual_interval_s=60)
        assert self.silences(absent_s=0) == [("", times[-1] + 300 * SECOND, None)]


class TrendTest(BacktestCase):
    def test_a_disk_that_fills_would_have_been_told_ahead(self) -> None:
        begin = self.now - 60 * HOUR
        some = [(begin + n * 10 * MINUTE, {"pct": 40 + n / 6 * 0.9}) for n in range(60 * 6)]
        self.store("web-1", *some)
        self.roll()
        draft = self.draft("pct", ">", "90", ahead_s=86_400)
        (one,) = self.run_it(draft, days=3).firings
        assert one.cause == Cause.TREND and one.until is None
        reached = begin + (90 - 40) / 0.9 * HOUR
        assert 22 * HOUR <= reached - one.at <= 26 * HOUR
