"""Charts and aggregates say the same, whether they are made from roll-ups or from the records alone."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from streams.aggregates import Asked, Interval, aggregates
from streams.charts import Chart, Source, chart
from streams.cover import Resolution
from streams.models import RollupMark
from streams.selectors import RecordFilter
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
