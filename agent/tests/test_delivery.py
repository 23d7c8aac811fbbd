"""The whole way: agent, a real broker, a subscriber; the broker absent, slow to come, killed, hostile."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from agent import servwatch_agent as agent
from agent.tests.broker import TOKEN, USER, Broker, Subscriber, program_find, wait_until
from agent.tests.running import AgentProcess, agent_call

Start = Callable[..., AgentProcess]
Subscribe = Callable[[], Subscriber]


def spooled_times(folder: Path) -> list[str]:
    """Of whole lines, oldest first."""
    times: list[str] = []
    for path in sorted(folder.glob("measurements-*")):
        whole = path.read_bytes().rpartition(b"\n")[0]
        times += [json.loads(line)["at"] for line in whole.split(b"\n") if line]
    return times


def assert_no_traceback_and_no_secret(process: AgentProcess) -> None:
    text = "\n".join(process.lines)
    assert "Traceback" not in text
    assert TOKEN not in text


def test_measurements_and_state_arrive(broker: Broker, subscribe: Subscribe, start_agent: Start) -> None:
    broker.start()
    received = subscribe().received
    process = start_agent()
    envelopes = received.wait_for_envelopes("web-1", count=3)
    assert all(0 <= envelope["value"]["cpu"]["idle"] <= 100 for envelope in envelopes)
    times = [envelope["at"] for envelope in envelopes]
    assert times == sorted(set(times))
    state = parse_qs(received.wait_for_state("web-1"), strict_parsing=True)
    assert state["agent_version"] == [agent.VERSION]
    assert state["hostname"] == [os.uname().nodename]
    assert state["interval_s"] == ["0.1"]
    assert state["dropped"] == ["0"]
    assert {"os", "kernel", "spooled", "clock"} <= state.keys()
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback_and_no_secret(process)


def test_what_waited_for_the_broker_arrives_in_order_with_its_own_times(
    broker: Broker, subscribe: Subscribe, tmp_path: Path
) -> None:
    options = agent.options_read(
        ["--host", "127.0.0.1", "--port", str(broker.port), "--user", USER, "--device", "web-1"],
        environment={agent.TOKEN_VARIABLE: TOKEN},
    )
    spool = agent.Spool(tmp_path / "spool", max_bytes=agent.MIB)
    reporter = agent.Agent(options, spool=spool, events=queue.SimpleQueue(), log=agent.Log())
    for _ in range(250):
        reporter.measure()
    expected = spooled_times(tmp_path / "spool")
    assert len(expected) == 250
    broker.start()
    received = subscribe().received
    reporter.start()
    while spool.waiting:
        assert reporter.handle_next(timeout_s=10)
    reporter.finish()
    envelopes = received.wait_for_envelopes("web-1", count=250)
    assert [envelope["at"] for envelope in envelopes] == expected
    assert all(len(payload) < 200 * 1024 for _, payload in received.messages)
    assert 3 <= len(received.messages) <= 10


def test_kill_9_loses_nothing_that_was_spooled(
    broker: Broker, subscribe: Subscribe, start_agent: Start, tmp_path: Path
) -> None:
    first = start_agent()
    first.wait_for_line("cannot be reached: Connection refused")
    wait_until(lambda: len(spooled_times(tmp_path / "spool")) >= 5, what="five measurements are spooled")
    first.kill()
    expected = spooled_times(tmp_path / "spool")
    broker.start()
    received = subscribe().received
    second = start_agent()
    assert f"{len(expected)} measurements waiting" in second.wait_for_line("Version")
    envelopes = received.wait_for_envelopes("web-1", count=len(expected) + 2)
    assert [envelope["at"] for envelope in envelopes][: len(expected)] == expected
    second.signal(signal.SIGTERM)
    second.wait()
    for process in (first, second):
        assert_no_traceback_and_no_secret(process)


def test_it_goes_on_when_the_broker_is_killed_and_comes_back(
    broker: Broker, subscribe: Subscribe, start_agent: Start, tmp_path: Path
) -> None:
    broker.start()
    before = subscribe().received
    process = start_agent()
    before.wait_for_envelopes("web-1", count=2)
    broker.kill()
    process.wait_for_line("is lost")
    wait_until(lambda: len(spooled_times(tmp_path / "spool")) >= 3, what="three measurements are spooled")
    # Held still, so that the subscriber is back before the agent is.
    process.signal(signal.SIGSTOP)
    expected = spooled_times(tmp_path / "spool")
    broker.start()
    after = subscribe().received
    process.signal(signal.SIGCONT)
    envelopes = after.wait_for_envelopes("web-1", count=len(expected) + 1)
    times = [envelope["at"] for envelope in envelopes]
    assert times[: len(expected)] == expected
    assert times == sorted(times)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "0 dropped" in process.wait_for_line("Stopped by SIGTERM")
    assert_no_traceback_and_no_secret(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_answered_within_a_second_also_without_a_broker(
    start_agent: Start, number: signal.Signals
) -> None:
    process = start_agent("--interval", "3600")
    process.wait_for_line("cannot be reached")
    before_s = time.monotonic()
    process.signal(number)
    assert process.wait() == 0
    assert time.monotonic() - before_s < 1
    line = process.wait_for_line(f"Stopped by {number.name}")
    assert "0 measurements acknowledged" in line
    assert_no_traceback_and_no_secret(process)


def test_a_wrong_token_is_said_and_nothing_is_lost(
    broker: Broker, start_agent: Start, tmp_path: Path
) -> None:
    broker.start()
    process = start_agent(token="wrong-token")
    line = process.wait_for_line("refused this agent")
    assert "Check the user id (U000001) and the device token" in line
    wait_until(lambda: len(spooled_times(tmp_path / "spool")) >= 2, what="two measurements are spooled")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "wrong-token" not in "\n".join(process.lines)
    assert_no_traceback_and_no_secret(process)


def test_a_host_that_does_not_exist_is_said(start_agent: Start) -> None:
    process = start_agent("--host", "no-such-host.invalid")
    assert "no-such-host.invalid" in process.wait_for_line("cannot be reached")


def test_the_token_is_not_in_the_process_list(broker: Broker, start_agent: Start) -> None:
    broker.start()
    process = start_agent()
    process.wait_for_line("Connected")
    assert TOKEN.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


@pytest.fixture
def talker() -> Iterator[Callable[[bytes], int]]:
    """A server that answers every connection with the same bytes and hangs up; the port."""
    with ExitStack() as stack:

        def listen(answer: bytes) -> int:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=answer_all, args=(server, answer), daemon=True).start()
            # Closing does not wake a thread in accept().
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            return int(server.getsockname()[1])

        yield listen


def answer_all(server: socket.socket, answer: bytes) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(4096)
            connection.sendall(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 50,
        b"\x20\x02\x00\x63",
        b"\x20\x00",
    ],
)
def test_a_port_that_speaks_something_else_is_survived(
    start_agent: Start, talker: Callable[[bytes], int], answer: bytes
) -> None:
    process = start_agent(port=talker(answer))
    process.wait_for_line("trying again")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback_and_no_secret(process)


def test_once_ends_well_only_when_acknowledged(broker: Broker, subscribe: Subscribe) -> None:
    target = (
        "--host",
        "127.0.0.1",
        "--port",
        str(broker.port),
        "--user",
        USER,
        "--device",
        "web-1",
        "--once",
    )
    absent = agent_call(*target, token=TOKEN)
    assert absent.returncode == agent.EXIT_FAILED
    assert "cannot be reached: Connection refused" in absent.stderr
    broker.start()
    received = subscribe().received
    refused = agent_call(*target, token="wrong")
    assert refused.returncode == agent.EXIT_FAILED
    assert "refused this agent" in refused.stderr
    sent = agent_call(*target, token=TOKEN)
    assert (sent.returncode, sent.stdout) == (0, "")
    assert len(received.wait_for_envelopes("web-1", count=1)) == 1


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority of our own and a server's certificate for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path / "certificates"
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Tests")
    openssl("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-extfile", "names", "-out", "server.crt"),
    )
    return folder


@pytest.fixture
def tls_broker(tmp_path: Path, certificates: Path) -> Iterator[Broker]:
    program = program_find("mosquitto")
    if program is None:
        pytest.skip("there is no mosquitto on PATH or in /usr/sbin")
    broker = Broker(tmp_path / "tls-broker", program=program, tls_folder=certificates)
    broker.start()
    yield broker
    broker.kill()


def test_tls_with_its_own_authority_delivers_and_an_unknown_one_is_refused(
    tls_broker: Broker, certificates: Path
) -> None:
    target = ("--host", "localhost", "--port", str(tls_broker.port), "--user", USER, "--once")
    trusted = agent_call(*target, "--ca-file", str(certificates / "ca.crt"), token=TOKEN)
    assert (trusted.returncode, trusted.stdout) == (0, "")
    unknown = agent_call(*target, "--tls", token=TOKEN)
    assert unknown.returncode == agent.EXIT_FAILED
    assert "certificate verify failed" in unknown.stderr
    plain = agent_call(*target, token=TOKEN)
    assert plain.returncode == agent.EXIT_FAILED
    assert "perhaps it is no MQTT port or wants TLS (--tls)" in plain.stderr
    rubbish = agent_call(*target, "--ca-file", str(certificates / "names"), token=TOKEN)
    assert rubbish.returncode == agent.EXIT_USAGE
    assert "holds no usable certificate" in rubbish.stderr
