"""Finding Mosquitto, and fetching it where it is not installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from servwatch_site.embedded import mosquitto_programs
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.mosquitto_programs import Program, find_broker, find_publisher

NO_LISTS = not any(Path("/var/lib/apt/lists").glob("*_Packages*"))


def quiet(_sentence: str) -> None:
    """Nobody listens."""


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="this system has no apt-get")
@pytest.mark.skipif(NO_LISTS, reason="there are no package lists; apt-get update makes them")
def test_it_unpacks_broker_and_clients_privately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosquitto_programs, "_installed", lambda _name: None)
    said: list[str] = []
    folder = tmp_path / "a folder"
    broker = find_broker(folder, say=said.append)
    publisher = find_publisher(folder, say=said.append)
    assert publisher is not None
    assert broker.path.is_relative_to(folder / "packages")
    assert len(said) == 2
    pasted = ["sh", "-c", f"{publisher.shell_words()} --help"]
    help_text = subprocess.run(pasted, capture_output=True, text=True, check=False).stdout
    assert "mosquitto_pub is a simple mqtt client" in help_text
    assert find_broker(folder, say=said.append) == broker
    assert len(said) == 2


def test_it_says_what_to_do_where_there_is_no_package_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosquitto_programs, "_installed", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        EmbeddedError, match=r"no apt-get.*Install Mosquitto 2.*SERVWATCH_MOSQUITTO.*MQTT_URL"
    ):
        find_broker(tmp_path, say=quiet)
    assert find_publisher(tmp_path, say=quiet) is None


def test_a_named_program_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = _program(tmp_path / "my mosquitto", prints="mosquitto version 2.1.0")
    monkeypatch.setenv("SERVWATCH_MOSQUITTO", str(named))
    assert find_broker(tmp_path, say=quiet) == Program(named)


def test_it_refuses_a_named_program_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVWATCH_MOSQUITTO", str(tmp_path))
    with pytest.raises(EmbeddedError, match="not a program"):
        find_broker(tmp_path, say=quiet)


def test_it_refuses_a_mosquitto_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = _program(tmp_path / "mosquitto", prints="mosquitto version 1.6.9")
    monkeypatch.setenv("SERVWATCH_MOSQUITTO", str(named))
    with pytest.raises(EmbeddedError, match="too old"):
        find_broker(tmp_path, say=quiet)


def test_the_client_is_written_as_a_shell_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = _program(tmp_path / "mosquitto_pub", prints="")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert Program(on_path).shell_words() == "mosquitto_pub"
    private = Program(Path("/my data/pub"), library_path="/my data/lib")
    assert private.shell_words() == "LD_LIBRARY_PATH='/my data/lib' '/my data/pub'"


def _program(path: Path, *, prints: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{prints}'\n", encoding="utf-8")
    path.chmod(0o755)
    return path
