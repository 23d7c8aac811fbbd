"""Whether somebody is told of a notification, decided without a database."""

from datetime import UTC, datetime, timedelta

import pytest

from events.damping import Case, Hold, Kind, Settle, Why, awake_is_due, decide, repeat_is_due

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
FIRING, RESOLVED = Case(Kind.FIRING, resolved=False), Case(Kind.RESOLVED, resolved=True, told=True)


@pytest.mark.parametrize(
    ("case", "becomes"),
    [
        (FIRING, Settle(Why.SENT, Kind.FIRING)),
        (FIRING._replace(maintenance_until=LATER), Hold(LATER)),
        (FIRING._replace(was_held=True), Settle(Why.SENT, Kind.FIRING)),
        (FIRING._replace(was_held=True, resolved=True), Settle(Why.OVERTAKEN)),
        # Over before anybody looked, but never held: the whole story is told.
        (FIRING._replace(resolved=True), Settle(Why.SENT, Kind.FIRING)),
        (FIRING._replace(snoozed_until=LATER), Settle(Why.SNOOZED)),
        (FIRING._replace(snoozed_until=NOW), Settle(Why.SENT, Kind.FIRING)),
        (FIRING._replace(snoozed_until=LATER, maintenance_until=LATER), Hold(LATER)),
        (FIRING._replace(often=True), Settle(Why.FLAPPING, Kind.FLAPPING)),
        (FIRING._replace(often=True, flapping=True), Settle(Why.FLAPPING)),
        (FIRING._replace(often=True, maintenance_until=LATER), Hold(LATER)),
        (FIRING._replace(flapping=True, maintenance_until=LATER), Settle(Why.FLAPPING)),
        (RESOLVED, Settle(Why.SENT, Kind.RESOLVED)),
        (RESOLVED._replace(told=False), Settle(Why.OVERTAKEN)),
        (RESOLVED._replace(told=False, firing_waits=True), Settle(Why.OVERTAKEN)),
        (RESOLVED._replace(maintenance_until=LATER), Hold(LATER)),
        (RESOLVED._replace(snoozed_until=LATER), Settle(Why.SENT, Kind.RESOLVED)),
        (RESOLVED._replace(flapping=True), Settle(Why.FLAPPING)),
        (Case(Kind.REPEAT, resolved=False), Settle(Why.SENT, Kind.REPEAT)),
        (Case(Kind.REPEAT, resolved=True), Settle(Why.OVERTAKEN)),
        (Case(Kind.REPEAT, resolved=False, snoozed_until=LATER), Settle(Why.SNOOZED)),
        (Case(Kind.REPEAT, resolved=False, maintenance_until=LATER), Settle(Why.MAINTENANCE)),
        (Case(Kind.AWAKE, resolved=False), Settle(Why.SENT, Kind.AWAKE)),
        (Case(Kind.AWAKE, resolved=False, maintenance_until=LATER), Hold(LATER)),
        (Case(Kind.AWAKE, resolved=True), Settle(Why.OVERTAKEN)),
        (Case(Kind.CALM, resolved=False), Settle(Why.SENT, Kind.CALM)),
        (Case(Kind.CALM, resolved=True, was_held=True), Settle(Why.SENT, Kind.CALM)),
        (Case(Kind.CALM, resolved=False, flapping=True), Settle(Why.SENT, Kind.CALM)),
        (Case(Kind.CALM, resolved=False, snoozed_until=LATER), Settle(Why.SNOOZED)),
        (Case(Kind.CALM, resolved=True, maintenance_until=LATER), Hold(LATER)),
    ],
)
def test_what_becomes_of_a_notification(case: Case, becomes: Hold | Settle) -> None:
    assert decide(case, now=NOW) == becomes


@pytest.mark.parametrize(
    ("notified_s", "acknowledged", "snoozed_s", "due"),
    [
        (600, False, None, True),
        (599, False, None, False),
        (None, False, None, False),
        (600, True, None, False),
        (600, False, 1, False),
        (600, False, 0, True),
    ],
)
def test_it_is_told_again_until_acknowledged(
    notified_s: int | None, acknowledged: bool, snoozed_s: int | None, due: bool
) -> None:
    """`notified_s` ago, and snoozed for so long from now."""
    notified_at = None if notified_s is None else NOW - timedelta(seconds=notified_s)
    snoozed_until = None if snoozed_s is None else NOW + timedelta(seconds=snoozed_s)
    found = repeat_is_due(
        notified_at=notified_at, repeat_s=600, acknowledged=acknowledged, snoozed_until=snoozed_until, now=NOW
    )
    assert found is due


def test_nothing_is_told_again_without_a_distance() -> None:
    assert not repeat_is_due(
        notified_at=NOW, repeat_s=None, acknowledged=False, snoozed_until=None, now=LATER
    )


def test_the_end_of_a_snooze_is_told_once() -> None:
    assert awake_is_due(notified_at=NOW, snoozed_until=LATER, now=LATER)
    assert awake_is_due(notified_at=None, snoozed_until=LATER, now=LATER)
    assert not awake_is_due(notified_at=NOW, snoozed_until=LATER, now=NOW)
    assert not awake_is_due(notified_at=LATER, snoozed_until=LATER, now=LATER)
    assert not awake_is_due(notified_at=NOW, snoozed_until=None, now=LATER)
