"""The small edition of bench/ledger.py: processes are killed under load, and the books are checked."""

from bench.ledger import Kill, run
from servwatch_site.tests.broker import mosquitto


def test_kills_of_listener_and_database_lose_nothing_and_double_nothing() -> None:
    mosquitto()  # skips with the reason where there is none
    kills = [Kill("listener", 1), Kill("postgres", 3), Kill("listener", 5)]
    result = run(rate=1_000, seconds=7, kills=kills)
    assert result.acknowledged == result.sent == 7_000
    assert result.stored == result.acknowledged
    assert (result.lost, result.doubled, result.refused) == (0, 0, 0)
    assert result.adds_up
