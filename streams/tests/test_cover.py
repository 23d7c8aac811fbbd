from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise

from hypothesis import given
from hypothesis import strategies as st

from streams.cover import HOUR, MINUTE, MOST_SPANS, Cover, Resolution, Span, cover

DAY = datetime(2026, 11, 23, tzinfo=UTC)


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-23T{clock}+00:00")


def spans(*clocks: tuple[str, str]) -> list[Span]:
    return [(at(low), at(high)) for low, high in clocks]


def test_without_rollups_everything_is_read_from_the_records() -> None:
    assert cover(at("10:00"), at("12:00"), until=None) == Cover(raw=spans(("10:00", "12:00")))
    got = cover(at("10:00"), at("12:00"), until=at("12:00"), coarsest=Resolution.RAW)
    assert got.resolution == Resolution.RAW


def test_edges_and_the_newest_are_read_from_what_is_finer() -> None:
    got = cover(at("09:58:30"), at("13:00"), until=at("12:03"))
    assert got.hours == spans(("10:00", "12:00"))
    assert got.minutes == spans(("09:59", "10:00"), ("12:00", "12:03"))
    assert got.raw == spans(("09:58:30", "09:59"), ("12:03", "13:00"))
    assert got.resolution == Resolution.HOUR


def test_what_is_due_is_read_from_the_records() -> None:
    got = cover(at("10:00"), at("13:00"), until=at("13:00"), due=spans(("11:20", "11:22")))
    assert got.hours == spans(("10:00", "11:00"), ("12:00", "13:00"))
    assert got.minutes == spans(("11:00", "11:20"), ("11:22", "12:00"))
    assert got.raw == spans(("11:20", "11:22"))


def test_no_row_spans_the_edge_of_a_bucket() -> None:
    got = cover(at("10:00"), at("13:00"), until=at("13:00"), cuts=[at("10:00"), at("11:30"), at("12:00:10")])
    assert got.hours == spans(("10:00", "11:00"))
    assert got.raw == spans(("12:00", "12:01"))
    assert cover(
        at("10:00"), at("10:02"), until=at("12:00"), cuts=[at("10:00:30"), at("10:01:30")]
    ).raw == spans(("10:00", "10:02"))


moments = st.integers(0, 86_400 * 20).map(lambda twentieths: DAY + timedelta(seconds=twentieths / 20))
holes = st.lists(st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair))), max_size=80)


@given(moments, moments, moments, holes, st.lists(moments, max_size=80))
def test_the_parts_are_the_range_and_no_row_is_stale_or_cut(
    low: datetime, high: datetime, until: datetime, due: list[Span], cuts: list[datetime]
) -> None:
    got = cover(low, high, until=until, due=due, cuts=cuts)
    parts = sorted(chain(got.hours, got.minutes, got.raw))
    assert all(begin < end for begin, end in parts)
    if low < high:
        assert parts[0][0] == low and parts[-1][1] == high
        assert all(before[1] == after[0] for before, after in pairwise(parts))
    for rows, width in ((got.hours, HOUR), (got.minutes, MINUTE)):
        assert len(rows) <= MOST_SPANS
        for begin, end in rows:
            assert (begin - DAY) % width == (end - DAY) % width == timedelta(0)
            assert end <= until
            assert not any(hole[0] < end and hole[1] > begin and hole[0] < hole[1] for hole in due)
            assert all((cut - DAY) % width == timedelta(0) for cut in cuts if begin < cut < end)
