"""A cache of numbers that all web processes count in together: one UNLOGGED table, one atomic statement a step.

django-ratelimit needs a shared cache that adds and increments atomically; Django's database cache does neither.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import connection

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)


class CounterCache(BaseCache):
    """Holds whole numbers only. Raises DatabaseError when the database does not answer."""

    def __init__(self, _location: str, params: Mapping[str, Any]) -> None:
        super().__init__(dict(params))

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Begin to count, unless somebody has begun."""
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO tokens_counter AS c (key, value, expires_at) VALUES (%s, %s, %s)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
                " WHERE c.expires_at <= now()",
                [self.make_and_validate_key(key, version=version), int(value), self._until(timeout)],
            )
            return bool(cursor.rowcount)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT value FROM tokens_counter WHERE key = %s AND expires_at > now()",
                [self.make_and_validate_key(key, version=version)],
            )
            row = cursor.fetchone()
        return default if row is None else row[0]

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO tokens_counter (key, value, expires_at) VALUES (%s, %s, %s)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at",
                [self.make_and_validate_key(key, version=version), int(value), self._until(timeout)],
            )

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Count on. Raises ValueError when nobody has begun."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE tokens_counter SET value = value + %s WHERE key = %s AND expires_at > now() RETURNING value",
                [delta, self.make_and_validate_key(key, version=version)],
            )
            row = cursor.fetchone()
        if row is None:
            raise ValueError("this counter has not begun, or has ended")
        return int(row[0])

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE tokens_counter SET expires_at = %s WHERE key = %s AND expires_at > now()",
                [self._until(timeout), self.make_and_validate_key(key, version=version)],
            )
            return bool(cursor.rowcount)

    def delete(self, key: str, version: int | None = None) -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM tokens_counter WHERE key = %s",
                [self.make_and_validate_key(key, version=version)],
            )
            return bool(cursor.rowcount)

    def clear(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tokens_counter")

    def _until(self, timeout: Any) -> datetime:
        moment = self.get_backend_timeout(timeout)
        return FOREVER if moment is None else datetime.fromtimestamp(moment, tz=UTC)


def counters_expire() -> int:
    """Remove what is no longer counted; returns how many counters that were."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tokens_counter WHERE expires_at < now() - interval '1 minute'")
        return int(cursor.rowcount)
