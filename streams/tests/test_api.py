import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import pytest
from django.db import OperationalError
from django.utils import timezone

from channels.services import channel_delete
from devices.models import Device
from devices.services import device_create, device_delete
from servwatch_site.tests.api import Answer, ApiTestCase, read
from servwatch_site.tests.cast import NOW
from streams import selectors
from streams.record_id import record_id
from streams.selectors import RecordFilter, Row
from streams.tests.records import record_add
from tokens.services import account_update

MINUTE = timedelta(minutes=1)
STREAM = "/v2/stream/0"


class StreamCase(ApiTestCase):
    """Ten records a minute apart, from NOW on, the value is the minute."""

    def setUp(self) -> None:
        for minute in range(10):
            record_add(self.web1, self.servers, NOW + minute * MINUTE, {"n": minute})

    def numbers(self, query: str = "", **headers: str) -> list[int]:
        answer = self.get(f"{STREAM}?{query}", **headers)
        return [record["value"]["n"] for record in answer["stream"]]


class NewestTest(StreamCase):
    def test_last_alone_is_the_newest_record(self) -> None:
        answer = self.get(STREAM, X_ENDTIME="last")
        (record,) = answer.pop("stream")
        assert answer == {
            "channel": 0,
            "channel_name": "Servers",
            "last_update": "2026-11-23T18:39:00.000+09:00",
        }
        assert record.pop("_id")[:8] == f"{int((NOW + 9 * MINUTE).timestamp()):08x}"
        assert record == {
            "device_id": "web-1",
            "tag": None,
            "value": {"n": 9},
            "at": "2026-11-23T18:39:00.000+09:00",
        }
        assert self.get(f"{STREAM}/?end=LAST")["stream"][0]["value"] == {"n": 9}

    def test_a_limit_gives_the_newest_n_in_the_order_asked_for(self) -> None:
        assert self.numbers(X_ENDTIME="last", X_PAGELIMIT="3") == [7, 8, 9]
        assert self.numbers(X_ENDTIME="last", X_PAGELIMIT="3", X_PAGESORT="DESC") == [9, 8, 7]
        assert self.numbers("end=last&limit=3&sort=desc") == [9, 8, 7]
        assert self.numbers(X_ENDTIME="last", X_PAGELIMIT="10000") == list(range(10))

    def test_a_start_bounds_the_newest_n(self) -> None:
        assert self.numbers(X_STARTTIME="2026-11-23 18:38", X_ENDTIME="last", X_PAGELIMIT="5") == [8, 9]
        assert self.numbers(X_STARTTIME="2126-11-23 18:38", X_ENDTIME="last") == []

    def test_it_finds_old_records_too(self) -> None:
        for days in (1, 3, 10, 40):
            record_add(self.web1, self.servers, NOW - timedelta(days=days), {"n": -days})
        assert self.numbers("end=last&limit=14") == [-40, -10, -3, -1, *range(10)]
        assert self.numbers("end=last&limit=11&sort=desc")[-2:] == [0, -1]

    def test_an_empty_channel_has_no_record(self) -> None:
        assert self.get("/v2/stream/7", X_ENDTIME="last") == {
            "channel": 7,
            "channel_name": "Backups",
            "last_update": None,
            "stream": [],
        }

    def test_it_costs_few_queries(self) -> None:
        self.get(STREAM, X_ENDTIME="last")
        with (
            self.assertNumQueries(3),  # token, channel, newest of the channel
            patch.object(selectors, "_page", wraps=selectors._page) as page,
        ):
            self.get(STREAM, X_ENDTIME="last")
        assert page.call_count == 1


