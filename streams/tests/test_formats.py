import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from channels.models import Stream
from servwatch_site.tests.api import Answer, ApiTestCase, read
from servwatch_site.tests.cast import NOW
from streams import formats, selectors
from streams.formats import clock
from streams.selectors import BEGINNING
from streams.tests.records import record_add
from tokens.times import time_text

SECOND = timedelta(seconds=1)
END = "end=2026-11-24 00:00"
STREAM = "/v2/stream/0"


class FormatCase(ApiTestCase):
    def add(self, *values: Any, at: datetime = NOW, **options: Any) -> None:
        for number, value in enumerate(values):
            record_add(self.web1, self.servers, at + number * SECOND, value, **options)

    def note(self, **types: str) -> None:
        for key, kind in types.items():
            Stream.objects.create(channel=self.servers, key=key.replace("__", ":"), type=kind)

    def text(self, query: str, *, end: str = END) -> str:
        answer = self.call("GET", f"{STREAM}?{end}&{query}")
        assert answer.status_code == 200, answer.content
        return read(answer).decode()

    def table(self, query: str, *, end: str = END) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.text(f"format=csv&{query}", end=end), newline="")))

    def kept(self, query: str) -> list[Any]:
        return [record["value"] for record in self.get(f"{STREAM}?{END}&{query}")["stream"]]


class KeyTest(FormatCase):
    def test_records_are_pruned_to_the_asked_key_paths(self) -> None:
        self.add(
            {"cpu": {"idle": 1, "user": 2}, "load": 3},
            {"load": 4},
            {"cpu": {"user": 5}},
            {"sensors": [{"c": 1, "n": "x"}, {"n": "y"}, [{"c": 2}]], "cpu": {"idle": None}},
        )
        assert self.kept("key=cpu:idle") == [{"cpu": {"idle": 1}}, {"cpu": {"idle": None}}]
        assert self.kept("key=load&key=cpu:user") == [
            {"cpu": {"user": 2}, "load": 3},
            {"load": 4},
            {"cpu": {"user": 5}},
        ]
        assert self.kept("key=sensors:c") == [{"sensors": [{"c": 1}, [{"c": 2}]]}]
        for nothing in ("cpu", "cpu:idle:x", "absent", "cpu:", "\\", "value"):
            assert self.kept(f"key={nothing}") == []

    def test_bare_values_are_value(self) -> None:
        self.add(5, "text", {"value": 6, "x": 7}, {"value": {"value": 8}})
        assert self.kept("key=value") == [5, "text", {"value": 6}]

    def test_flat_records_keep_their_shape(self) -> None:
        self.add({"value": 11.10, "value2": 2}, {"value": 3}, {"value4": 4}, form=1)
        records = self.get(f"{STREAM}?{END}&key=value2&key=value")["stream"]
        assert [{key: record[key] for key in record if key.startswith("v")} for record in records] == [
            {"value": 11.1, "value2": 2},
            {"value": 3, "value2": None},
        ]

    def test_digits_and_texts_survive(self) -> None:
        value = '{"n": 123456789012345678901234567890.10, "t": "q\\"\\\\\\n夜", "x": true}'
        self.add(value.encode())
        text = self.text("key=n&key=t")
        assert "123456789012345678901234567890.10" in text
        assert json.loads(text)["stream"][0]["value"]["t"] == 'q"\\\n夜'

    def test_limits_and_pages_count_what_is_kept(self) -> None:
        self.add(*({"n": n} if n % 3 == 0 else {"m": n} for n in range(30)))
        newest = self.get(f"{STREAM}?end=last&limit=2&key=n")["stream"]
        assert [record["value"] for record in newest] == [{"n": 24}, {"n": 27}]
        seen, path = [], f"{STREAM}?{END}&key=n&limit=4&format=ndjson"
        with patch.multiple(selectors, FIRST_PAGE_ROWS=7, MAX_PAGE_ROWS=7):
            while path:
                answer = self.call("GET", path)
                seen.append([json.loads(line)["value"]["n"] for line in read(answer).splitlines()])
                path = answer.get("Link", "")[len("<http://testserver") : -len('>; rel="next"')]
        assert seen == [[0, 3, 6, 9], [12, 15, 18, 21], [24, 27]]


