import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest

from channels.keys import flatten
from channels.models import Channel, Stream
from devices.models import Device
from devices.services import device_create
from servwatch_site.tests.api import ApiTestCase, read
from servwatch_site.tests.cast import NOW
from streams.aggregates import Buckets, Interval, interval_for
from streams.formats import nested, nesting_places
from streams.tests.records import record_add
from tokens.services import account_update

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
END = "end=2026-11-24 00:00"
STREAM = "/v2/stream/0"


class AggregateCase(ApiTestCase):
    def add(self, at: datetime, *values: Any, device: Device | None = None, **options: Any) -> None:
        """Records of one second after the other, with the streams that the writer would note."""
        for number, value in enumerate(values):
            record_add(device or self.web1, self.servers, at + number * SECOND, value, **options)
            self.note(self.servers, (key for key, _scalar in flatten(value)))

    def note(self, channel: Channel, keys: Iterable[str]) -> None:
        for key in set(keys):
            Stream.objects.get_or_create(channel=channel, key=key, defaults={"type": "mixed"})

    def ask(self, query: str, *, end: str = END, **headers: str) -> Any:
        return self.get(f"{STREAM}?{end}&{query}", **headers)

    def values(self, query: str, *, end: str = END) -> list[Any]:
        return [entry["value"] for entry in self.ask(query, end=end)["result"]]

    def series(self, query: str, *, end: str = END) -> list[tuple[str, Any]]:
        """Time of day and the value at the key `n`."""
        entries = self.ask(query, end=end)["result"]
        return [(entry["at"][11:19], entry["value"].get("n")) for entry in entries]

    def refuse(self, query: str, field: str) -> str:
        answer = self.call("GET", f"{STREAM}?{query}")
        error: str = self.assert_error(answer, 400, "INVALID_VALUE", fields={field})["message"]
        return error