class RangeTest(StreamCase):
    def test_it_answers_start_up_to_but_without_end(self) -> None:
        bounds = {"X_STARTTIME": "2026-11-23 18:32", "X_ENDTIME": "2026-11-23T18:35:00"}
        assert self.numbers(**bounds) == [2, 3, 4]
        assert self.numbers(**bounds, X_PAGESORT="desc") == [4, 3, 2]
        assert self.numbers(X_ENDTIME="2026-11-23 18:32") == [0, 1]
        assert self.numbers("start=2026-11-23T09:38:00Z&end=2026-11-24T00:00:00%2B09:00") == [8, 9]
        assert self.numbers("start=2026-11-23T18:38:00+09:00&end=2026-11-24 00:00") == [8, 9]
        assert self.numbers("start=2026-11-23 18:32&end=2026-11-23 18:32") == []

    def test_a_time_read_back_and_asked_for_again_finds_its_record(self) -> None:
        at = NOW + timedelta(hours=1, microseconds=123_457)
        record_add(self.web1, self.servers, at, {"n": 77})
        text = self.get(STREAM, X_ENDTIME="last")["stream"][0]["at"]
        assert text == "2026-11-23T19:30:00.123457+09:00"
        assert self.numbers(X_STARTTIME=text, X_ENDTIME="2026-11-24 00:00") == [77]
        assert self.numbers(X_STARTTIME="2026-11-23 19:00", X_ENDTIME=text) == []

    def test_local_times_are_of_the_account(self) -> None:
        account_update(self.owner, locale="America/New_York")
        assert self.numbers(X_STARTTIME="2026-11-23 04:38", X_ENDTIME="2026-11-23 05:00") == [8, 9]
        assert self.get(STREAM, X_ENDTIME="last")["last_update"] == "2026-11-23T04:39:00.000-05:00"

    def test_it_narrows_to_a_tag(self) -> None:
        record_add(self.web1, self.servers, NOW, {"n": 50}, tag="夜 100%")
        record_add(self.web1, self.servers, NOW, {"n": 51}, tag='q"\\')
        assert self.numbers(X_ENDTIME="last", X_TAGNAME="%E5%A4%9C%20100%25") == [50]
        assert self.numbers(f"end=2126-01-01 00:00&tag={quote('夜 100%')}") == [50]
        assert self.numbers("end=last&tag=absent") == []
        (record,) = self.get(STREAM, X_ENDTIME="last", X_TAGNAME="q%22%5C")["stream"]
        assert record["tag"] == 'q"\\'
        assert len(self.numbers("end=2126-01-01 00:00")) == 12
        for wrong in ("%E5%A4", "夜", "%00"):
            answer = self.call("GET", STREAM, X_ENDTIME="last", X_TAGNAME=wrong)
            self.assert_error(answer, 400, "INVALID_VALUE", fields={"tag"})

    def test_it_narrows_to_a_device_and_never_to_its_predecessor(self) -> None:
        db1 = device_create(self.owner, "db:1.a", now=NOW)
        record_add(db1, self.servers, NOW, {"n": 60})
        assert self.numbers("end=2126-01-01 00:00&device=db:1.a") == [60]
        assert self.numbers("end=last&device=new-1") == []
        device_delete(db1, now=NOW)
        assert self.numbers("end=2126-01-01 00:00&device=db:1.a") == [60]
        again = device_create(self.owner, "db:1.a", now=NOW)
        assert self.numbers("end=2126-01-01 00:00&device=db:1.a") == []
        device_delete(again, now=NOW)
        record_add(again, self.servers, NOW, {"n": 61})
        assert sorted(self.numbers("end=2126-01-01 00:00&device=db:1.a&sort=desc")) == [60, 61]
        self.assert_error(self.call("GET", f"{STREAM}?end=last&device=nobody"), 404, "NO_DEVICE")
        record_add(
            Device.objects.create(account=self.stranger, device_id="alien"), self.backups, NOW, {"n": 1}
        )
        self.assert_error(self.call("GET", f"{STREAM}?end=last&device=alien"), 404, "NO_DEVICE")

    def test_pages_of_a_range_meet_in_both_orders(self) -> None:
        other = device_create(self.owner, "db-1", now=NOW)
        for minute in range(10):  # the same times again, so that pages end between equal times
            record_add(other, self.servers, NOW + minute * MINUTE, {"n": minute})
        for sort in ("asc", "desc"):
            whole = self.get(f"{STREAM}?end=2126-01-01 00:00&sort={sort}")["stream"]
            seen, pages = [], 0
            path = f"{STREAM}?end=2126-01-01 00:00&sort={sort}&limit=3"
            while path:
                answer = self.call("GET", path)
                seen += answer.json()["stream"]
                path = answer.get("Link", "")[len("<http://testserver") : -len('>; rel="next"')]
                pages += 1
            assert seen == whole
            assert pages == 7
            assert len({record["_id"] for record in seen}) == 20
        rest = self.get(f"{STREAM}?end=2126-01-01 00:00&after={self.link_of('limit=15')}")["stream"]
        assert len(rest) == 5

    def link_of(self, query: str) -> str:
        link: str = self.call("GET", f"{STREAM}?end=2126-01-01 00:00&{query}")["Link"]
        return link.split("after=")[1].split(">")[0]


class RecordShapeTest(StreamCase):
    def only(self) -> str:
        return read(self.call("GET", STREAM, X_ENDTIME="last")).decode()

    def test_numbers_keep_every_digit(self) -> None:
        text = '{"big": 123456789012345678901234567890, "huge": %s, "exact": 0.1000000000000000055}' % (
            "9" * 300
        )
        record_add(self.web1, self.servers, NOW + timedelta(hours=1), text.encode())
        answer = self.only()
        assert "123456789012345678901234567890" in answer and "9" * 300 in answer
        assert "0.1000000000000000055" in answer
        assert json.loads(answer)["stream"][0]["value"]["huge"] == int("9" * 300)

    def test_any_text_and_bare_values_come_back(self) -> None:
        values = [5, "text", 'q"\\\n\u2028', {"夜": "🌙", "": {"a:b": [1, [None, True]]}}, [1, 2], 1e20, True]
        for number, value in enumerate(values):
            record_add(self.web1, self.servers, NOW + timedelta(hours=1, seconds=number), value)
        answer = self.get(STREAM, X_ENDTIME="last", X_PAGELIMIT=str(len(values)))
        assert [record["value"] for record in answer["stream"]] == values

    def test_a_form_encoded_record_answers_flat(self) -> None:
        flat = {"value": 11.1, "value3": 'text with "value2": inside'}
        record_add(self.web1, self.servers, NOW + timedelta(hours=1), flat, form=1)
        (record,) = json.loads(self.only())["stream"]
        assert record["value"] == 11.1 and record["value3"] == flat["value3"]
        assert record["value2"] is None and record["value4"] is None
        record_add(self.web1, self.servers, NOW + timedelta(hours=2), {"value2": 10**25}, form=1)
        (record,) = json.loads(self.only())["stream"]
        assert [record[key] for key in ("value", "value2", "value3", "value4")] == [None, 10**25, None, None]

    def test_a_binary_record_answers_its_hex_string(self) -> None:
        record_add(self.web1, self.servers, NOW + timedelta(hours=1), "00ff", form=2)
        (record,) = json.loads(self.only())["stream"]
        assert record["value"] == "00ff" and "value2" not in record

    def test_a_deleted_device_keeps_its_name_in_its_records(self) -> None:
        device_delete(self.web1, now=NOW)
        assert json.loads(self.only())["stream"][0]["device_id"] == "web-1"

    def test_an_id_is_24_hex_digits_that_never_change(self) -> None:
        key = record_id(device_key=5, at_us=1_795_426_200_000_001, digest=-(2**63))
        assert key == record_id(device_key=5, at_us=1_795_426_200_000_001, digest=-(2**63))
        assert len(key) == 24 and int(key, 16) > 0
        assert key[:8] == f"{1_795_426_200:08x}"
        others = {
            record_id(device_key=6, at_us=1_795_426_200_000_001, digest=-(2**63)),
            record_id(device_key=5, at_us=1_795_426_200_000_002, digest=-(2**63)),
            record_id(device_key=5, at_us=1_795_426_200_000_001, digest=2**63 - 1),
        }
        assert len(others | {key}) == 4
        assert len(record_id(device_key=1, at_us=-1, digest=0)) == 24


