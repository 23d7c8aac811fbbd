"""Charts and aggregates say the same, whether they are made from roll-ups or from the records alone."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from devices.services import device_update
from servwatch_site.tests.cast import NOW
from streams.aggregates import Asked, Interval, aggregates
from streams.charts import Chart, Source, chart, sparklines
from streams.cover import Resolution
from streams.models import RollupDue, RollupMark
from streams.purges import records_delete
from streams.rollup_rows import EVERY_DEVICE
from streams.selectors import RecordFilter
from streams.tests.test_aggregates import AggregateCase
from streams.tests.test_rollups import HOUR, MINUTE, RollupCase

KEYS = ["cpu:user", "cpu:idle", "load1", "up", "temps", "fans:rpm", "value", "disks:a\\:b:used", "none"]


class ReadCase(RollupCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = datetime.now(UTC).replace(minute=25, second=40, microsecond=0) - HOUR
        self.begin = self.now - 7 * HOUR
        self.web2 = self.device("web-2")
        for name, tag, count in (
            ("web-1", "", 400),
            ("web-1", "blue", 90),
            ("web-2", "", 400),
            ("web-2", "red", 40),
        ):
            self.store(name, *self.some(count), tag=tag)

    def some(self, count: int, *, begin: datetime | None = None, span: timedelta = 7 * HOUR) -> Iterator[Any]:
        """Records at odd times, some beyond what will be rolled up."""
        for _ in range(count):
            yield (begin or self.begin) + self.random.random() * (span + 20 * MINUTE), self.metrics()

    def both(self, read: Callable[[], Any]) -> tuple[Any, Any]:
        """What it says with roll-ups, and without any."""
        with_rollups = read()
        mark = RollupMark.objects.get()
        RollupMark.objects.all().delete()
        without = read()
        mark.save(force_insert=True)
        return with_rollups, without

    def narrows(self) -> Iterator[RecordFilter]:
        low, high = self.begin + 17 * MINUTE, self.now + 13 * MINUTE
        whole = RecordFilter(self.servers.pk, low, high)
        yield whole
        yield RecordFilter(self.servers.pk, datetime.min.replace(tzinfo=UTC), high)
        yield RecordFilter(self.servers.pk, low, high, tag="blue")
        yield RecordFilter(self.servers.pk, low, high, device_keys=[self.web1.pk, self.web2.pk])
        yield RecordFilter(self.servers.pk, low, high, device_keys=[self.web1.pk], tag="blue")
        yield RecordFilter(self.servers.pk, low, high, device_keys=[])

    def assert_charts_agree(self, *resolutions: Resolution) -> None:
        seen = set()
        for source in (
            Source.device(self.web1.pk),
            Source.channel(self.servers.pk),
            Source.channel(self.backups.pk),
        ):
            for points in (3, 8, 50, 600):
                for start in (self.begin, self.begin + timedelta(seconds=1234.5)):

                    def read(source: Source = source, points: int = points, start: datetime = start) -> Chart:
                        return chart(source, KEYS, start=start, end=self.now + 10 * MINUTE, points=points)

                    rolled, raw = self.both(read)
                    assert raw.resolution == Resolution.RAW
                    assert (rolled.step_s, rolled.times, rolled.series) == (raw.step_s, raw.times, raw.series)
                    seen.add(rolled.resolution)
        assert seen >= set(resolutions)

    def assert_aggregates_agree(self, *resolutions: Resolution) -> None:
        seen = set()
        intervals = (None, "90s", "5m", "90m", "1h", "7h", "1d", "1w")
        zones = ("UTC", "Asia/Tokyo", "Asia/Kathmandu", "Australia/Lord_Howe")
        for number, (narrow, interval) in enumerate(product(self.narrows(), intervals)):
            zone = ZoneInfo(zones[number % len(zones)])

            def read(
                narrow: RecordFilter = narrow, text: str | None = interval, zone: ZoneInfo = zone
            ) -> Any:
                asked = Asked(
                    ("avg", "sum", "min", "max", "count"),
                    interval=None if text is None else Interval(int(text[:-1]), text[-1]),
                )
                made = aggregates(narrow, asked, zone=zone, now=self.now)
                return made.resolution, list(made.entries)

            (resolution, rolled), (_, raw) = self.both(read)
            assert rolled == raw
            seen.add(resolution)
        assert seen >= set(resolutions)


class AgreeTest(ReadCase):
    def test_charts_agree_up_to_the_last_record(self) -> None:
        self.roll()
        self.assert_charts_agree(*Resolution)

    def test_aggregates_agree_in_every_zone(self) -> None:
        self.roll()
        self.assert_aggregates_agree(*Resolution)

    def test_late_and_removed_records_are_right_before_they_are_corrected(self) -> None:
        self.roll()
        self.store("web-1", *self.some(5), (self.now - 3 * HOUR, {"cpu": {"user": 10**6}}))
        assert records_delete(RecordFilter(self.servers.pk, self.now - 2 * HOUR, self.now - HOUR)) > 0
        assert RollupDue.objects.exists()
        self.assert_charts_agree(Resolution.HOUR)
        self.roll()
        assert not RollupDue.objects.exists()
        self.assert_charts_agree(*Resolution)

    def test_a_channel_removed_as_a_whole_is_read_from_the_records_at_once(self) -> None:
        self.roll()
        RollupDue.objects.create(
            device_key=EVERY_DEVICE, channel_key=self.servers.pk, low=self.begin, high=self.now
        )
        for source in (Source.device(self.web1.pk), Source.channel(self.servers.pk)):
            got = chart(source, KEYS, start=self.begin, end=self.now - 30 * MINUTE, points=8)
            assert got.resolution == Resolution.RAW

    def test_a_device_that_was_moved_keeps_its_chart(self) -> None:
        device_update(self.web1, changes={"channel": self.backups}, now=self.now)
        self.store("web-1", *self.some(50))
        self.roll()
        self.assert_charts_agree(*Resolution)

    def test_sparklines_agree(self) -> None:
        self.roll()
        for end in (self.now, self.now + 7 * MINUTE):

            def read(end: datetime = end) -> Any:
                return sparklines([self.web1.pk, self.web2.pk], KEYS, start=end - HOUR, end=end)

            rolled, raw = self.both(read)
            assert rolled == raw
            assert any(value is not None for value in rolled[self.web1.pk]["cpu:user"])

    def test_a_channel_with_too_many_streams_is_read_from_the_records(self) -> None:
        self.roll()
        with patch("streams.folds.STREAMS_PER_CHANNEL", 3):
            got = chart(
                Source.channel(self.servers.pk),
                ["load1", "unknown"],
                start=self.begin,
                end=self.now,
                points=8,
            )
        assert got.resolution == Resolution.RAW

    def test_a_chart_of_many_records_has_steps_of_minutes(self) -> None:
        self.roll()
        with patch("streams.charts.MOST_RAW", 60):
            got = chart(
                Source.channel(self.servers.pk), ["load1"], start=self.now - HOUR, end=self.now, points=90
            )
        assert (got.step_s, got.resolution) == (60, Resolution.MINUTE)


class NameTest(AggregateCase):
    def test_the_answer_by_interval_names_its_resolution(self) -> None:
        begin = NOW - 5 * HOUR
        for hour in range(5):
            self.add(begin + hour * HOUR, {"n": hour})
        RollupMark.objects.create(late_from=NOW, rolled_until=NOW)
        for interval, resolution in (("30s", "raw"), ("5m", "minute"), ("1h", "hour")):
            assert self.ask(f"interval={interval}")["resolution"] == resolution
        assert self.ask("interval=1h&aggregate=p50")["resolution"] == "raw"
