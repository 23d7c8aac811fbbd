"""The supervisor with small real children: restarts, stops in time, no orphans."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servwatch_site.embedded import data_folder, ports, processes
from servwatch_site.embedded.console import Console
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.parts import DATABASE_ALARM
from servwatch_site.embedded.supervisor import Child, Supervisor
from servwatch_site.loop import StopFlag
from servwatch_site.tests.broker import free_port
from servwatch_site.tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = "import time; time.sleep(600)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
LEAVES_ITS_NAME = """
import signal, sys, time
def leave(*_):
    open({file!r}, "a").write("{name} ")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""
OWNER = """
import sys
from pathlib import Path
from servwatch_site.embedded.console import Console
from servwatch_site.embedded.supervisor import Supervisor
from servwatch_site.loop import StopFlag
from servwatch_site.embedded.processes import guarded
from servwatch_site.embedded.supervisor import Child
supervisor = Supervisor(Path(sys.argv[1]), Console(sys.stderr), StopFlag().install())
command = guarded(["sleep", "600"], death_signal=15)
supervisor.start_stage([Child(name=name, command=lambda: command) for name in ("one", "two")])
print(supervisor.pid_of("one"), supervisor.pid_of("two"), flush=True)
supervisor.watch()
supervisor.shut_down()
"""


def python_child(name: str, script: str, **more: object) -> Child:
    argv = processes.guarded([sys.executable, "-c", script], death_signal=signal.SIGTERM)
    return Child(name=name, command=lambda: argv, **more)  # type: ignore[arg-type]


class GoneReader(io.StringIO):
    """A pipe whose other end was closed."""

    tries = 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise BrokenPipeError(text)


class Stage:
    """A supervisor whose words are kept."""

    def __init__(self, folder: Path) -> None:
        self.output = io.StringIO()
        self.stop = StopFlag()
        self.supervisor = Supervisor(folder, Console(self.output), self.stop)

    @property
    def said(self) -> str:
        return self.output.getvalue()

    def pid(self, name: str) -> int:
        pid = self.supervisor.pid_of(name)
        assert pid is not None
        return pid

    def running(self, name: str) -> int:
        """The number of this child, once it runs (again)."""

        def pid() -> int | None:
            self.supervisor.step()
            return self.supervisor.pid_of(name)

        return wait_until(pid, what=f"the start of {name}") or 0

    def step_until(self, text: str) -> None:
        def said() -> bool:
            self.supervisor.step()
            return text in self.said

        wait_until(said, what=f"the words {text!r}")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "log").mkdir()
    made = Stage(tmp_path)
    yield made
    made.supervisor.shut_down()


def test_it_restarts_a_killed_child_and_says_why(stage: Stage) -> None:
    stage.supervisor.start_stage([python_child("web", SLEEPER)])
    first = stage.pid("web")
    processes.send(first, signal.SIGKILL)
    stage.step_until("web ended with signal SIGKILL; starting it again in 0.5 s.")
    assert stage.running("web") != first


def test_it_waits_longer_after_each_death(stage: Stage) -> None:
    stage.supervisor.start_stage([python_child("worker", SLEEPER)])
    for pause in ("0.5", "1"):
        processes.send(stage.running("worker"), signal.SIGTERM)
        stage.step_until(f"worker ended with signal SIGTERM; starting it again in {pause} s.")


def test_it_gives_up_at_the_start_with_the_childs_last_words(stage: Stage) -> None:
    child = python_child("broker", "raise SystemExit('the port is taken')", is_ready=lambda _pid: False)
    with pytest.raises(
        EmbeddedError, match=r"broker does not start: the port is taken \(more in .*broker\.log\)"
    ):
        stage.supervisor.start_stage([child])


def test_it_goes_on_without_a_child_that_is_late(stage: Stage) -> None:
    child = python_child("listener", SLEEPER, is_ready=lambda _pid: False)
    assert stage.supervisor.start_stage([child], patience_s=0)
    assert "Not ready yet: listener." in stage.said


def test_a_stop_ends_the_start(stage: Stage) -> None:
    stage.stop.set()
    assert not stage.supervisor.start_stage([python_child("web", SLEEPER)])


