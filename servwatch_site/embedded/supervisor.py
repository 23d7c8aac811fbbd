"""Keeps the processes of one machine running: starts in stages, restarts the dead, stops in time."""

import math
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servwatch_site.embedded import processes
from servwatch_site.embedded.child_log import ALARMING, ChildLog
from servwatch_site.embedded.console import Console
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.leftovers import Leftovers
from servwatch_site.loop import StopFlag

BACKOFF_FIRST_S = 0.5
BACKOFF_LAST_S = 10.0
STABLE_S = 30.0
START_ATTEMPTS = 3
STEP_PAUSE_S = 0.05
WATCH_PAUSE_S = 0.2
STOP_TOTAL_S = 9.5
HARD_STOP_S = 0.3  # kept back for those that do not go


@dataclass(frozen=True)
class Child:
    """A process to be kept running.

    `command` is asked at every start; it may prepare something first. It must arrange that the process
    ends with the supervisor (`processes.guarded`).
    """

    name: str
    command: Callable[[], Sequence[str]]
    is_ready: Callable[[int], bool] = lambda _pid: True
    ready_line: re.Pattern[str] | None = None
    environment: Mapping[str, str] | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    hard_signal: signal.Signals = signal.SIGKILL
    alarming: re.Pattern[str] = ALARMING
    # A database server may need longer than a leftover is given, and looks after itself at its next start.
    ended_as_leftover: bool = True


@dataclass
class _Run:
    """A child and how it is doing."""

    child: Child
    log: ChildLog
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    ready: bool = False
    started_at: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    start_at: float = 0.0
    failed_starts: int = 0

    def last_words(self) -> str:
        lines = [line for line in self.log.recent if line.strip()]
        return lines[-1] if lines else "it said nothing"


@dataclass
class Supervisor:
    data_dir: Path
    console: Console
    stop: StopFlag
    _stages: list[list[_Run]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._leftovers = Leftovers(self.data_dir / "children.json")

    def end_leftovers(self) -> None:
        """End what a killed supervisor of this folder left running."""
        self._leftovers.end_all(say=self.console.say)

    def start_stage(self, children: Sequence[Child], *, patience_s: float = math.inf) -> bool:
        """Start these together and wait until all are ready; False when a stop came first.

        After `patience_s` it goes on without those that run but are not ready, and says so.
        """
        stage = [self._run_for(child) for child in children]
        self._stages.append(stage)
        deadline = time.monotonic() + patience_s
        while not self.stop.is_set():
            self.step()
            late = [run.child.name for run in stage if not run.ready]
            if late and time.monotonic() > deadline:
                self.console.say(f"Not ready yet: {', '.join(late)}. Going on; see {self.data_dir / 'log'}.")
                return True
            if not late:
                return True
            for run in stage:
                if run.failed_starts >= START_ATTEMPTS:
                    raise EmbeddedError(
                        f"{run.child.name} does not start: {run.last_words()} "
                        f"(more in {self._log_path(run.child.name)})"
                    )
            time.sleep(STEP_PAUSE_S)
        return False

    def watch(self) -> None:
        """Keep everything running until the stop flag is set."""
        while not self.stop.wait(WATCH_PAUSE_S):
            self.step()

    def step(self) -> bool:
        """Look after every child once; answers whether anything had to be done."""
        work = [self._tend(run) for run in self._all()]
        return any(work)

    def pid_of(self, name: str) -> int | None:
        for run in self._all():
            if run.child.name == name and run.process is not None:
                return run.process.pid
        return None

    def shut_down(self) -> None:
        """Stop the last stage first, all within ten seconds. What does not go in its time is ended hard."""
        deadline = time.monotonic() + STOP_TOTAL_S
        for index in reversed(range(len(self._stages))):
            # Half of what is left, or everything for the first stage: that is the database.
            remaining_s = max(0.0, deadline - time.monotonic() - HARD_STOP_S)
            self._stop_stage(self._stages[index], patience_s=remaining_s / 2 if index else remaining_s)
        self._stages.clear()
        self._leftovers.end_all(say=lambda _sentence: None)

    def _all(self) -> list[_Run]:
        return [run for stage in self._stages for run in stage]

    def _run_for(self, child: Child) -> _Run:
        path = self._log_path(child.name)
        log = ChildLog(path, name=child.name, console=self.console, alarming=child.alarming)
        return _Run(child=child, log=log)

    def _log_path(self, name: str) -> Path:
        return self.data_dir / "log" / f"{name}.log"

    def _tend(self, run: _Run) -> bool:
        if run.process is None:
            return self._launch_if_due(run)
        if run.process.poll() is not None:
            self._note_death(run, run.process.returncode)
            return True
        if not run.ready:
            run.ready = self._is_ready(run, run.process.pid)
            return run.ready
        if run.backoff_s > BACKOFF_FIRST_S and time.monotonic() - run.started_at > STABLE_S:
            run.backoff_s = BACKOFF_FIRST_S
        return False

    def _is_ready(self, run: _Run, pid: int) -> bool:
        if run.child.ready_line is not None and not run.log.saw_ready_line:
            return False
        return run.child.is_ready(pid)

    def _launch_if_due(self, run: _Run) -> bool:
        if time.monotonic() < run.start_at:
            return False
        child = run.child
        try:
            process = processes.spawn(
                child.command(), env=child.environment, cwd=child.cwd, output=subprocess.PIPE
            )
        except (EmbeddedError, OSError) as error:
            run.log.recent.append(str(error))
            self._postpone(run, reason=f"cannot be started: {error}")
            return True
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        run.reader = run.log.follow(process.stdout, ready_line=child.ready_line)
        run.process = process
        run.started_at = time.monotonic()
        if child.ended_as_leftover:
            self._leftovers.remember(child.name, pid=process.pid, stop_signal=child.stop_signal)
        return True

    def _note_death(self, run: _Run, code: int) -> None:
        run.process = None
        self._leftovers.forget(run.child.name)
        if run.reader is not None:
            run.reader.join(timeout=1.0)  # its last words
        self._postpone(run, reason=f"ended with {_reason(code)}")

    def _postpone(self, run: _Run, *, reason: str) -> None:
        if not run.ready:
            run.failed_starts += 1
        run.ready = False
        delay_s = run.backoff_s
        self.console.say(f"{run.child.name} {reason}; starting it again in {delay_s:g} s.")
        run.start_at = time.monotonic() + delay_s
        run.backoff_s = min(delay_s * 2, BACKOFF_LAST_S)

    def _stop_stage(self, stage: Sequence[_Run], *, patience_s: float) -> None:
        running = [(run, run.process) for run in reversed(stage) if run.process is not None]
        for run, process in running:
            processes.send(process.pid, run.child.stop_signal)
        deadline = time.monotonic() + patience_s
        for run, process in running:
            if not _ended(process, deadline=deadline):
                self.console.say(f"{run.child.name} does not stop; ending it hard.")
                processes.send(process.pid, run.child.hard_signal)
                if not _ended(process, deadline=time.monotonic() + HARD_STOP_S):
                    process.kill()
                    process.wait()
            self._leftovers.forget(run.child.name)
            if run.reader is not None:
                run.reader.join(timeout=HARD_STOP_S)


def _ended(process: subprocess.Popen[bytes], *, deadline: float) -> bool:
    try:
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
