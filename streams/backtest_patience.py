"""How long a back-test may take as a whole, and each of its queries."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

_OF_SAVEPOINTS = ("SAVEPOINT", "RELEASE", "ROLLBACK")
LEAST_S = 0.01  # with less a query is not begun


class TimeIsOver(Exception):
    """There is no time left for another query."""


@dataclass
class Patience:
    """Lasts `seconds` by `clock`, from when it is made."""

    seconds: float
    clock: Callable[[], float]
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = self.clock() + self.seconds

    def left_s(self) -> float:
        return self._until - self.clock()

    def part(self, parts: int) -> "Patience":
        """What one of so many parts may take of what is left."""
        return Patience(self.left_s() / parts, self.clock)

    @contextmanager
    def limits_queries(self) -> Iterator[None]:
        """Within a transaction: no query takes longer than what is left, and none begins when nothing is.

        Raises TimeIsOver, or OperationalError of a query that was broken off.
        """

        def limited(execute: Any, sql: Any, parameters: Any, many: bool, context: Any) -> Any:
            if sql.startswith(_OF_SAVEPOINTS):
                return execute(sql, parameters, many, context)
            left_s = self.left_s()
            if left_s < LEAST_S:
                raise TimeIsOver
            execute(f"SET LOCAL statement_timeout = {int(left_s * 1_000)}", None, False, context)
            return execute(sql, parameters, many, context)

        with connection.execute_wrapper(limited):
            yield
