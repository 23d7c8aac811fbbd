"""Pages of days old enough to be in the columnstore, on every kind of storage."""

from datetime import UTC, datetime, timedelta

import pytest

from servwatch_site.tests.street import StreetTestCase
from streams import selectors
from streams.selectors import RecordFilter, record_stream
from streams.tests.columnstore import ColumnstoreTestCase
from streams.tests.records import record_add


class OldPages(StreetTestCase):
    __test__ = False

    def setUp(self) -> None:
        super().setUp()
        patch = pytest.MonkeyPatch()
        self.addCleanup(patch.undo)
        patch.setattr(selectors, "FIRST_PAGE_ROWS", 4)
        patch.setattr(selectors, "MAX_PAGE_ROWS", 4)
        self.begin = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(
            days=20
        )
        # Three days; in the middle eight records share their time, twice as many as a page has.
        for number in range(24):
            at = self.begin + timedelta(hours=2 * number if number < 8 or number >= 16 else 16)
            record_add(
                self.web1 if number % 2 else self.new1, self.servers, at, {"n": number}, tag=f"t{number % 2}"
            )
        self.whole = RecordFilter(self.servers.pk, self.begin, self.begin + timedelta(days=3))

    def numbers(self, narrow: RecordFilter, *, descending: bool = False) -> list[str]:
        return [row.value for row in record_stream(narrow, descending=descending)]

    def test_pages_in_both_directions_have_every_record_once(self) -> None:
        there = self.numbers(self.whole)
        assert len(set(there)) == 24
        assert self.numbers(self.whole, descending=True) == there[::-1]

    def test_a_tag_and_a_device_narrow_them(self) -> None:
        tagged = RecordFilter(self.servers.pk, self.whole.low, self.whole.high, tag="t1")
        of_device = RecordFilter(self.servers.pk, self.whole.low, self.whole.high, device_keys=[self.web1.pk])
        assert len(self.numbers(tagged)) == 12
        assert self.numbers(tagged) == self.numbers(of_device)

    def test_keys_narrow_them(self) -> None:
        at = self.begin + timedelta(hours=7)
        record_add(self.web1, self.servers, at, {"other": 1})
        named = RecordFilter(self.servers.pk, self.whole.low, self.whole.high, names=["other"])
        assert self.numbers(named) == ['{"other": 1}']

    def test_old_and_new_days_follow_each_other_in_both_directions(self) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        for number in range(24, 30):
            record_add(self.web1, self.servers, now - timedelta(minutes=40 - number), {"n": number})
        ever = RecordFilter(self.servers.pk, self.whole.low, now)
        there = self.numbers(ever)
        assert len(set(there)) == 30
        assert self.numbers(ever, descending=True) == there[::-1]

    def test_a_limit_is_kept(self) -> None:
        rows = list(record_stream(self.whole, limit=11))
        assert len(rows) == 11
        rest = list(record_stream(self.whole, after=rows[-1].position))
        assert [row.value for row in rows + rest] == self.numbers(self.whole)

    def test_records_removed_between_two_queries_do_not_end_the_reading(self) -> None:
        span = selectors._page_span

        def removing(narrow: RecordFilter, **rest: object) -> RecordFilter | None:
            found = span(narrow, **rest)  # type: ignore[arg-type]
            return None if found is None else RecordFilter(self.servers.pk, found.low, found.low)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(selectors, "_page_span", removing)
            assert len(self.numbers(self.whole)) == 24


class OldPagesTest(OldPages):
    __test__ = True


class CompressedPagesTest(OldPages, ColumnstoreTestCase):
    __test__ = True

    def setUp(self) -> None:
        super().setUp()
        assert self.compress()

    def test_a_page_reads_little_beyond_its_end_also_of_a_day_compressed_before_its_time(self) -> None:
        yesterday = datetime.now(UTC).replace(hour=3, minute=0, second=0, microsecond=0) - timedelta(days=1)
        for number in range(9):
            record_add(self.web1, self.servers, yesterday + timedelta(seconds=number), {"n": number})
        assert self.compress()
        both = RecordFilter(self.servers.pk, yesterday, yesterday + timedelta(hours=9))
        span = selectors._page_span(both, descending=False, after=None, limit=4)
        assert span is not None and span.high - yesterday < timedelta(seconds=4)
        assert self.numbers(both) == [f'{{"n": {number}}}' for number in range(9)]
        *_, fourth = record_stream(both, limit=4)
        assert selectors._page(both, descending=False, after=fourth.position, limit=4).read == 4
        *_, last = record_stream(both, descending=True, limit=4)
        assert selectors._page(both, descending=True, after=last.position, limit=4).read == 4