class CsvTest(FormatCase):
    def test_columns_are_the_streams_sorted(self) -> None:
        self.note(n="number", cpu__idle="number", t="string", ok="boolean")
        self.add(
            {"n": 1.50, "cpu": {"idle": 2**70}, "ok": True, "t": 'a,"b"\nc'},
            {"t": "夜", "ok": False, "n": None},
        )
        assert self.table("") == [
            ["at", "device_id", "tag", "cpu:idle", "n", "ok", "t"],
            ["2026-11-23T18:30:00.000+09:00", "web-1", "", str(2**70), "1.5", "true", 'a,"b"\nc'],
            ["2026-11-23T18:30:01.000+09:00", "web-1", "", "", "", "false", "夜"],
        ]

    def test_columns_are_the_asked_keys_in_their_order(self) -> None:
        self.note(a="number", b="number")
        self.add({"a": 1, "b": 2, "c": {"d": 3}}, {"b": 5}, {"x": 1})
        rows = self.table("key=c:d&key=b")
        assert [row[3:] for row in rows] == [["c:d", "b"], ["3", "2"], ["", "5"]]
        assert [row[3:] for row in self.table("limit=1&key=b", end="end=last")] == [["b"], ["5"]]

    def test_several_values_of_a_path_are_a_json_array(self) -> None:
        self.add({"s": [{"c": 1.50}, {"c": "x,"}, {"c": None}, {"c": True}]}, {"s": [{"c": 7}]}, {"s": []})
        assert [row[3] for row in self.table("key=s:c")[1:]] == ['[1.5,"x,",null,true]', "7"]

    def test_bare_and_flat_records_have_columns(self) -> None:
        self.note(value="mixed", value2="number")
        self.add(5, "00ff")
        self.add({"value": 1, "value2": 2}, at=NOW + 5 * SECOND, form=1)
        assert [row[3:] for row in self.table("")[1:]] == [["5", ""], ["00ff", ""], ["1", "2"]]

    def test_text_that_looks_like_a_formula_is_disarmed(self) -> None:
        texts = ["=1+1", "+x", "-x", "@sum", "\tx", "\rx", "-5", "+1.5e3", "a=1", ""]
        self.add(*({"=k": text} for text in texts), {"=k": -5}, tag="=tag")
        rows = self.table("key==k")
        assert rows[0][3] == "'=k"
        assert {row[2] for row in rows[1:]} == {"'=tag"}
        assert [row[3] for row in rows[1:]] == [
            "'=1+1", "'+x", "'-x", "'@sum", "'\tx", "'\rx", "-5", "+1.5e3", "a=1", "", "-5",
        ]  # fmt: skip

    def test_it_says_what_it_is(self) -> None:
        answer = self.call("GET", f"{STREAM}?{END}&format=CSV")
        assert answer["Content-Type"] == "text/csv; charset=utf-8"
        assert answer["Content-Disposition"] == 'attachment; filename="channel-0.csv"'
        assert read(answer) == b"at,device_id,tag\r\n"

    def test_aggregates_are_a_table_too(self) -> None:
        self.note(n="number", s="string")
        self.add({"n": 1, "s": "x"}, {"n": 2**70})
        assert self.table("aggregate=max,count") == [
            ["at", "aggr_type", "n"],
            ["", "max", str(2**70)],
            ["", "count", "2"],
        ]
        assert self.table("interval=1h&key=n&key=a:b&aggregate=min") == [
            ["at", "aggr_type", "n", "a:b"],
            ["2026-11-23T18:00:00.000+09:00", "min", "1", ""],
        ]


class NdjsonTest(FormatCase):
    def test_each_line_is_the_record_of_the_json_answer(self) -> None:
        self.add({"n": 1, "t": "a\nb\u2028"}, 5, tag="夜")
        self.add({"value": 1}, at=NOW + 5 * SECOND, form=1)
        whole = self.get(f"{STREAM}?{END}")["stream"]
        answer = self.call("GET", f"{STREAM}?{END}&format=ndjson")
        assert answer["Content-Type"] == "application/x-ndjson" and "Content-Disposition" not in answer
        text = read(answer)
        assert text.endswith(b"\n") and [json.loads(line) for line in text.split(b"\n")[:-1]] == whole
        assert self.text("format=ndjson&limit=1", end="end=last").count("\n") == 1
        assert self.text("format=ndjson&tag=absent") == ""

    def test_aggregates_have_a_line_per_entry(self) -> None:
        self.note(n="number")
        self.add({"n": 1}, {"n": 2})
        lines = self.text("format=ndjson&aggregate=sum,max").splitlines()
        assert [json.loads(line) for line in lines] == [
            {"_id": None, "aggr_type": "sum", "value": {"n": 3}, "at": None},
            {"_id": None, "aggr_type": "max", "value": {"n": 2}, "at": None},
        ]


class LargeTest(FormatCase):
    def test_every_format_is_streamed_in_parts(self) -> None:
        self.note(n="number")
        self.add(*({"n": n} for n in range(60)))
        for form, lines in (("csv", 61), ("ndjson", 60), ("json", 1)):
            whole = self.text(f"format={form}")
            with (
                patch.multiple(formats, PART_CHARACTERS=500, PORTION_TEXTS=3),
                patch.multiple(selectors, FIRST_PAGE_ROWS=10, MAX_PAGE_ROWS=10, FETCH_ROWS=4),
            ):
                answer: Answer = self.call("GET", f"{STREAM}?{END}&format={form}")
                assert answer.streaming
                parts = list(answer.streaming_content)
            assert len(parts) > 2 and b"".join(parts).decode() == whole
            assert len(whole.splitlines()) == lines

    def test_an_export_that_is_left_asks_for_no_further_page(self) -> None:
        self.add(*({"n": n} for n in range(60)))
        with (
            patch.multiple(formats, PART_CHARACTERS=500, PORTION_TEXTS=3),
            patch.multiple(selectors, FIRST_PAGE_ROWS=10, MAX_PAGE_ROWS=10),
            patch.object(selectors, "_page", wraps=selectors._page) as page,
        ):
            answer = self.call("GET", f"{STREAM}?{END}&format=ndjson")
            content = iter(answer.streaming_content)
            next(content)
            del content
        assert page.call_count <= 2


def test_the_fast_clock_says_what_the_slow_one_says() -> None:
    for name in ("Asia/Tokyo", "Europe/Berlin", "Asia/Kathmandu", "Africa/Monrovia", "UTC"):
        zone = ZoneInfo(name)
        text = clock(zone)
        times = [datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC) + number * SECOND / 4 for number in range(9)]
        times += [datetime(1971, 12, 31, 23, 59, 59, 123_456, tzinfo=UTC), datetime(1890, 1, 1, tzinfo=UTC)]
        times += [BEGINNING, datetime(2026, 11, 23, 9, 30, 0, 120_007, tzinfo=UTC)]
        for at in times:
            assert text((at - BEGINNING) // timedelta(microseconds=1)) == time_text(at, zone=zone)
