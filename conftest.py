import contextlib
from collections.abc import Iterator

import pytest
from django.core.management import call_command

from servwatch_site.tests.broker import mosquitto_on_path
from servwatch_site.tests.server import running_server


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> Iterator[None]:
    """Starts the database server before pytest-django makes its test database there, and stops it last."""
    with running_server():
        yield


@pytest.fixture(scope="session", autouse=True)
def static_files() -> None:
    """Pages are rendered with the hashed names that a running installation serves."""
    call_command("collectstatic", verbosity=0, interactive=False)


@pytest.fixture(scope="session", autouse=True)
def mosquitto_for_all(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The agent's tests know nothing of the product and look for Mosquitto on PATH; without any they skip."""
    with contextlib.suppress(pytest.skip.Exception):
        mosquitto_on_path(tmp_path_factory.mktemp("programs"))
