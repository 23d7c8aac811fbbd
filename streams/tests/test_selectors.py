from dataclasses import replace
from datetime import timedelta
from unittest.mock import patch

from django.db import connection

from devices.services import device_create
from servwatch_site.tests.cast import NOW, BaseTestCase
from streams import selectors
from streams.selectors import BEGINNING, RecordFilter, record_stream, records_newest
from streams.storage import Kind, partitions_create, storage_kind
from streams.tests.records import record_add

END = NOW + timedelta(days=2)


class RecordStreamTest(BaseTestCase):
    def setUp(self) -> None:
        self.db1 = device_create(self.owner, "db-1", now=NOW)
        for number in range(60):
            at = NOW + timedelta(seconds=number // 4)  # four to a second
            record_add(
                (self.web1, self.db1)[number % 2], self.servers, at, {"n": number}, tag="abc"[number % 3]
            )
        record_add(self.web1, self.backups, NOW, {"n": -1})
        self.narrow = RecordFilter(channel_key=self.servers.pk, low=BEGINNING, high=END)

    def test_pages_meet_whatever_their_size_in_both_directions(self) -> None:
        whole = list(record_stream(self.narrow))
        assert len(whole) == len({row.position for row in whole}) == 60
        assert [row.position for row in whole] == sorted(row.position for row in whole)
        for page_rows in (1, 2, 3, 7, 59, 60, 61):
            with (
                patch.multiple(selectors, FIRST_PAGE_ROWS=page_rows, MAX_PAGE_ROWS=page_rows),
                patch.object(selectors, "_page", wraps=selectors._page) as page,
            ):
                assert list(record_stream(self.narrow)) == whole
                assert page.call_count <= 60 // min(page_rows, 10) + 2
                assert list(record_stream(self.narrow, descending=True)) == whole[::-1]

    def test_it_narrows_in_every_way_on_every_page(self) -> None:
        with patch.multiple(selectors, FIRST_PAGE_ROWS=2, MAX_PAGE_ROWS=2, PAGE_CHARACTERS=1):
            tagged = list(record_stream(replace(self.narrow, tag="b")))
            assert len(tagged) == 20 and {row.tag for row in tagged} == {"b"}
            one = list(record_stream(replace(self.narrow, device_keys=[self.db1.pk]), descending=True))
            assert len(one) == 30 and {row.device_id for row in one} == {"db-1"}
            both = replace(self.narrow, device_keys=[self.db1.pk, self.web1.pk], tag="a")
            assert len(list(record_stream(both))) == 20
            bounds = replace(self.narrow, low=NOW + timedelta(seconds=3), high=NOW + timedelta(seconds=5))
            assert len(list(record_stream(bounds))) == 8
            assert len(list(record_stream(bounds, limit=5))) == 5
            assert len(list(record_stream(bounds, limit=8))) == 8
            assert len(list(record_stream(bounds, limit=9))) == 8
            assert list(record_stream(replace(self.narrow, channel_key=0))) == []
            assert list(record_stream(replace(self.narrow, device_keys=[]))) == []

    def test_large_records_make_small_pages(self) -> None:
        big = "x" * 10_000
        for number in range(100):
            record_add(self.web1, self.backups, NOW + timedelta(minutes=number), {"big": big, "n": number})
        narrow = replace(self.narrow, channel_key=self.backups.pk)
        with (
            patch.multiple(selectors, FIRST_PAGE_ROWS=20, PAGE_CHARACTERS=150_000),
            patch.object(selectors, "_page", wraps=selectors._page) as page,
        ):
            assert len(list(record_stream(narrow))) == 101
        limits = [call.kwargs["limit"] for call in page.call_args_list]
        assert limits[0] == 20 and set(limits[1:]) <= {14, 15}

    def test_a_sudden_large_record_ends_its_page(self) -> None:
        record_add(self.web1, self.servers, NOW + timedelta(seconds=2, milliseconds=1), {"big": "x" * 5_000})
        with patch.object(selectors, "PAGE_CHARACTERS", 2_000):
            page = selectors._page(self.narrow, descending=False, after=None, limit=100)
            assert len(page.rows) == 13 and page.more
            assert len(list(record_stream(self.narrow))) == 61

    def test_it_reads_a_page_when_it_is_reached(self) -> None:
        with (
            patch.multiple(selectors, FIRST_PAGE_ROWS=10, MAX_PAGE_ROWS=10),
            patch.object(selectors, "_page", wraps=selectors._page) as page,
        ):
            rows = record_stream(self.narrow)
            assert page.call_count == 0
            for _number in range(11):
                next(rows)
            assert page.call_count == 2

    def test_the_newest_are_found_by_the_index_on_a_day_or_two(self) -> None:
        with connection.cursor() as cursor:
            if storage_kind(cursor) is Kind.PARTITIONS:
                partitions_create(cursor, [NOW.date() - timedelta(days=days) for days in range(1, 40)])
        assert records_newest(self.narrow, limit=2)[0].value in ('{"n": 59}', '{"n": 58}')
        narrow = replace(self.narrow, low=NOW - timedelta(hours=1))
        sql, values = selectors._page_query(narrow, descending=True, after=None, limit=1)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {sql}", values)
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "Index Scan Backward" in plan and "channel_key" in plan
        assert plan.count("Index Scan Backward using streams_record") + plan.count("_hyper_") <= 6

    def test_the_newest_are_complete_beyond_the_first_windows(self) -> None:
        for days in (2, 30, 200):
            record_add(self.web1, self.backups, NOW - timedelta(days=days), {"n": -days})
        narrow = replace(self.narrow, channel_key=self.backups.pk)
        values = [row.value for row in records_newest(narrow, limit=9)]
        assert values == ['{"n": -1}', '{"n": -2}', '{"n": -30}', '{"n": -200}']
        bounded = replace(narrow, low=NOW - timedelta(days=40))
        assert len(records_newest(bounded, limit=9)) == 3

    def test_the_newest_are_found_without_a_latest_value(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM channels_latest")
        assert len(records_newest(self.narrow, limit=7)) == 7
