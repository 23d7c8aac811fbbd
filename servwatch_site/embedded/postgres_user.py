"""As whom the database server runs: PostgreSQL refuses to run as root."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from servwatch_site.embedded import processes
from servwatch_site.embedded.errors import EmbeddedError

NOBODY = 65534
NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
CHANGED_USER = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


class Way(Enum):
    ITSELF = "the user who started Servwatch"
    NAMESPACE = "root, shown to PostgreSQL as nobody in a user namespace"
    NOBODY = "the user nobody"


@dataclass(frozen=True)
class ServerUser:
    way: Way

    def wrap(self, argv: Sequence[str], *, death_signal: signal.Signals) -> list[str]:
        """The command as this user. A change of user clears the death signal, so it is asked for after it."""
        name = death_signal.name.removeprefix("SIG")
        if self.way is Way.NAMESPACE:
            return [*NAMESPACE, "setpriv", "--pdeathsig", name, "--", *argv]
        if self.way is Way.NOBODY:
            return [*CHANGED_USER, "--pdeathsig", name, "--", *argv]
        return processes.guarded(argv, death_signal=death_signal)


def choose(*, folder: Path, program: str, files_are_nobodys: bool) -> ServerUser:
    """The first way that can write below `folder` and run `program`; whose files there are, stays."""
    if os.geteuid() != 0:
        return ServerUser(Way.ITSELF)
    if shutil.which("unshare") and shutil.which("setpriv"):
        trial = [*NAMESPACE, "setpriv", "--pdeathsig", "INT", "--"]
        if not files_are_nobodys and _succeeds(trial, folder=folder, program=program):
            return ServerUser(Way.NAMESPACE)
        if _succeeds([*CHANGED_USER, "--pdeathsig", "INT", "--"], folder=None, program=program):
            return ServerUser(Way.NOBODY)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and neither a user namespace nor the user nobody can run "
        f"{program} here. Start Servwatch as an ordinary user, or name an existing database with "
        "DATABASE_URL."
    )


def _succeeds(prefix: Sequence[str], *, folder: Path | None, program: str) -> bool:
    script = 'test -z "$1" || test -w "$1" || exit 1; "$2" --version'
    argv = [*prefix, "sh", "-c", script, "sh", str(folder or ""), program]
    return subprocess.run(argv, capture_output=True, cwd="/", check=False).returncode == 0
