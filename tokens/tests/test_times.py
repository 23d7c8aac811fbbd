from datetime import UTC, datetime
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest

from tokens.times import time_parse, time_text

TOKYO, NEW_YORK = ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")
NINE = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23 18:30",
        "2026-11-23 18:30:00",
        "2026-11-23T18:30",
        "2026-11-23T18:30:00.000",
        " 2026-11-23T18:30:00,0 ",
        "2026-11-23T18:30:00+09:00",
        "2026-11-23T18:30:00+0900",
        "2026-11-23T18:30:00 +09",
        "2026-11-23T09:30:00Z",
        "2026-11-23 09:30z",
        "2026-11-23 04:00-05:30",
    ],
)
def test_it_reads_every_published_form(text: str) -> None:
    assert time_parse(text, zone=TOKYO) == NINE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-23",
        "2026-13-01 00:00",
        "2026-02-30 00:00",
        "2026-11-23 24:00",
        "2026-11-23 09:60",
        "2026-11-23 09:30:60",
        "2026-11-23T09:30:00+24:00",
        "2026-11-23T09:30:00+09:60",
        "2026-11-23T09:30:00.1234567890",
        "２０２６-11-23 09:30",
        "0001-01-01 00:00",  # the year 0 in UTC
        "9999-12-31 23:59:59-09:00",
        "1763888400",
    ],
)
def test_it_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        time_parse(text, zone=TOKYO)


def test_it_reads_a_repeated_local_time_as_the_first_of_the_two() -> None:
    assert time_parse("2026-11-01 01:30", zone=NEW_YORK) == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    assert time_parse("2026-11-01 01:30-05:00", zone=NEW_YORK) == datetime(2026, 11, 1, 6, 30, tzinfo=UTC)


def test_it_reads_a_skipped_local_time_with_the_offset_before_the_change() -> None:
    at = time_parse("2026-03-08 02:30", zone=NEW_YORK)
    assert at == datetime(2026, 3, 8, 7, 30, tzinfo=UTC)
    assert time_text(at, zone=NEW_YORK) == "2026-03-08T03:30:00.000-04:00"


def test_it_keeps_the_order_of_two_times_across_a_repeated_hour() -> None:
    first = time_parse("2026-11-01T01:50:00-04:00", zone=NEW_YORK)
    second = time_parse("2026-11-01T01:10:00-05:00", zone=NEW_YORK)
    assert first < second


def test_it_writes_milliseconds_and_microseconds_when_there_are_some() -> None:
    assert time_text(NINE, zone=TOKYO) == "2026-11-23T18:30:00.000+09:00"
    assert time_text(NINE.replace(microsecond=120_000), zone=TOKYO) == "2026-11-23T18:30:00.120+09:00"
    assert time_text(NINE.replace(microsecond=120_001), zone=TOKYO) == "2026-11-23T18:30:00.120001+09:00"
    assert time_text(None, zone=TOKYO) is None


@pytest.mark.parametrize("microsecond", [0, 1, 999, 1_000, 123_456, 999_999])
@pytest.mark.parametrize("hour", [4, 5, 6, 7])  # 01:xx in New York, twice
def test_it_reads_back_the_very_moment_it_has_written(microsecond: int, hour: int) -> None:
    at = datetime(2026, 11, 1, hour, 30, 1, microsecond, tzinfo=UTC)
    for zone in (TOKYO, NEW_YORK, UTC):
        assert time_parse(time_text(at, zone=zone) or "", zone=zone) == at


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T18:30:00",
        "2026-11-23 18:30:00.123456",
        "2026-11-23T18:30:00.123456789Z",
        "2026-11-23T18:30:00,5+05:45",
        "2026-11-23T18:30:00-0330",
        "2026-11-01T01:30:00",
        "2026-03-08T02:30:00",
        "2026-11-23T18:30:00+09:00:30",
        "2026-11-23T18:30:00+24:00",
        "2026-W48-1T18:30:00",
        "2026-11-23T24:00:00",
        "2026-13-23T18:30:00",
        "9999-12-31T23:59:59-01:00",
        "0001-01-01T00:00:00+01:00",
        "２026-11-23T18:30:00",
        "2026-11-23T18:30:00 +09",
        "2026-11-23T18:30:00z",
        "2026-11-23x18:30:00",
    ],
)
def test_the_quick_reading_says_what_the_exact_one_says(text: str) -> None:
    def reading() -> datetime | str:
        try:
            return time_parse(text, zone=NEW_YORK)
        except ValueError:
            return "refused"

    quick = reading()
    with patch("tokens.times._quick", return_value=None):
        assert quick == reading()