class RefusalTest(StreamCase):
    def test_it_refuses_options_that_mean_nothing(self) -> None:
        bad = [
            ("", "end"),
            ("end=", "end"),
            ("end=now", "end"),
            ("end=2026-11-23", "end"),
            ("end=2026-02-30 00:00", "end"),
            ("end=9999-12-31 23:59-23:00", "end"),
            ("end=%00", "end"),
            ("end=last&start=yesterday", "start"),
            ("start=2026-11-24 00:00&end=2026-11-23 00:00", "end"),
            ("end=last&limit=0", "limit"),
            ("end=last&limit=abc", "limit"),
            ("end=last&limit=-1", "limit"),
            ("end=last&limit=10001", "limit"),
            ("end=last&limit=99999999999999999999999", "limit"),
            ("end=last&sort=up", "sort"),
            ("end=last&after=abc", "after"),
            ("end=2126-01-01 00:00&after=abc", "after"),
            ("end=2126-01-01 00:00&after=" + "A" * 32, ""),
            ("end=2126-01-01 00:00&after=f_" + "_" * 30, "after"),
            ("end=last&aggregate=avg", "aggregate"),
            ("end=last&format=xml", "format"),
            ("end=last&interval=5m", "interval"),
            ("end=last&tag=%ff", "tag"),
        ]
        for query, field in bad:
            answer = self.call("GET", f"{STREAM}?{query}")
            if field:
                self.assert_error(answer, 400, "INVALID_VALUE", fields={field})
            else:
                assert answer.status_code == 200
        answer = self.call("GET", STREAM, X_ENDTIME="2126-01-01 00:00", X_PAGELIMIT="5")
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"limit"})
        answer = self.call("GET", STREAM, X_ENDTIME="last", X_AGGREGATE="avg")
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"aggregate"})

    def test_a_channel_that_is_not_there_or_a_strangers_is_not_found(self) -> None:
        for path in ("/v2/stream/99", "/v2/stream/abc", "/v2/stream/-1", "/v2/stream/99999999999"):
            self.assert_error(self.call("GET", path, X_ENDTIME="last"), 404, "NO_CHANNEL")
        self.assert_error(self.call("GET", "/v2/stream", X_ENDTIME="last"), 404, "NOT_FOUND")
        strange = self.call("GET", "/v2/stream/7", X_ENDTIME="last", token=self.strange_token)
        absent = self.call("GET", "/v2/stream/8", X_ENDTIME="last", token=self.strange_token)
        self.assert_error(strange, 404, "NO_CHANNEL")
        assert strange.content.replace(b"7", b"8") == absent.content
        self.assert_error(self.call("GET", STREAM, X_ENDTIME="last", token=""), 401, "AUTH_REQUIRED")
        channel_delete(self.servers, now=NOW)
        self.assert_error(self.call("GET", STREAM, X_ENDTIME="last"), 404, "NO_CHANNEL")

    def test_head_answers_without_reading_records(self) -> None:
        with patch("streams.api.record_pages", side_effect=AssertionError("read records")):
            answer = self.call("HEAD", STREAM, X_ENDTIME="2126-01-01 00:00")
        assert (answer.status_code, answer["Content-Type"], read(answer)) == (200, "application/json", b"")
        assert "Content-Length" not in answer
        assert self.call("HEAD", STREAM).status_code == 400
        assert self.call("HEAD", "/v2/stream/99", X_ENDTIME="last").status_code == 404


