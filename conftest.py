from collections.abc import Iterator

import pytest

from servwatch_site.tests.server import running_server


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> Iterator[None]:
    """Starts the database server before pytest-django makes its test database there, and stops it last."""
    with running_server():
        yield