class WholeRangeTest(AggregateCase):
    def test_one_aggregate_answers_as_published(self) -> None:
        self.add(NOW, {"cpu": {"idle": 90}, "host": "a", "ok": True}, {"cpu": {"idle": 92}, "ok": False})
        assert self.get(STREAM, X_ENDTIME="2026-11-24 00:00", X_AGGREGATE="avg") == {
            "channel": 0,
            "channel_name": "Servers",
            "last_update": "2026-11-23T18:30:01.000+09:00",
            "aggr_type": "avg",
            "result": [{"_id": None, "value": {"cpu": {"idle": 91.0}}, "at": None}],
        }

    def test_several_aggregates_each_have_an_entry(self) -> None:
        self.add(NOW, *({"n": n} for n in (5, 1, 4, 2, 3)))
        answer = self.ask("aggregate=avg,sum,min&aggregate=MAX, count,p50,p95,p99,avg")
        assert answer["aggr_type"] == "avg,sum,min,max,count,p50,p95,p99"
        found = {entry["aggr_type"]: entry["value"]["n"] for entry in answer["result"]}
        assert found.pop("p95") == pytest.approx(4.8)  # a fifth before the largest of five
        assert found.pop("p99") == pytest.approx(4.96)
        assert found == {"avg": 3.0, "sum": 15, "min": 1, "max": 5, "count": 5, "p50": 3.0}
        assert isinstance(found["avg"], float) and isinstance(found["sum"], int)

    def test_it_takes_start_up_to_but_without_end(self) -> None:
        for minute in range(5):
            self.add(NOW + minute * MINUTE, {"n": minute})
        assert self.values("start=2026-11-23 18:31&aggregate=sum", end="end=2026-11-23 18:33") == [{"n": 3}]

    def test_array_elements_pool_under_one_path(self) -> None:
        self.add(NOW, {"sensors": [{"c": 40}, {"c": 50}, {"c": "off"}]}, {"sensors": {"c": [1, 3]}})
        self.add(NOW + MINUTE, {"m": [[1, 2], [3, 4], 5]}, {"sensors": [[{"c": 6}]]})
        assert self.values("aggregate=avg") == [{"m": 3.0, "sensors": {"c": 20.0}}]
        assert self.values("aggregate=count") == [{"m": 5, "sensors": {"c": 5}}]

    def test_bare_numbers_and_flat_records_are_values(self) -> None:
        self.add(NOW, 7, {"value": 8}, "text")
        self.add(NOW + MINUTE, {"value": 12, "value2": 2.5}, form=1)
        assert self.values("aggregate=sum") == [{"value": 27, "value2": 2.5}]
        assert self.values("aggregate=avg&key=value") == [{"value": 9.0}]

    def test_what_is_no_number_is_left_out(self) -> None:
        self.add(NOW, {"v": 1}, {"v": "2"}, {"v": True}, {"v": None}, {"v": {}}, {"v": []}, {"t": "x"})
        assert self.values("aggregate=count") == [{"v": 1}]

    def test_a_key_that_is_a_number_and_an_object_loses_nothing(self) -> None:
        self.add(NOW, {"a": 1}, {"a": {"b": 2}}, {"a": {"b": {"c": 3}}})
        assert self.values("aggregate=sum") == [{"a": {"": 1, "b": {"": 2, "c": 3}}}]
        self.add(NOW + MINUTE, {"a": {"": 5}})
        assert self.values("aggregate=sum") == [{"a": {"": 5, "value": 1, "b": {"": 2, "c": 3}}}]

    def test_huge_numbers_stay_numbers(self) -> None:
        self.add(NOW, {"n": 2**70, "i": 2**63 - 1, "f": 1.7e308}, {"n": 2**70, "i": 2**63 - 1, "f": 1.7e308})
        self.add(NOW + MINUTE, b'{"h": %s}' % (b"9" * 400))
        self.note(self.servers, ["h"])
        answer = self.call("GET", f"{STREAM}?{END}&aggregate=sum,avg,max,p50")
        text = read(answer).decode()
        assert "Infinity" not in text and "NaN" not in text
        found = {entry["aggr_type"]: entry["value"] for entry in json.loads(text)["result"]}
        assert found["sum"]["n"] == 2**71 and found["max"]["n"] == 2**70
        assert found["sum"]["i"] == 2**64 - 2 and found["max"]["i"] == 2**63 - 1
        assert found["avg"]["n"] == float(2**70)
        assert found["sum"]["f"] == found["max"]["h"] == 1.7976931348623157e308
        assert found["max"]["f"] == 1.7e308 and found["p50"]["f"] == 1e300

    def test_sums_of_decimal_fractions_are_exact(self) -> None:
        self.add(NOW, {"n": 0.1}, {"n": 0.2})
        assert self.values("aggregate=sum") == [{"n": 0.3}]

    def test_it_narrows_to_tag_device_and_keys(self) -> None:
        db1 = device_create(self.owner, "db-1", now=NOW)
        self.add(NOW, {"n": 1, "m": {"a:b": 1}})
        self.add(NOW, {"n": 10}, tag="night")
        self.add(NOW, {"n": 100}, device=db1)
        assert self.values("aggregate=sum") == [{"m": {"a:b": 1}, "n": 111}]
        assert self.values("aggregate=sum&tag=night") == [{"n": 10}]
        assert self.values("aggregate=sum&device=db-1") == [{"n": 100}]
        assert self.values("aggregate=sum&key=n&device=web-1") == [{"n": 11}]
        assert self.values("aggregate=sum&key=m:a\\:b&key=n") == [{"m": {"a:b": 1}, "n": 111}]
        assert self.values("aggregate=sum&key=m&key=absent&key=$[") == [{}]

    def test_an_empty_range_has_an_empty_value(self) -> None:
        assert self.ask("aggregate=avg")["result"] == [{"_id": None, "value": {}, "at": None}]
        assert self.values("aggregate=rate,p95") == [{}, {}]
        assert self.values("interval=5m&fill=null") == []
        assert self.values("max_points=5") == []

    def test_it_works_for_thousands_of_streams(self) -> None:
        Stream.objects.bulk_create(
            Stream(channel=self.servers, key=f"k{number}:'\"\\\\x", type="number") for number in range(10_000)
        )
        self.add(NOW, {"k77": {"'\"\\x": 5}}, {"k9999": {"'\"\\x": [6, 8]}})
        assert self.values("aggregate=avg") == [{"k77": {"'\"\\x": 5.0}, "k9999": {"'\"\\x": 7.0}}]
        assert self.values("aggregate=rate") == [{}]


