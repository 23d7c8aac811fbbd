"""The data folder of one running Servwatch: private, writable, and held by one supervisor at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servwatch_site.embedded.errors import EmbeddedError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder until the end of the block. The lock goes with the process, however it ends."""
    _prepare(folder)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", errors="replace").strip()
            raise EmbeddedError(_taken(folder, holder=holder)) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _taken(folder: Path, *, holder: str) -> str:
    process = f" (process {holder})" if holder else ""
    return (
        f"Servwatch is already running on {folder}{process}. Stop that one, or choose another folder with "
        "SERVWATCH_DATA_DIR."
    )


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise EmbeddedError(
                f"The data folder {folder} belongs to another user. Start Servwatch as that user, or choose "
                "another folder with SERVWATCH_DATA_DIR."
            )
        folder.chmod(0o700)
        (folder / "log").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(
            f"The data folder {folder} cannot be used: {error.strerror}. Choose another one with "
            "SERVWATCH_DATA_DIR."
        ) from None