class ManyPages:
    """Stands for record_pages(): twenty thousand records, a hundred to a page."""

    def __init__(self, *, fail_after: int | None = None) -> None:
        self.taken = 0
        self.fail_after = fail_after

    def __call__(
        self, narrow: RecordFilter, *, shape: Callable[[list[Row]], list[str]], **_options: Any
    ) -> Iterator[list[str]]:
        at_us = int(NOW.timestamp()) * 1_000_000
        for first in range(0, 20_000, 100):
            if first == self.fail_after:
                raise OperationalError("server closed the connection unexpectedly")
            self.taken += 100
            numbers = range(first, first + 100)
            yield shape([(at_us + n * 60_000_000, 1, 1, "web-1", None, 0, f'{{"n": {n}}}') for n in numbers])


class StreamedTest(StreamCase):
    """Answers too large for one part. Pages come from a generator here, so that it shows when they are taken."""

    def call_large(self, pages: ManyPages) -> Answer:
        with patch("streams.api.record_pages", pages):
            return self.call("GET", STREAM, X_ENDTIME="2126-01-01 00:00")

    def test_a_large_answer_is_made_while_it_is_read(self) -> None:
        pages = ManyPages()
        answer = self.call_large(pages)
        assert answer.streaming and "Content-Length" not in answer
        assert 0 < pages.taken < 6_000
        assert len(json.loads(read(answer))["stream"]) == pages.taken == 20_000

    def test_a_small_answer_is_whole(self) -> None:
        answer = self.call("GET", STREAM, X_ENDTIME="2126-01-01 00:00")
        assert not answer.streaming and len(answer.json()["stream"]) == 10

    def test_a_failure_before_the_first_part_is_an_ordinary_error(self) -> None:
        answer = self.call_large(ManyPages(fail_after=0))
        self.assert_error(answer, 503, "STORAGE_UNAVAILABLE")
        assert answer["Retry-After"] == "5"

    def test_a_failure_on_the_way_breaks_off_and_is_in_the_log(self) -> None:
        answer = self.call_large(ManyPages(fail_after=15_000))
        assert answer.status_code == 200
        received: list[bytes] = []
        with self.assertLogs("streams.api", "ERROR"), pytest.raises(OperationalError):
            received.extend(answer.streaming_content)
        with pytest.raises(json.JSONDecodeError):
            json.loads(b"".join(received))

    async def test_it_streams_under_asgi_too(self) -> None:
        headers = {"X-APITOKEN": self.api_token, "X-ENDTIME": "2126-01-01 00:00"}
        with patch("streams.api.record_pages", ManyPages()):
            answer: Answer = await self.async_client.get(STREAM, headers=headers)
        assert answer.streaming and answer.is_async
        body, parts = b"", 0
        async for part in answer.streaming_content:
            body, parts = body + part, parts + 1
            assert len(part) < 300_000
        numbers = [record["value"]["n"] for record in json.loads(body)["stream"]]
        assert numbers == list(range(20_000)) and parts > 5

    async def test_a_failure_on_the_way_breaks_off_under_asgi_too(self) -> None:
        headers = {"X-APITOKEN": self.api_token, "X-ENDTIME": "2126-01-01 00:00"}
        with patch("streams.api.record_pages", ManyPages(fail_after=15_000)):
            answer: Answer = await self.async_client.get(STREAM, headers=headers)
        with self.assertLogs("streams.api", "ERROR"), pytest.raises(OperationalError):
            async for _part in answer.streaming_content:
                pass


class ClockTest(ApiTestCase):
    def test_a_record_of_a_device_that_is_ahead_is_the_newest(self) -> None:
        now = timezone.now()
        record_add(self.web1, self.servers, now, {"n": 1})
        record_add(self.web1, self.servers, now + timedelta(minutes=59), {"n": 2})
        assert self.get(STREAM, X_ENDTIME="last")["stream"][0]["value"] == {"n": 2}
        assert datetime.now(UTC) < now + timedelta(minutes=59)