class BucketTest(AggregateCase):
    def test_an_interval_gives_an_entry_per_bucket_with_records(self) -> None:
        self.add(NOW, {"n": 1}, {"n": 3})
        self.add(NOW + 4 * MINUTE, {"n": 5})
        self.add(NOW + 20 * MINUTE, {"n": 7})
        answer = self.ask("interval=5m")
        assert (answer["aggr_type"], answer["interval"], answer["resolution"]) == ("avg", "5m", "raw")
        assert answer["result"] == [
            {"_id": None, "value": {"n": 3.0}, "at": "2026-11-23T18:30:00.000+09:00"},
            {"_id": None, "value": {"n": 7.0}, "at": "2026-11-23T18:50:00.000+09:00"},
        ]
        assert self.series("interval=5m&sort=desc") == [("18:50:00", 7.0), ("18:30:00", 3.0)]
        assert self.series("interval=5m&aggregate=min,max") == [
            ("18:30:00", 1),
            ("18:30:00", 5),
            ("18:50:00", 7),
            ("18:50:00", 7),
        ]
        types = [entry["aggr_type"] for entry in self.ask("interval=5m&aggregate=min,max")["result"]]
        assert types == ["min", "max", "min", "max"]

    def test_a_range_that_begins_within_a_bucket_names_the_buckets_beginning(self) -> None:
        self.add(NOW + 4 * MINUTE, {"n": 5})
        assert self.series("interval=5m&start=2026-11-23 18:33&fill=zero")[0] == ("18:30:00", 5.0)

    def test_hours_begin_with_the_local_hour(self) -> None:
        account_update(self.owner, locale="Asia/Kolkata")
        self.add(NOW, {"n": 1})  # 15:00 there
        self.add(NOW - SECOND, {"n": 2})
        assert self.series("interval=1h") == [("14:00:00", 2.0), ("15:00:00", 1.0)]
        assert self.series("interval=6h") == [("12:00:00", 1.5)]

    def test_days_and_weeks_in_tokyo(self) -> None:
        self.add(datetime(2026, 11, 22, 14, 59, 59, tzinfo=UTC), {"n": 1}, {"n": 2})
        days = self.ask("interval=1d&aggregate=sum")["result"]
        assert [(entry["at"], entry["value"]["n"]) for entry in days] == [
            ("2026-11-22T00:00:00.000+09:00", 1),
            ("2026-11-23T00:00:00.000+09:00", 2),
        ]
        weeks = self.ask("interval=1w&aggregate=sum")["result"]  # 2026-11-23 is a Monday
        assert [(entry["at"][:10], entry["value"]["n"]) for entry in weeks] == [
            ("2026-11-16", 1),
            ("2026-11-23", 2),
        ]

    def test_days_of_a_daylight_saving_change_in_berlin(self) -> None:
        account_update(self.owner, locale="Europe/Berlin")
        first = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)  # 00:30 in summer time
        for hour in range(26):
            self.add(first + timedelta(hours=hour), {"n": 3600 * hour})
        days = self.ask("interval=1d&aggregate=count,rate")["result"]
        assert [(entry["at"], entry["aggr_type"], entry["value"]["n"]) for entry in days] == [
            ("2026-10-25T00:00:00.000+02:00", "count", 25),
            ("2026-10-25T00:00:00.000+02:00", "rate", pytest.approx(24 / 25)),  # of 25 hours
            ("2026-10-26T00:00:00.000+01:00", "count", 1),
            ("2026-10-26T00:00:00.000+01:00", "rate", pytest.approx(1 / 24)),
        ]
        spring = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
        for hour in range(24):
            self.add(spring + timedelta(hours=hour), {"n": 1})
        days = self.ask("interval=1d&aggregate=count", end="end=2026-04-01 00:00")["result"]
        assert [(entry["at"], entry["value"]["n"]) for entry in days] == [
            ("2026-03-29T00:00:00.000+01:00", 23),
            ("2026-03-30T00:00:00.000+02:00", 1),
        ]

    def test_too_many_buckets_are_refused_with_the_smallest_interval_that_works(self) -> None:
        self.add(NOW - timedelta(days=1), {"n": 1})
        self.add(NOW, {"n": 2})
        assert "the smallest is 10s" in self.refuse(f"{END}&interval=1s", "interval")
        assert "the smallest is 30s" in self.refuse(f"{END}&interval=5s&aggregate=avg,min", "interval")
        assert len(self.series("interval=10s")) == 2

    def test_max_points_chooses_the_smallest_even_interval(self) -> None:
        for minute in range(60):
            self.add(NOW + minute * MINUTE, {"n": minute})
        for points, interval, count in ((10_000, "1s", 60), (61, "1m", 60), (59, "2m", 30), (7, "10m", 6)):
            answer = self.ask(f"max_points={points}")
            assert (answer["interval"], len(answer["result"])) == (interval, count), points
        answer = self.ask("max_points=1&aggregate=count")  # the hour goes over 19:00, but not over midnight
        assert (answer["interval"], answer["result"][0]["value"]) == ("2h", {"n": 60})
        answer = self.ask("max_points=60&start=2026-11-22 19:29&fill=zero", end="end=2026-11-23 19:30")
        assert answer["interval"] == "30m" and len(answer["result"]) == 49

    def test_one_bucket_can_hold_any_range(self) -> None:
        for zone in (ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Tokyo"), ZoneInfo("America/Sao_Paulo")):
            low, high = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
            interval = interval_for(low, high, most=1, zone=zone)
            assert Buckets(interval, zone).count(low, high) == 1

    def test_a_day_without_midnight_begins_with_its_first_moment(self) -> None:
        zone = ZoneInfo("America/Sao_Paulo")  # on 2018-11-04 the clock went from 00:00 to 01:00
        buckets = Buckets(Interval(1, "d"), zone)
        number = buckets.number(datetime(2018, 11, 4, 12, tzinfo=zone))
        assert buckets.begin(number) == datetime(2018, 11, 4, 3, tzinfo=UTC)
        assert buckets.number(buckets.begin(number)) == number
        assert buckets.seconds(number) == 23 * 3600


class FillTest(AggregateCase):
    def setUp(self) -> None:
        self.add(NOW + MINUTE, {"n": 10, "m": 1})
        self.add(NOW + 4 * MINUTE, {"n": 40})

    def fill(self, how: str) -> list[Any]:
        query = f"interval=1m&fill={how}&aggregate=max&start=2026-11-23 18:30"
        return self.values(query, end="end=2026-11-23 18:36")

    def test_none_leaves_empty_buckets_out(self) -> None:
        assert self.fill("none") == [{"m": 1, "n": 10}, {"n": 40}]

    def test_null_holds_every_key_path(self) -> None:
        empty = {"m": None, "n": None}
        assert self.fill("null") == [empty, {"m": 1, "n": 10}, empty, empty, {"m": None, "n": 40}, empty]

    def test_zero(self) -> None:
        assert [value["n"] for value in self.fill("zero")] == [0, 10, 0, 0, 40, 0]

    def test_previous_carries_the_last_known_value(self) -> None:
        assert [value["n"] for value in self.fill("previous")] == [None, 10, 10, 10, 40, 40]
        assert [value["m"] for value in self.fill("previous")] == [None, 1, 1, 1, 1, 1]

    def test_linear_draws_straight_lines_between_known_values(self) -> None:
        found = [value["n"] for value in self.fill("linear")]
        assert found[:2] == [None, 10] and found[4:] == [40, None]
        assert found[2:4] == [pytest.approx(20), pytest.approx(30)]

    def test_without_a_start_it_fills_from_the_first_record(self) -> None:
        found = self.series("interval=1m&fill=zero", end="end=2026-11-23 18:36")
        assert [at for at, _value in found] == [f"18:{minute}:00" for minute in range(31, 36)]
        found = self.series("max_points=3&fill=zero")
        assert found == [("18:30:00", 10.0), ("18:32:00", 0), ("18:34:00", 40.0)]

    def test_an_answer_beyond_memory_is_refused(self) -> None:
        self.note(self.servers, [f"k{number}" for number in range(60)])
        self.add(NOW + 5 * MINUTE, {f"k{number}": 1 for number in range(60)})
        query = "start=2026-11-22 18:30&end=2026-11-23 19:00&interval=10s&fill=null"
        assert "fewer key paths" in self.refuse(query, "key")


class RateTest(AggregateCase):
    def add_counter(
        self, *values: Any, device: Device | None = None, every_s: int = 10, tag: str | None = None
    ) -> None:
        for number, value in enumerate(values):
            self.add(NOW + number * every_s * SECOND, {"n": value}, device=device, tag=tag)

    def test_a_decrease_is_a_reset_and_counts_from_zero(self) -> None:
        self.add_counter(10, 30, 5, 15)  # 20, then 5 from zero, then 10, in 30 seconds
        assert self.values("aggregate=rate") == [{"n": pytest.approx(35 / 30)}]

    def test_devices_are_counted_apart_and_added_up(self) -> None:
        self.add_counter(0, 100, 200)
        self.add_counter(5000, 5010, device=self.new1, every_s=5)
        assert self.values("aggregate=rate") == [{"n": pytest.approx(200 / 20 + 10 / 5)}]
        assert self.values("aggregate=rate&device=new-1") == [{"n": 2.0}]

    def test_tags_of_one_device_are_counted_apart(self) -> None:
        self.add_counter(0, 100, tag="a")
        self.add_counter(7000, 7010, tag="b")
        assert self.values("aggregate=rate") == [{"n": 11.0}]

    def test_a_difference_belongs_to_the_bucket_of_the_later_record(self) -> None:
        self.add_counter(0, 60, 120, 240, every_s=40)  # 18:30:00, :40, 18:31:20, 18:32:00
        assert self.series("interval=1m&aggregate=rate") == [
            ("18:30:00", 1.0),
            ("18:31:00", 1.0),
            ("18:32:00", 2.0),
        ]

    def test_the_first_record_inside_the_range_has_no_predecessor(self) -> None:
        self.add_counter(0, 60, 120, every_s=60)
        assert self.series("start=2026-11-23 18:31&interval=1m&aggregate=rate") == [("18:32:00", 1.0)]
        assert self.values("start=2026-11-23 18:32&aggregate=rate") == [{}]

    def test_arrays_and_single_records_have_no_rate(self) -> None:
        self.add(NOW, {"a": [1], "b": [{"c": 1}], "d": {"e": 2**70}, "f": 1, "g": "x"})
        self.add(NOW + 10 * SECOND, {"a": [5], "b": [{"c": 5}], "d": {"e": 2**70 + 50}, "g": True})
        assert self.values("aggregate=rate") == [{"d": {"e": 5.0}}]

    def test_it_stands_beside_other_aggregates(self) -> None:
        self.add_counter(0, 50)
        answer = self.ask("aggregate=max,rate")
        assert [entry["value"] for entry in answer["result"]] == [{"n": 50}, {"n": 5.0}]

    def test_bare_numbers_have_a_rate(self) -> None:
        self.add(NOW, 5, 9)
        assert self.values("aggregate=rate") == [{"value": 4.0}]


class ManyKeysTest(WholeRangeTest):
    """The same answers by the queries that serve thousands of key paths."""

    def setUp(self) -> None:
        self.enterContext(patch("streams.aggregates.FEW_KEYS", 0))
        self.enterContext(patch("streams.aggregates.MOST_WIDE", 0))


class ManyRatesTest(RateTest):
    """The same, for rates."""

    def setUp(self) -> None:
        self.enterContext(patch("streams.aggregates.FEW_KEYS", 0))


class RefusalTest(AggregateCase):
    def test_a_query_that_takes_too_long_is_ended_and_says_what_to_ask_for(self) -> None:
        self.add(NOW, 1)
        with (
            patch("streams.aggregates.sql_text", return_value="SELECT pg_sleep(60)"),
            patch("streams.aggregates.QUERY_LIMIT_S", 0.05),
        ):
            answer = self.call("GET", f"{STREAM}?{END}&aggregate=p50")
        body = self.assert_error(answer, 400, "INVALID_VALUE", fields={"end"})
        assert "ask for less of it" in body["message"]

    def test_it_refuses_what_means_nothing(self) -> None:
        for query, field in [
            (f"{END}&aggregate=median", "aggregate"),
            (f"{END}&aggregate=avg,", ""),
            (f"{END}&aggregate=,", "aggregate"),
            ("end=last&aggregate=avg", "aggregate"),
            ("end=last&interval=5m", "interval"),
            ("end=last&max_points=5", "max_points"),
            (f"{END}&interval=0m", "interval"),
            (f"{END}&interval=5", "interval"),
            (f"{END}&interval=5y", "interval"),
            (f"{END}&interval=-5m", "interval"),
            (f"{END}&interval=99999999w", "interval"),
            (f"{END}&interval=5m&max_points=5", "max_points"),
            (f"{END}&max_points=0", "max_points"),
            (f"{END}&max_points=10001", "max_points"),
            (f"{END}&fill=null", "fill"),
            (f"{END}&fill=null&aggregate=avg", "fill"),
            (f"{END}&interval=5m&fill=spline", "fill"),
            (f"{END}&aggregate=avg&limit=5", "limit"),
            (f"{END}&aggregate=avg&after=x", "after"),
            (f"{END}&key=%00", "key"),
            (f"{END}&" + "&".join(f"key=k{number}" for number in range(101)), "key"),
        ]:
            if field:
                self.refuse(query, field)
            else:
                assert self.call("GET", f"{STREAM}?{query}").status_code == 200
        headers = {"X_ENDTIME": "2026-11-24 00:00", "X_AGGREGATE": "avg", "X_PAGELIMIT": "5"}
        self.assert_error(self.call("GET", STREAM, **headers), 400, "INVALID_VALUE", fields={"limit"})

    def test_a_strangers_channel_is_not_found(self) -> None:
        path = f"/v2/stream/7?{END}&aggregate=avg&format=csv"
        self.assert_error(self.call("GET", path, token=self.strange_token), 404, "NO_CHANNEL")
        self.assert_error(self.call("GET", path, token=""), 401, "AUTH_REQUIRED")

    def test_head_reads_no_records(self) -> None:
        answer = self.call("HEAD", f"{STREAM}?{END}&aggregate=avg&format=csv")
        assert (answer.status_code, answer["Content-Type"]) == (200, "text/csv; charset=utf-8")


def test_every_path_has_its_own_place_whatever_the_conflicts() -> None:
    keys = [("a",), ("a", ""), ("a", "", ""), ("a", "value"), ("a", "value", "x"), ("b",), ("",), ("", "")]
    places = nesting_places(keys)
    assert len(set(places.values())) == len(keys)
    value = nested({key: number for number, key in enumerate(keys)}, places)
    assert {number for _path, number in flatten(value)} == set(range(len(keys)))
