from datetime import UTC, datetime

import pytest
from django.db import DataError, connection
from django.test import TestCase

from servwatch_site.fast_times import UtcLoader


class FastTimesTest(TestCase):
    def read(self, text: str) -> datetime:
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::timestamptz", [text])
            (found,) = cursor.fetchone()
        assert isinstance(found, datetime) and found.tzinfo is UTC
        return found

    def test_times_come_as_django_gives_them(self) -> None:
        for text in ("2026-07-01 12:00:00.000001+00", "1969-12-31 23:59:59.5-08", "0001-01-01 00:00:00+00"):
            assert self.read(text) == datetime.fromisoformat(text)

    def test_another_style_of_dates_is_refused_as_before(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL datestyle = 'SQL, DMY'")
        with pytest.raises(NotImplementedError):
            self.read("2026-07-01 12:00:00+00")

    def test_times_that_python_has_not_are_refused_as_before(self) -> None:
        for text in ("infinity", "0044-03-15 12:00:00+00 BC"):
            with pytest.raises(DataError):
                self.read(text)

    def test_connections_use_it(self) -> None:
        connection.ensure_connection()
        assert UtcLoader in connection.connection.adapters._loaders[0].values()