def test_it_stops_everything_in_reverse_order(stage: Stage, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("database", "broker", "web"):
        script = LEAVES_ITS_NAME.format(file=str(order), name=name)
        assert stage.supervisor.start_stage([python_child(name, script, ready_line=_line("ready"))])
    stage.supervisor.shut_down()
    assert order.read_text(encoding="utf-8").split() == ["web", "broker", "database"]


def test_it_ends_a_child_that_does_not_listen_within_ten_seconds(stage: Stage) -> None:
    stage.supervisor.start_stage([python_child("database", SLEEPER)])
    stage.supervisor.start_stage([python_child("deaf", STUBBORN, ready_line=_line("deaf"))])
    pids = [stage.pid("database"), stage.pid("deaf")]
    started = time.monotonic()
    stage.supervisor.shut_down()
    assert time.monotonic() - started < 10
    assert "deaf does not stop; ending it hard." in stage.said
    assert not any(processes.is_running(pid) for pid in pids)


def test_a_killed_supervisor_leaves_no_child(tmp_path: Path) -> None:
    with _owner(tmp_path) as (owner, children):
        owner.kill()
        owner.wait()
        wait_until(
            lambda: not any(processes.is_running(child) for child in children), what="the end of the children"
        )


def test_the_next_supervisor_ends_what_is_left(stage: Stage, tmp_path: Path) -> None:
    """Where the death signal did not reach: here the first supervisor still lives, but is stopped."""
    with _owner(tmp_path) as (owner, children):
        owner.send_signal(signal.SIGSTOP)
        try:
            stage.supervisor.end_leftovers()
            assert stage.said == "Ending what an earlier run left behind: one, two.\n"
            assert not any(processes.is_running(child) for child in children)
        finally:
            owner.kill()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with _owner(tmp_path) as (owner, _children):
        owner.send_signal(signal.SIGINT)
        owner.send_signal(signal.SIGINT)
        assert owner.wait(timeout=10) in {0, -signal.SIGINT}


def test_the_log_of_a_child_is_private_and_its_alarms_reach_the_console(stage: Stage, tmp_path: Path) -> None:
    script = (
        "import sys\nprint('all is well', flush=True)\nprint('WARNING: disk is slow', flush=True)\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    import traceback; traceback.print_exc()\n"
    ) + SLEEPER
    stage.supervisor.start_stage([python_child("web", script)])
    stage.step_until("ZeroDivisionError: division by zero")
    assert "     web | WARNING: disk is slow\n" in stage.said
    assert "all is well" not in stage.said
    assert "Traceback" not in stage.said
    log = tmp_path / "log" / "web.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "all is well" in log.read_text(encoding="utf-8")


def test_a_flood_of_alarms_is_shortened_on_the_console(stage: Stage) -> None:
    script = (
        "print('\\n'.join(f'ERROR {n}' for n in range(5000)), flush=True); print('over', flush=True);"
        + SLEEPER
    )
    stage.supervisor.start_stage([python_child("web", script, ready_line=_line("over"))])
    assert stage.said.count("ERROR") <= 25
    assert stage.said.count("many more, see") == 1


def test_a_large_log_is_rotated(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servwatch_site.embedded.child_log.FILE_MAX_BYTES", 1000)
    script = "print(('x' * 99 + '\\n') * 100, flush=True); print('over', flush=True);" + SLEEPER
    stage.supervisor.start_stage([python_child("web", script, ready_line=_line("over"))])
    files = sorted((tmp_path / "log").iterdir())
    assert [file.name for file in files] == ["web.log", "web.log.1", "web.log.2", "web.log.3"]
    assert max(file.stat().st_size for file in files) <= 1100


def test_a_full_disk_costs_lines_of_a_log_and_no_child(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "log" / "web.log").symlink_to("/dev/full")
    script = "print('one', flush=True); print('ERROR two', flush=True); print('over', flush=True);" + SLEEPER
    stage.supervisor.start_stage([python_child("web", script, ready_line=_line("over"))])
    assert "     web | ERROR two\n" in stage.said
    assert processes.is_running(stage.pid("web"))


def test_a_full_disk_does_not_end_the_supervisor(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / f".children.json.{os.getpid()}").symlink_to("/dev/full")
    stage.supervisor.start_stage([python_child("web", SLEEPER)])
    processes.send(stage.pid("web"), signal.SIGKILL)
    stage.step_until("web ended with signal SIGKILL; starting it again in 0.5 s.")
    assert stage.running("web")


def test_sessions_that_a_restart_of_the_database_cuts_are_no_alarm() -> None:
    calm = (
        "FATAL:  terminating connection due to administrator command",
        "FATAL:  the database system is starting up",
    )
    assert not any(DATABASE_ALARM.search(line) for line in calm)
    assert DATABASE_ALARM.search(
        'FATAL:  could not write to file "pg_wal/xlogtemp.1": No space left on device'
    )
    assert DATABASE_ALARM.search("PANIC:  could not write to file")


def test_a_console_without_a_reader_does_not_stop_anything() -> None:
    gone = GoneReader()
    console = Console(gone)
    console.say("nobody reads this")
    console.line("web", "nor this")
    assert gone.tries == 1


def test_a_data_folder_is_held_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with data_folder.held(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        with (
            pytest.raises(
                EmbeddedError, match=r"already running on .*data \(process \d+\).*SERVWATCH_DATA_DIR"
            ),
            data_folder.held(folder),
        ):
            pass
    with data_folder.held(folder):
        assert (folder / "log").is_dir()


def test_a_data_folder_that_cannot_be_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(EmbeddedError, match="cannot be used"), data_folder.held(tmp_path / "file" / "data"):
        pass


def test_a_taken_port_is_said_with_its_holder_and_the_remedy() -> None:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        sentence = wait_until(lambda: _complaint("127.0.0.1", port), what="the taken port")
        assert f"Port {port} for the console is taken by python" in sentence
        assert f"(process {server.pid})" in sentence
        assert "SERVWATCH_HTTP_PORT=" in sentence
    finally:
        server.kill()
        server.wait()
    assert _complaint("127.0.0.1", free_port()) == ""


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_said_plainly(host: str) -> None:
    assert _complaint(host, 18000).startswith(f"SERVWATCH_HTTP_HOST is {host!r}")


def _line(word: str) -> re.Pattern[str]:
    return re.compile(word)


@contextmanager
def _owner(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Another process that runs a supervisor with two children."""
    (folder / "log").mkdir(exist_ok=True)
    argv = [sys.executable, "-c", OWNER, str(folder)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        try:
            yield owner, [int(word) for word in owner.stdout.readline().split()]
        finally:
            owner.kill()


def _complaint(host: str, port: int) -> str:
    try:
        ports.check_free(
            host=host,
            port=port,
            purpose="the console",
            setting="SERVWATCH_HTTP_PORT",
            host_setting="SERVWATCH_HTTP_HOST",
        )
    except EmbeddedError as error:
        return str(error)
    return ""
