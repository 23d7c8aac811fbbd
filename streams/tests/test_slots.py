"""How devices are dealt out among slots, and who serves which: decisions without a database."""

from datetime import UTC, datetime, timedelta

import pytest

from streams.lag import LagMeter, Spread
from streams.slots import (
    Mark,
    SlotState,
    Survey,
    slot_to_hand_over,
    slot_to_take,
    slots_leaving,
    slots_plan,
    topic_share,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SETTLE = timedelta(seconds=12)
LONG_AGO = NOW - timedelta(hours=1)
TOKEN = "A" * 32


def states(*found: SlotState) -> dict[int, SlotState]:
    return {state.slot: state for state in found}


def plan(known: dict[int, SlotState], wanted: int) -> tuple[list[int], tuple[int, int]]:
    missing, mark = slots_plan(known, wanted=wanted, now=NOW, settle=SETTLE)
    return missing, (mark.epoch, mark.parts)


def test_all_topics_of_a_device_have_the_same_share() -> None:
    topics = ("json/web-1", "json/web-1/rack", "binary/web-1", "state/web-1", "ack/web-1", "web-1")
    assert len({topic_share(f"{TOKEN}/{topic}") for topic in topics}) == 1


def test_every_device_belongs_to_exactly_one_slot_and_none_gets_far_too_many() -> None:
    slots = [SlotState(slot, parts=3) for slot in range(3)]
    takers = [
        [slot.slot for slot in slots if slot.takes(f"{TOKEN}/json/web-{number}")] for number in range(3000)
    ]
    assert all(len(taken) == 1 for taken in takers)
    counts = [takers.count([slot]) for slot in range(3)]
    assert min(counts) > 900


def test_a_new_slot_takes_nothing_until_a_mark() -> None:
    new = SlotState(1, parts=1)
    topics = [f"{TOKEN}/json/web-{number}" for number in range(100)]
    assert not any(new.takes(topic) for topic in topics)
    dealt = new.after(Mark(1, 2, 0))
    first = SlotState(0).after(Mark(1, 2, 0))
    assert [first.takes(topic) for topic in topics] == [not dealt.takes(topic) for topic in topics]


def test_in_doubt_it_takes_what_was_its_before_the_mark_too() -> None:
    doubtful = SlotState(0, parts=2, before=1, epoch=1, in_doubt=True)
    assert all(doubtful.takes(f"{TOKEN}/json/web-{number}") for number in range(100))


@pytest.mark.parametrize(
    "payload", [b"", b"x", b"[1]", b'{"epoch":1}', b'{"epoch":1,"parts":"a","at":1}', b"1"]
)
def test_what_is_no_mark_is_none(payload: bytes) -> None:
    assert Mark.decode(payload) is None
    assert Mark.decode(Mark(3, 2, 5.5).encode()) == Mark(3, 2, 5.5)


def test_the_first_slot_is_made_first_and_takes_everything() -> None:
    assert plan({}, 3) == ([0], (0, 1))
    assert plan(states(SlotState(0, session_at=LONG_AGO)), 1) == ([], (0, 1))


def test_a_mark_waits_until_the_broker_has_saved_the_new_session() -> None:
    first = SlotState(0, session_at=LONG_AGO)
    assert plan(states(first), 2) == ([1], (0, 1))
    assert plan(states(first, SlotState(1, parts=1)), 2) == ([], (0, 1))
    assert plan(states(first, SlotState(1, parts=1, session_at=NOW - timedelta(seconds=5))), 2) == (
        [],
        (0, 1),
    )
    assert plan(states(first, SlotState(1, parts=1, session_at=NOW - SETTLE)), 2) == ([], (1, 2))


def test_the_next_change_waits_until_all_have_reached_the_last() -> None:
    halfway = states(SlotState(0, parts=2, epoch=1, session_at=LONG_AGO), SlotState(1, session_at=LONG_AGO))
    assert plan(halfway, 3) == ([], (1, 2))
    assert slots_leaving(halfway, wanted=1) == []


def test_a_slot_leaves_when_all_have_reached_the_mark_without_it() -> None:
    two = states(
        SlotState(0, parts=2, epoch=1, session_at=LONG_AGO),
        SlotState(1, parts=2, epoch=1, session_at=LONG_AGO),
    )
    assert slots_leaving(two, wanted=1) == []
    assert plan(two, 1) == ([], (2, 1))
    reached = states(*(state.after(Mark(2, 1, 0)) for state in two.values()))
    assert slots_leaving(reached, wanted=1) == [1]
    assert slots_leaving(reached, wanted=2) == []
    leaving = {**reached, 1: reached[1]._replace(leaving=True)}
    assert slots_leaving(leaving, wanted=1) == []
    assert plan(leaving, 2) == ([], (2, 1))


def who(me: int, served: dict[int, set[int]], *, slots: int, taken: set[int] | None = None) -> Survey:
    held = {pid: frozenset(found) for pid, found in served.items()}
    all_held = frozenset().union(*held.values())
    known = {slot: SlotState(slot, parts=slots) for slot in range(slots)}
    return Survey(me, held, frozenset(taken) if taken is not None else all_held, known)


def test_who_is_alone_takes_all_slots_at_once() -> None:
    assert slot_to_take(who(1, {1: set()}, slots=2), free_for={}) == 0
    assert slot_to_take(who(1, {1: {0}}, slots=2), free_for={}) == 1
    assert slot_to_take(who(1, {1: {0, 1}}, slots=2), free_for={}) is None


def test_who_serves_fewest_takes_a_free_slot_but_lets_its_listener_come_back() -> None:
    few, many = (who(me, {1: {0}, 2: {1, 2}}, slots=4) for me in (1, 2))
    assert slot_to_take(few, free_for={3: 1}) is None
    assert slot_to_take(few, free_for={3: 2}) == 3
    assert slot_to_take(many, free_for={3: 2}) is None
    assert slot_to_take(many, free_for={3: 4}) == 3


def test_it_hands_over_until_all_is_even() -> None:
    assert slot_to_hand_over(who(1, {1: {0, 1}, 2: set()}, slots=2)) == 1
    assert slot_to_hand_over(who(1, {1: {0, 1}, 2: {2}}, slots=3)) is None
    assert slot_to_hand_over(who(1, {1: {0}, 2: set()}, slots=1)) is None


def test_the_lag_is_the_way_of_the_last_mark_or_the_silence_since() -> None:
    meter = LagMeter()
    assert meter.lag_s(now=100.0, oldest_at=None) is None
    assert meter.lag_s(now=100.0, oldest_at=98.0) == 2.0
    meter.reached(100.0, now=100.25)
    assert meter.lag_s(now=100.5, oldest_at=None) == 0.25
    assert meter.lag_s(now=100.5, oldest_at=99.5) == 1.0
    assert meter.lag_s(now=111.0, oldest_at=None) == 10.0


def test_a_spread_counts_by_upper_bounds() -> None:
    spread = Spread((1, 10))
    for value in (1, 2, 10, 11, 500):
        spread.add(value)
    assert (spread.counts, spread.total) == ([1, 2, 2], 524)
