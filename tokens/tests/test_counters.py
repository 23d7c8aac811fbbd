from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import caches
from django.db import connection
from django.test import TestCase, TransactionTestCase

from tokens.counters import counters_expire


class CounterCacheTest(TestCase):
    def setUp(self) -> None:
        self.counters = caches["counters"]

    def test_it_begins_once_and_counts_on(self) -> None:
        assert self.counters.add("a", 1, 60) is True
        assert self.counters.add("a", 1, 60) is False
        assert self.counters.incr("a") == 2
        assert self.counters.incr("a", 5) == 7
        assert self.counters.decr("a") == 6
        assert (self.counters.get("a"), self.counters.get("b"), self.counters.get("b", 3)) == (6, None, 3)

    def test_what_has_ended_begins_anew(self) -> None:
        self.counters.set("a", 9, -1)
        assert self.counters.get("a") is None
        with pytest.raises(ValueError, match="has not begun"):
            self.counters.incr("a")
        assert self.counters.add("a", 1, 60) is True
        assert self.counters.get("a") == 1

    def test_it_can_be_set_prolonged_and_deleted(self) -> None:
        self.counters.set("a", 4, None)
        assert self.counters.touch("a", 60) is True
        assert self.counters.touch("b", 60) is False
        assert self.counters.delete("a") is True
        assert self.counters.delete("a") is False
        self.counters.set("a", 4)
        self.counters.clear()
        assert self.counters.get("a") is None

    def test_old_counters_are_removed(self) -> None:
        self.counters.set("old", 1, -120)
        self.counters.set("new", 1, 60)
        assert counters_expire() == 1
        assert self.counters.get("new") == 1


class ManyAtOnceTest(TransactionTestCase):
    def test_no_count_is_lost_between_connections(self) -> None:
        counters = caches["counters"]

        def count(_number: int) -> None:
            try:
                for _ in range(50):
                    if not caches["counters"].add("many", 1, 60):
                        caches["counters"].incr("many")
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(count, range(4)))
        assert counters.get("many") == 200
        counters.clear()
