"""The embedded Mosquitto: a real one, with real clients."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from servwatch_site.embedded import processes
from servwatch_site.embedded.broker_accounts import BrokerAccount
from servwatch_site.embedded.errors import EmbeddedError
from servwatch_site.embedded.mosquitto import (
    PAYLOAD_MAX_BYTES,
    QUEUE_MIN_BYTES,
    RELOAD_PAUSE_S,
    Broker,
    Listener,
    answers,
    queue_bytes_for,
    render_config,
)
from servwatch_site.tests.broker import MqttClient, free_port, mosquitto
from servwatch_site.tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECRET = "salt-of-this-test"
ALICE = BrokerAccount("U1", "token-1", ("readwrite token-1/#",))
BOB = BrokerAccount("U2", "token-2", ("readwrite token-2/#",))
READER = BrokerAccount("reader", "reads", ("read #", "read $SYS/broker/log/#"))
OWNER = """
import sys
from pathlib import Path
from servwatch_site.embedded.mosquitto import Broker, Listener
from servwatch_site.embedded.mosquitto_programs import Program
folder, port, program, libraries = sys.argv[1:]
program = Program(Path(program), library_path=libraries or None)
broker = Broker(program, directory=Path(folder), listeners=(Listener("127.0.0.1", int(port)),))
broker.write_accounts([], secret="salt")
broker.start(say=print)
print(broker.pid, flush=True)
sys.stdin.read()
"""


class Embedded:
    """A broker in a folder with a space in its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "broker files"
        self.folder.mkdir()
        self.port = free_port()
        self.said: list[str] = []
        self.broker = self.another()

    def another(self) -> Broker:
        """One more on the same files and port."""
        return Broker(mosquitto(), directory=self.folder, listeners=(Listener("127.0.0.1", self.port),))

    def start(self) -> None:
        self.broker.start(say=self.said.append)

    def client(self, account: BrokerAccount, *, password: str | None = None, version: int = 4) -> MqttClient:
        return MqttClient(
            self.port, user=account.username, password=password or account.password, version=version
        )

    def lets_in(self, account: BrokerAccount) -> bool:
        with self.client(account) as client:
            return client.refused is None


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    running = Embedded(tmp_path)
    running.broker.write_accounts([ALICE, READER], secret=SECRET)
    running.start()
    yield running
    running.broker.stop()


def test_it_refuses_a_wrong_password_and_says_so_to_who_may_know(embedded: Embedded) -> None:
    with embedded.client(READER) as reader:
        reader.subscribe("$SYS/broker/log/#")
        with embedded.client(ALICE, password="wrong") as stranger:
            assert stranger.refused is not None
        wait_until(
            lambda: any(b"not authorised" in payload for _topic, payload in reader.received),
            what="the broker's line about the refusal",
        )


def test_an_account_reaches_its_own_topics_only(embedded: Embedded) -> None:
    embedded.broker.write_accounts([ALICE, BOB, READER], secret=SECRET)
    wait_until(embedded.broker.reload_if_due, what="the reload")
    wait_until(lambda: embedded.lets_in(BOB), what="the second account")
    with embedded.client(READER) as reader, embedded.client(ALICE) as alice, embedded.client(BOB) as bob:
        reader.subscribe("#")
        alice.subscribe("#")
        alice.deliver("token-2/json/web-1", "foreign")
        bob.deliver("token-2/json/web-1", "of the other")
        alice.deliver("token-1/json/web-1", "own")
        wait_until(lambda: alice.received and len(reader.received) >= 2, what="the messages")
        assert alice.received == [("token-1/json/web-1", b"own")]
        assert [payload for _topic, payload in reader.received] == [b"of the other", b"own"]


def test_a_new_account_and_a_changed_token_are_in_force_after_a_reload(embedded: Embedded) -> None:
    rotated = BrokerAccount("U1", "token-9", ("readwrite token-9/#",))
    embedded.broker.write_accounts([rotated, BOB, READER], secret=SECRET)
    wait_until(embedded.broker.reload_if_due, what="the reload")
    wait_until(lambda: embedded.lets_in(BOB), what="the new account")
    assert embedded.lets_in(rotated)
    assert not embedded.lets_in(ALICE)


def test_it_reloads_at_most_once_a_second(embedded: Embedded) -> None:
    reloads: list[float] = []
    for accounts in ([ALICE, BOB], [ALICE], [ALICE, BOB]):
        embedded.broker.write_accounts(accounts, secret=SECRET)
        wait_until(embedded.broker.reload_if_due, what="the reload")
        reloads.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(reloads)]
    assert min(gaps) >= RELOAD_PAUSE_S
    assert not embedded.broker.reload_if_due()


