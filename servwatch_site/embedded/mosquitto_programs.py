"""Where Mosquitto and its clients are on this machine, unpacked privately if need be."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servwatch_site.embedded import distribution_packages
from servwatch_site.embedded.errors import EmbeddedError

SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
OLDEST = (2, 0)


@dataclass(frozen=True)
class Program:
    path: Path
    library_path: str | None = None  # set where it was unpacked privately

    def environment(self) -> dict[str, str]:
        if self.library_path is None:
            return dict(os.environ)
        return {**os.environ, "LD_LIBRARY_PATH": self.library_path}

    def shell_words(self) -> str:
        """How a person starts it from any shell."""
        if self.library_path is None:
            return shlex.quote(self.path.name if shutil.which(self.path.name) else str(self.path))
        return f"LD_LIBRARY_PATH={shlex.quote(self.library_path)} {shlex.quote(str(self.path))}"


def find_broker(data_dir: Path, *, say: Callable[[str], None]) -> Program:
    """The named one, the installed one, else one unpacked below the data folder."""
    named = os.environ.get("SERVWATCH_MOSQUITTO")
    program = _named(named) if named else _installed("mosquitto")
    if program is None:
        program = _private(data_dir, package="mosquitto", relative="usr/sbin/mosquitto", say=say)
    version = _version(program)
    if version is None:
        raise EmbeddedError(f"{program.path} cannot be run here. {_remedy()}")
    if version < OLDEST:
        raise EmbeddedError(f"{program.path} is too old: Servwatch needs Mosquitto 2.0 or newer. {_remedy()}")
    return program


def find_publisher(data_dir: Path, *, say: Callable[[str], None]) -> Program | None:
    """`mosquitto_pub`, for the line that people paste; None where there is none to be had."""
    named = os.environ.get("SERVWATCH_MOSQUITTO")
    beside = Path(named).expanduser().with_name("mosquitto_pub") if named else None
    if beside is not None and os.access(beside, os.X_OK):
        return Program(beside)
    installed = _installed("mosquitto_pub")
    if installed is not None:
        return installed
    try:
        return _private(data_dir, package="mosquitto-clients", relative="usr/bin/mosquitto_pub", say=say)
    except EmbeddedError:
        return None


def _named(text: str) -> Program:
    path = Path(text).expanduser().absolute()
    if not os.access(path, os.X_OK) or path.is_dir():
        raise EmbeddedError(f"SERVWATCH_MOSQUITTO is {path}, which is not a program.")
    return Program(path)


def _installed(name: str) -> Program | None:
    folders = [os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return None if found is None else Program(Path(found))


def _private(data_dir: Path, *, package: str, relative: str, say: Callable[[str], None]) -> Program:
    home = data_dir / "packages" / package
    files = home / "files"
    if not (files / relative).exists():
        say(f"Fetching {package} from the distribution's packages into {home}.")
        try:
            distribution_packages.unpack([package], home=home)
        except (EmbeddedError, OSError) as error:
            raise EmbeddedError(
                f"Mosquitto is not installed, and it could not be fetched: {error}. {_remedy()}"
            ) from error
    program = Program(files / relative, library_path=distribution_packages.library_path(files))
    missing = distribution_packages.missing_libraries(program.path, environment=program.environment())
    if missing:
        shutil.rmtree(home)
        raise EmbeddedError(f"The fetched {package} lacks {', '.join(missing)} on this system. {_remedy()}")
    return program


def _version(program: Program) -> tuple[int, int] | None:
    try:
        answer = subprocess.run(
            [program.path, "-h"], capture_output=True, text=True, check=False, env=program.environment()
        )
    except OSError:
        return None
    match = re.search(r"mosquitto version (\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _remedy() -> str:
    return (
        "Install Mosquitto 2 (Debian and Ubuntu: apt-get install mosquitto mosquitto-clients), or name its "
        "program with SERVWATCH_MOSQUITTO, or an existing broker with MQTT_URL."
    )
