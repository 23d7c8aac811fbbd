"""From nothing to the first measurement, and what an idle installation costs.

    .venv/bin/python -m bench.first_run --seconds 60 --repeat 3

Clones this repository into a temporary folder and starts `make run` there, as a newcomer does: the time until the
agent's first record of this machine is answered by the API, with everything to be set up (packages come from pip's
cache if they are there), then again when all is set up. Then nothing is done for a while: memory (PSS) and cores of
web, listener, worker and agent.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from bench.stack import ROOT, free_port
from bench.steady import cost_of

PATIENCE_S = 300.0
STOP_S = 30.0
POLL_S = 0.4  # the API answers three requests a second
PARTS = {"web": "uvicorn", "listener": "mqtt_listener", "worker": "worker", "agent": "servwatch_agent.py"}


def run(*, seconds: float, repeat: int) -> None:
    for _ in range(repeat):
        with tempfile.TemporaryDirectory(prefix="servwatch-first-") as folder:
            clone = Path(folder) / "servwatch"
            git = shutil.which("git") or "git"
            subprocess.run([git, "clone", "--quiet", str(ROOT), str(clone)], check=True)
            with _running(clone) as (_, took_s):
                print(f"make run in a clean clone: first measurement after {took_s:.1f} s", flush=True)
            with _running(clone) as (process, took_s):
                print(f"make run again: a new measurement after {took_s:.1f} s", flush=True)
                _idle(process, seconds)


@contextmanager
def _running(clone: Path) -> Iterator[tuple[psutil.Process, float]]:
    """`make run`, and how long it took until a record that is newer than the start was answered."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SERVWATCH_")},
        "SERVWATCH_HTTP_PORT": str(free_port()),
        "SERVWATCH_MQTT_PORT": str(free_port()),
    }
    begin, began_at = time.perf_counter(), time.time()
    process = psutil.Popen(
        [shutil.which("make") or "make", "run"],
        cwd=clone,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not _measured_since(clone, began_at):
            if process.poll() is not None or time.perf_counter() - begin > PATIENCE_S:
                raise SystemExit("make run did not come up.")
            time.sleep(POLL_S)
        yield psutil.Process(process.pid), time.perf_counter() - begin
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(STOP_S)


def _measured_since(clone: Path, began_at: float) -> bool:
    """Whether the API answers a record that came after that moment (seconds since 1970)."""
    file = clone / "var" / "first-run.json"
    if not file.exists() or file.stat().st_mtime < began_at:
        return False
    try:
        known = json.loads(file.read_text())
        request = Request(  # noqa: S310 - http on loopback
            f"{known['base_url']}/v2/device", headers={"X-APITOKEN": known["api_token"]}
        )
        with urlopen(request, timeout=5) as answer:  # noqa: S310
            devices = json.load(answer)
        seen = [datetime.fromisoformat(device["last_seen"]) for device in devices if "last_seen" in device]
        return any(moment.timestamp() >= began_at for moment in seen)
    except (URLError, OSError, ValueError):
        return False


def _idle(process: psutil.Process, seconds: float) -> None:
    time.sleep(10)  # what follows a start is not idleness
    parts = {
        name: [p for p in process.children(recursive=True) if _is(p, word)] for name, word in PARTS.items()
    }
    before = {name: cost_of(found).cpu_s for name, found in parts.items()}
    time.sleep(seconds)
    total = 0.0
    for name, found in parts.items():
        cost = cost_of(found)
        share = 100 * (cost.cpu_s - before[name]) / seconds
        print(f"idle {name}: {cost.memory_mb:.0f} MB, {share:.2f} % of a core", flush=True)
        total += cost.memory_mb if name != "agent" else 0.0
    print(f"idle web + listener + worker: {total:.0f} MB", flush=True)


def _is(process: psutil.Process, word: str) -> bool:
    try:
        return any(Path(part).name == word for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long to look at the idle installation")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    run(seconds=given.seconds, repeat=given.repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