def test_it_takes_a_payload_of_one_mebibyte_and_no_more(embedded: Embedded) -> None:
    with embedded.client(READER) as reader, embedded.client(ALICE) as alice:
        reader.subscribe("#")
        alice.deliver("token-1/json/" + "d" * 100, b"x" * PAYLOAD_MAX_BYTES)
        wait_until(lambda: reader.received, what="the large message")
        assert len(reader.received[0][1]) == PAYLOAD_MAX_BYTES
    with embedded.client(READER) as reader:
        reader.subscribe("$SYS/broker/log/#")
        with embedded.client(ALICE) as alice:
            alice.publish("token-1/json/d", b"x" * (PAYLOAD_MAX_BYTES + 70_000))
            wait_until(
                lambda: any(b"oversize" in payload for _topic, payload in reader.received),
                what="the broker's line about the size",
            )


def test_queued_messages_survive_a_stop(embedded: Embedded) -> None:
    def listening() -> MqttClient:
        client = MqttClient(embedded.port, user="reader", password="reads", client_id="keeps-its-session")
        client._client._clean_session = False
        return client

    with listening() as listener:
        listener.subscribe("+/json/#")
    with embedded.client(ALICE) as alice:
        for number in range(1_500):  # more than Mosquitto's own default keeps
            last = alice.publish("token-1/json/web-1", str(number))
        last.wait_for_publish(timeout=20)
    embedded.broker.stop()
    embedded.start()
    with listening() as listener:
        wait_until(lambda: len(listener.received) >= 1_500, what="the queued messages")
        assert [int(payload) for _topic, payload in listener.received] == list(range(1_500))


def test_it_ends_a_broker_that_an_earlier_run_left_behind(embedded: Embedded) -> None:
    left_behind = embedded.broker.pid
    second = embedded.another()
    second.start(say=embedded.said.append)
    try:
        assert not processes.is_running(left_behind)
        assert embedded.said == ["Ending what an earlier run left behind: mosquitto."]
        assert embedded.lets_in(ALICE)
    finally:
        second.stop()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    port, program = free_port(), mosquitto()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path, str(port), program.path, program.library_path or ""],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert answers("127.0.0.1", port)
        owner.kill()
    wait_until(lambda: not processes.is_running(pid), what="the end of the orphaned broker")


def test_its_end_is_seen(embedded: Embedded) -> None:
    assert embedded.broker.exit_code() is None
    processes.send(embedded.broker.pid, signal.SIGKILL)
    assert wait_until(embedded.broker.exit_code, what="the end of the broker") == -signal.SIGKILL


def test_it_says_when_it_cannot_start(embedded: Embedded, tmp_path: Path) -> None:
    """Without its account files, as when somebody emptied the folder."""
    (tmp_path / "empty").mkdir()
    broker = Broker(
        mosquitto(), directory=tmp_path / "empty", listeners=(Listener("127.0.0.1", free_port()),)
    )
    with pytest.raises(EmbeddedError, match="Mosquitto ended at once"):
        broker.start(say=embedded.said.append)
    broker.stop()


def test_the_configuration_loses_nothing_by_default(tmp_path: Path) -> None:
    text = render_config(
        directory=tmp_path, listeners=[Listener("127.0.0.1", 1883)], queue_bytes=123_456_789, as_root=False
    )
    lines = text.splitlines()
    for line in (
        "allow_anonymous false",
        "persistence true",
        "max_queued_messages 100000000",
        "max_queued_bytes 123456789",
        "max_inflight_messages 1000",
        "listener 1883 127.0.0.1",
        "log_dest topic",
        f"acl_file {tmp_path}/acl",
        f"password_file {tmp_path}/passwords",
    ):
        assert line in lines
    assert "user root" not in lines
    assert not any(line.startswith("persistent_client_expiration") for line in lines)


def test_it_refuses_a_folder_that_would_add_lines_to_the_configuration() -> None:
    with pytest.raises(EmbeddedError, match="line break"):
        render_config(directory=Path("/srv/a\nb"), listeners=[], queue_bytes=1, as_root=False)


def test_the_queue_grows_with_the_memory() -> None:
    assert queue_bytes_for(512 * 1024 * 1024) == QUEUE_MIN_BYTES
    assert queue_bytes_for(64 * 1024**3) == 4 * 1024**3
