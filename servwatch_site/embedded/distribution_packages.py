"""Unpack packages of a Debian-like distribution into a folder of our own: no root, nothing installed."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from servwatch_site.embedded.errors import EmbeddedError


def unpack(packages: Sequence[str], *, home: Path) -> Path:
    """The folder that holds the packages' files and those of every library the machine lacks.

    The package client is asked for a download only, into an archive folder of its own; a machine without
    (fresh) package lists gets private ones first.
    """
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise EmbeddedError(f"this system has no {program}")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    archives = home / "archives"
    options = _options(archives=archives)
    try:
        _download(packages, options=options)
    except EmbeddedError:
        options += _private_lists(home, options=options)
        _download(packages, options=options)
    unfinished, finished = home / "files.new", home / "files"
    shutil.rmtree(unfinished, ignore_errors=True)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(archive), str(unfinished)])
    shutil.rmtree(finished, ignore_errors=True)
    unfinished.rename(finished)
    shutil.rmtree(archives)
    shutil.rmtree(home / "lists", ignore_errors=True)
    return finished


def library_path(files: Path) -> str:
    """What LD_LIBRARY_PATH must be for programs below `files`."""
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    folders = [files / "usr" / "lib" / triplet, files / "lib" / triplet, files / "usr" / "lib"]
    return ":".join(str(folder) for folder in folders)


def missing_libraries(program: Path, *, environment: dict[str, str]) -> list[str]:
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, env=environment)
    return [line.split()[0] for line in answer.stdout.splitlines() if "not found" in line]


def _options(*, archives: Path) -> list[str]:
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    return [
        *_option("Dir::Cache::archives", archives),
        *_option("Debug::NoLocking", 1),  # the lock belongs to root, and nothing of the system is changed
        *_option("APT::Sandbox::User", "root"),  # root's own folder is closed to the client's helper user
        *_option("Acquire::Retries", 1),
    ]


def _option(name: str, value: object) -> tuple[str, str]:
    return "-o", f"{name}={value}"


def _download(packages: Iterable[str], *, options: Sequence[str]) -> None:
    flags = ["--yes", "--quiet", "--download-only", "--reinstall", "--no-install-recommends"]
    _run(["apt-get", "install", *flags, *options, *packages])


def _private_lists(home: Path, *, options: Sequence[str]) -> list[str]:
    lists, cache = home / "lists", home / "archives"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    private = [*_option("Dir::State::lists", lists), *_option("Dir::Cache", cache)]
    _run(["apt-get", "update", "--quiet", *options, *private])
    return private


def _run(argv: Sequence[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    if answer.returncode != 0:
        raise EmbeddedError(f"{argv[0]} said: {_reason(answer.stderr)}")


def _reason(stderr: str) -> str:
    errors = [line for line in stderr.splitlines() if line.startswith("E:")]
    return (errors or stderr.splitlines() or ["nothing"])[-1].removeprefix("E:").strip()
