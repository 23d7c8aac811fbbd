"""Our app `channels` and the installed Django Channels share a name; docs/decisions/0001 tells how."""

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY_MODULES = {
    "auth", "consumer", "db", "exceptions", "generic", "layers", "management", "middleware", "routing",
    "security", "sessions", "testing", "utils", "worker",
}  # fmt: skip
MAY_IMPORT_THE_LIBRARY = {"servwatch_site/asgi.py", "streams/consumers.py", "streams/live.py"}


def test_ours_comes_first_and_the_librarys_modules_are_found_behind_it() -> None:
    ours = importlib.import_module("channels.models")
    library = importlib.import_module("channels.layers")
    assert Path(ours.__file__ or "").is_relative_to(ROOT / "channels")
    assert not Path(library.__file__ or "").is_relative_to(ROOT / "channels")


def test_no_file_of_ours_is_named_like_a_module_of_the_library() -> None:
    names = {path.stem for path in (ROOT / "channels").iterdir()}
    assert names & LIBRARY_MODULES == set()


def test_only_the_live_parts_import_the_library() -> None:
    pattern = re.compile(
        rf"^\s*(?:from|import) channels\.({'|'.join(sorted(LIBRARY_MODULES))})\b", re.MULTILINE
    )
    found = {
        str(path.relative_to(ROOT))
        for room in ("servwatch_site", "tokens", "channels", "devices", "streams", "console")
        for path in (ROOT / room).rglob("*.py")
        if "tests" not in path.parts and pattern.search(path.read_text(encoding="utf-8"))
    }
    assert found <= MAY_IMPORT_THE_LIBRARY
    assert found, "nothing imports the library any more: this test guards nothing"
