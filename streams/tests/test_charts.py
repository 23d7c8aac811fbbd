from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from servwatch_site.errors import Code, ServwatchError
from servwatch_site.tests.cast import NOW, BaseTestCase
from streams import charts
from streams.charts import bucket_step_s, chart_series, sparklines
from streams.models import Record
from streams.storage import Kind, partitions_create, storage_kind


class ChartCase(BaseTestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        with connection.cursor() as cursor:
            if storage_kind(cursor) == Kind.PARTITIONS:
                partitions_create(cursor, [(NOW - timedelta(days=1)).date(), NOW.date()])

    def record(self, value: Any, *, at: datetime, digest: int = 1, form: int = 0) -> None:
        Record.objects.create(
            device_key=self.web1.pk,
            channel_key=self.servers.pk,
            at=at,
            digest=digest,
            form=form,
            value=value,
        )

    def records(self, values: list[Any], *, every_s: float = 10) -> None:
        for number, value in enumerate(values):
            self.record(value, at=NOW + timedelta(seconds=number * every_s))


class ChartSeriesTest(ChartCase):
    def chart(self, *keys: str, hours: float = 1, **options: Any) -> charts.Chart:
        return chart_series(
            device_key=self.web1.pk, keys=keys, start=NOW, end=NOW + timedelta(hours=hours), **options
        )

    def test_it_gives_few_records_as_they_are(self) -> None:
        self.records([{"cpu": {"idle": 90}}, {"cpu": {"idle": 80.5}}])
        chart = self.chart("cpu:idle")
        assert chart.step_s == 0
        (idle,) = chart.series
        assert idle.at == [NOW.timestamp(), NOW.timestamp() + 10]
        assert idle.average == [90, 80.5]
        assert idle.low is None and idle.high is None

    def test_it_keeps_a_spike_in_the_band_of_a_bucket(self) -> None:
        self.records([{"load1": 1.0}] * 5 + [{"load1": 13.0}])
        chart = self.chart("load1", step_s=60)
        (load,) = chart.series
        assert load.average == [3.0]
        assert load.low == [1.0] and load.high == [13.0]

    def test_it_chooses_buckets_when_records_are_many(self) -> None:
        self.records([{"load1": number} for number in range(30)])
        chart = self.chart("load1", max_points=20)
        assert chart.step_s == 300  # an hour in twenty points: the next usual width after 180 s
        assert chart.series[0].at[0] == NOW.timestamp()

    def test_it_reads_several_keys_at_once_and_leaves_out_what_is_no_number(self) -> None:
        self.records([{"a": 1, "b": "text", "up": True}, {"a": None, "up": False}])
        a, b, up = self.chart("a", "b", "up").series
        assert a.average == [1]
        assert b.average == []
        assert up.average == [1, 0]

    def test_it_pools_the_elements_of_an_array(self) -> None:
        self.records([{"disks": [{"used": 10}, {"used": 30}, {"name": "x"}]}, {"cores": [1, [2, 6]]}])
        used, cores = self.chart("disks:used", "cores").series
        assert (used.average, used.low, used.high) == ([20], [10], [30])
        assert (cores.average, cores.low, cores.high) == ([3], [1], [6])

    def test_it_pools_arrays_inside_buckets_too(self) -> None:
        self.records([{"cores": [1, 3]}, {"cores": 8}])
        (cores,) = self.chart("cores", step_s=60).series
        assert (cores.average, cores.low, cores.high) == ([4], [1], [8])

    def test_it_reads_a_bare_number_and_flat_values(self) -> None:
        self.record(21.5, at=NOW)
        self.record({"value": 22, "value2": 5}, at=NOW + timedelta(seconds=1), form=1)
        self.record([23, 25], at=NOW + timedelta(seconds=2))
        value, second = self.chart("value", "value2").series
        assert value.average == [21.5, 22, 24]
        assert second.average == [5]

    def test_it_finds_keys_with_letters_that_mean_something_elsewhere(self) -> None:
        self.records([{'a"b\\': {"c:d": 4, "%s'": 5}}])
        first, second = self.chart('a"b\\\\:c\\:d', "a\"b\\\\:%s'").series
        assert (first.average, second.average) == ([4], [5])

    def test_it_survives_numbers_that_overflow_a_sum(self) -> None:
        self.records([{"n": 1.7e308}] * 6)
        (n,) = self.chart("n", step_s=60).series
        assert n.average == [1e300]

    def test_it_breaks_the_line_where_nothing_came(self) -> None:
        for second in (0, 10, 20, 30, 120, 130):
            self.record({"a": second}, at=NOW + timedelta(seconds=second))
        (a,) = self.chart("a").series
        assert a.average == [0, 10, 20, 30, None, 120, 130]
        (a,) = self.chart("a", step_s=10).series
        assert a.average == [0, 10, 20, 30, None, 120, 130]

    def test_it_shows_no_gap_for_a_slow_sender(self) -> None:
        self.records([{"a": number} for number in range(6)], every_s=600)
        assert None not in self.chart("a", hours=2, step_s=60).series[0].average

    def test_it_reads_a_channel_over_all_its_devices(self) -> None:
        self.records([{"a": 1}])
        Record.objects.create(
            device_key=self.new1.pk, channel_key=self.servers.pk, at=NOW, digest=1, form=0, value={"a": 3}
        )
        chart = chart_series(
            channel_key=self.servers.pk, keys=["a"], start=NOW, end=NOW + timedelta(hours=1), step_s=60
        )
        assert (chart.series[0].average, chart.series[0].low, chart.series[0].high) == ([2], [1], [3])

    def test_it_keeps_the_bounds(self) -> None:
        self.record({"a": 1}, at=NOW - timedelta(microseconds=1))
        self.record({"a": 2}, at=NOW)
        self.record({"a": 3}, at=NOW + timedelta(hours=1))
        assert self.chart("a").series[0].average == [2]

    def test_it_answers_nothing_for_no_keys_or_no_span(self) -> None:
        assert self.chart().series == []
        assert self.chart("a", hours=0).series == []

    def test_it_says_so_when_reading_takes_too_long(self) -> None:
        self.records([{"a": number} for number in range(50)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(charts, "_limit_patience", _no_patience)
            with pytest.raises(ServwatchError) as refused:
                self.chart("a", step_s=60)
        assert refused.value.code == Code.INVALID_VALUE


class SparklinesTest(ChartCase):
    def test_it_gives_one_number_per_window_in_one_query(self) -> None:
        self.record({"a": 1}, at=NOW)
        self.record({"b": 9}, at=NOW + timedelta(seconds=1))
        self.record({"a": 2}, at=NOW + timedelta(seconds=31))
        with self.assertNumQueries(1):
            lines = sparklines(
                [self.web1.pk, self.new1.pk], keys=["a", "b"], start=NOW, end=NOW + timedelta(minutes=1), windows=3
            )
        assert lines == {self.web1.pk: {"a": [1, 2, None], "b": [9, None, None]}}

    def test_it_asks_nothing_without_devices(self) -> None:
        with self.assertNumQueries(0):
            assert sparklines([], keys=["a"], start=NOW, end=NOW) == {}


def test_it_takes_the_narrowest_usual_bucket() -> None:
    assert bucket_step_s(timedelta(hours=1), max_points=600) == 10
    assert bucket_step_s(timedelta(days=30), max_points=600) == 7200
    assert bucket_step_s(timedelta(days=36500), max_points=600) == 604800


def _no_patience() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '1ms'")
