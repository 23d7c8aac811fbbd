"""The stop flag of long-running commands."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from servwatch_site.loop import STOP_SIGNALS, StopFlag

ROOT = Path(__file__).resolve().parents[2]
HANGS = """
from servwatch_site.loop import StopFlag
stop = StopFlag(on_stop=lambda: print("stopping", flush=True)).install()
print("ready", flush=True)
while True:  # its last step never ends
    stop.wait(1)
"""


@pytest.fixture
def flag() -> Iterator[StopFlag]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield StopFlag().install()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_sets_the_flag(flag: StopFlag, number: signal.Signals) -> None:
    assert not flag.is_set()
    signal.raise_signal(number)
    assert flag.is_set()


def test_a_signal_ends_a_long_wait_within_a_second(flag: StopFlag) -> None:
    signal.signal(signal.SIGALRM, lambda _number, _frame: signal.raise_signal(signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    started = time.monotonic()
    assert flag.wait(60)
    assert time.monotonic() - started < 1


def test_a_wait_ends_by_itself(flag: StopFlag) -> None:
    assert not flag.wait(0.01)
    assert not flag.wait(0)


def test_a_flag_can_be_set_without_a_signal() -> None:
    flag = StopFlag()
    flag.set()
    assert flag.wait(60)


def test_a_second_signal_ends_the_process_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGS], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"stopping\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM
