"""The small edition of bench/ledger.py: the most telling disturbances under load, and the books afterwards."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.devices import PERIOD, beginning, message
from bench.ledger import Ledger
from bench.scenarios import PARTS, SCENARIOS, Needs, Scenario, kills
from bench.supervised import Supervised
from servwatch_site.tests.broker import mosquitto

RATE = 200
UNDER_LOAD = [
    replace(SCENARIOS["kill listener"], rounds=1),
    kills([part for part in PARTS if part != "broker"]),
    replace(SCENARIOS["answers of postgres lost"], rounds=2),
    replace(SCENARIOS["answers of web lost"], rounds=1),
    replace(SCENARIOS["acknowledgements to broker lost"], rounds=1),
    replace(SCENARIOS["kill broker"], rounds=1),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Supervised]:
    mosquitto()  # skips with the reason where there is none
    with Supervised(proxied=True) as running:
        yield running


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger(rate=RATE, seconds=0)


@pytest.mark.parametrize("scenario", UNDER_LOAD, ids=lambda scenario: scenario.name)
def test_nothing_is_lost_and_nothing_stored_twice(
    ledger: Ledger, stack: Supervised, scenario: Scenario
) -> None:
    row = ledger.one(stack, scenario)
    assert row.broken == []
    assert row.acknowledged == row.sent > 0
    if not scenario.broker_dies:
        assert (row.lost.total(), row.doubled.total()) == (0, 0)
        assert row.acknowledged + row.again == row.stored + row.refused + row.duplicate
        assert row.refused > 0 and row.duplicate > 0


def test_no_message_repeats_one_from_before_the_beginning() -> None:
    first = beginning(1524)  # which repeats 1523
    assert first - 1524 < PERIOD
    assert all(message(number, base_us=0).original >= first for number in range(first, first + 2 * PERIOD))


def test_every_need_of_a_scenario_has_its_installation() -> None:
    assert {scenario.needs for scenario in SCENARIOS.values()} == set(Needs)
