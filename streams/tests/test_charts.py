import json
from datetime import UTC, datetime, timedelta

from servwatch_site.tests.street import StreetTestCase
from streams.charts import Source, chart, sparklines, step_for
from streams.live import PAYLOAD_MAX_BYTES, live_payload


def test_steps_are_even_and_enough() -> None:
    assert step_for(timedelta(hours=1), points=600) == 10
    assert step_for(timedelta(days=30), points=600) == 7200
    assert step_for(timedelta(days=5000), points=600) == 604800


def test_the_live_payload_is_cut_to_what_postgresql_takes() -> None:
    assert live_payload([1], [2], [4, 3]) == '{"a":[1],"c":[2],"d":[3,4]}'
    many = live_payload([1], [2], range(10_000))
    assert len(many) <= PAYLOAD_MAX_BYTES
    assert json.loads(many) == {"a": [1]}


class ChartTest(StreetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.begin = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)

    def send_series(self, values: list[str], *, every_s: int = 10) -> None:
        envelopes = ",".join(
            f'{{"at":"{(self.begin + timedelta(seconds=every_s * n)).isoformat()}","value":{value}}}'
            for n, value in enumerate(values)
        )
        (outcomes,) = self.street.process([self.incoming("json/web-1", f"[{envelopes}]")])
        assert {outcome.status for outcome in outcomes} == {"stored"}

    def test_few_records_are_shown_raw(self) -> None:
        self.send_series(['{"cpu":{"idle":90}}', '{"cpu":{"idle":80.5}}', '{"other":1}'])
        got = chart(
            Source.device(self.web1.pk), ["cpu:idle"], start=self.begin, end=self.begin + timedelta(hours=1)
        )
        assert got.step_s == 0
        assert got.times[1] == self.begin + timedelta(seconds=10)
        assert got.series["cpu:idle"].avg == [90.0, 80.5, None]

    def test_many_records_are_folded_and_spikes_survive(self) -> None:
        self.send_series([f'{{"n":{1000 if n == 77 else 1}}}' for n in range(200)])
        got = chart(
            Source.channel(self.servers.pk),
            ["n"],
            start=self.begin,
            end=self.begin + timedelta(seconds=2000),
            points=50,
        )
        assert got.step_s == 60
        assert len(got.times) == 34
        assert max(value for value in got.series["n"].max if value is not None) == 1000
        assert set(got.series["n"].min) == {1.0}

    def test_it_takes_what_is_a_number_and_leaves_out_the_rest(self) -> None:
        self.send_series(
            ['{"v":1}', '{"v":"text"}', '{"v":true}', '{"v":[1]}', "7", '{"value":8}', '{"a:b":9}']
        )
        keys = ["v", "value", "a\\:b"]
        end = self.begin + timedelta(hours=1)
        got = chart(Source.device(self.web1.pk), keys, start=self.begin, end=end)
        assert got.series["v"].avg == [1.0, None, 1.0, 1.0, None, None, None]
        assert got.series["value"].avg[4:6] == [7.0, 8.0]
        assert got.series["a\\:b"].avg[6] == 9.0

    def test_array_elements_pool_under_one_path(self) -> None:
        self.send_series(
            ['{"sensors":[{"c":40},{"c":50},{"c":"off"}]}', '{"sensors":{"c":[1,3]}}', '{"x":1}']
        )
        end = self.begin + timedelta(hours=1)
        got = chart(Source.device(self.web1.pk), ["sensors:c"], start=self.begin, end=end)
        assert got.series["sensors:c"].avg == [45.0, 2.0, None]

    def test_the_largest_numbers_do_not_overflow_an_average(self) -> None:
        self.send_series(['{"n":1.7e308}'] * 3)
        end = self.begin + timedelta(hours=1)
        got = chart(Source.device(self.web1.pk), ["n"], start=self.begin, end=end, points=2)
        assert set(got.series["n"].max) == {1e300}

    def test_an_empty_span_and_no_keys_are_no_error(self) -> None:
        assert chart(Source.device(self.web1.pk), [], start=self.begin, end=self.begin).times == []

    def test_sparklines_take_as_many_queries_however_many_devices_there_are(self) -> None:
        self.send_series([f'{{"n":{n}}}' for n in range(40)], every_s=60)
        with self.assertNumQueries(5):  # two of them begin and end the transaction
            lines = sparklines(
                [self.web1.pk, self.new1.pk],
                ["n"],
                start=self.begin,
                end=self.begin + timedelta(minutes=40),
                points=4,
            )
        assert lines[self.web1.pk]["n"] == [4.5, 14.5, 24.5, 34.5]
        assert lines[self.new1.pk]["n"] == [None] * 4
