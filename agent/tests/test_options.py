"""What the command line accepts, and the sentences it answers with."""

import json
from pathlib import Path

import pytest

from agent import servwatch_agent as agent
from agent.tests.running import agent_call

FIRST_RUN = {"mqtt_host": "127.0.0.1", "mqtt_port": 2883, "user_id": "U000001", "device_token": "abc"}


def read(*arguments: str, environment: dict[str, str] | None = None) -> agent.Options:
    given = {"SERVWATCH_DEVICE_TOKEN": "env-token"} if environment is None else environment
    return agent.options_read(list(arguments), environment=given)


@pytest.fixture
def first_run(tmp_path: Path) -> Path:
    path = tmp_path / "first-run.json"
    path.write_text(json.dumps({**FIRST_RUN, "api_token": "of no interest"}))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("device", ["web-1", "a", "Z" * 64, "10.0.0.1", "00", "host:eth_0", "JSON"])
def test_it_accepts_usable_device_ids(device: str) -> None:
    assert agent.device_id_is_valid(device)
    assert agent.device_id_default(device) == device


@pytest.mark.parametrize(
    "device",
    ["", "0", "json", "binary", "state", "subscribe", ".", "..", "a" * 65, "a b", "a/b", "ä", "a+", "a\n"],
)
def test_it_refuses_unusable_device_ids(device: str) -> None:
    assert not agent.device_id_is_valid(device)
    with pytest.raises(agent.OptionError, match="is not usable"):
        read("--user", "U000001", "--device", device)


@pytest.mark.parametrize(
    ("host_name", "device"),
    [
        ("web01.example.org", "web01.example.org"),
        ("my server", "my-server"),
        ("büro", "b-ro"),
        ("0", "host-0"),
        ("json", "host-json"),
        ("..", "host"),
        ("", "host"),
        ("サーバ", "host"),
        ("x" * 80, "x" * 64),
        ("a/b+c#d", "a-b-c-d"),
    ],
)
def test_any_host_name_makes_a_usable_device_id(host_name: str, device: str) -> None:
    assert agent.device_id_default(host_name) == device
    assert agent.device_id_is_valid(device)


def test_the_first_run_file_is_enough(first_run: Path) -> None:
    options = read("--first-run", str(first_run), environment={})
    assert (options.broker, options.user, options.token) == ("127.0.0.1:2883", "U000001", "abc")


def test_the_command_line_wins_over_the_first_run_file(first_run: Path) -> None:
    options = read("--first-run", str(first_run), "--host", "::1", "--port", "99", "--user", "U000002")
    assert (options.broker, options.user, options.token) == ("::1:99", "U000002", "abc")


def test_a_token_file_wins_and_is_read_without_its_line_end(first_run: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("of-the-file\n")
    options = read("--first-run", str(first_run), "--token-file", str(token_file))
    assert options.token == "of-the-file"


def test_tls_changes_the_port(tmp_path: Path) -> None:
    assert read("--user", "U000001").port == 1883
    assert read("--user", "U000001", "--tls").port == 8883
    (tmp_path / "ca.crt").write_text("")
    assert read("--user", "U000001", "--ca-file", str(tmp_path / "ca.crt")).tls


def test_the_service_managers_folder_is_the_spool() -> None:
    environment = {"SERVWATCH_DEVICE_TOKEN": "t", "STATE_DIRECTORY": "/var/lib/somewhere"}
    assert read("--user", "U000001", environment=environment).spool == Path("/var/lib/somewhere")


def test_the_token_is_not_in_what_options_look_like() -> None:
    options = read("--user", "U000001")
    assert options.token == "env-token"
    assert "env-token" not in f"{options} {options!r}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name the account with --user"),
        (["--user", "a b"], "Name the account with --user"),
        (["--user", "U000001", "--print"], "--print goes with --once"),
        (["--user", "U000001", "--interval", "0"], "--interval must be between"),
        (["--user", "U000001", "--interval", "nan"], "--interval must be between"),
        (["--user", "U000001", "--port", "0"], "The port 0 is not between"),
        (["--user", "U000001", "--port", "65536"], "The port 65536 is not between"),
        (["--user", "U000001", "--host", "x" * 64 + ".org"], "is not a host name"),
        (["--user", "U000001", "--host", "a..b"], "is not a host name"),
        (["--user", "U000001", "--host", "a b"], "is not a host name"),
        (["--user", "U000001", "--spool-max-mib", "0"], "--spool-max-mib must be between"),
        (
            ["--user", "U000001", "--token-file", "/no/such/file"],
            "/no/such/file cannot be read: No such file",
        ),
        (["--user", "U000001", "--ca-file", "/no/such/file"], "--ca-file"),
        (["--first-run", "/no/such/file"], "/no/such/file cannot be read: No such file"),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(agent.OptionError) as raised:
        read(*arguments)
    assert sentence in str(raised.value)


@pytest.mark.parametrize("token", ["", "two words", "with/slash", "with#", "with+", "nul\0"])
def test_a_token_that_is_none_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(agent.OptionError, match="token") as raised:
        read("--user", "U000001", environment={"SERVWATCH_DEVICE_TOKEN": token})
    assert not token or token not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not text"),
        (b"[]", "lacks a usable mqtt_host, mqtt_port, user_id, device_token"),
        (json.dumps({**FIRST_RUN, "mqtt_port": "1883"}).encode(), "lacks a usable mqtt_port"),
        (json.dumps({**FIRST_RUN, "device_token": None}).encode(), "lacks a usable device_token"),
    ],
)
def test_an_unusable_first_run_file_is_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "first-run.json"
    path.write_bytes(content)
    with pytest.raises(agent.OptionError, match=sentence):
        read("--first-run", str(path))


def test_once_print_needs_neither_broker_nor_token() -> None:
    done = agent_call("--once", "--print")
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert shown.keys() == {"at", "value"}
    assert 0 <= shown["value"]["cpu"]["idle"] <= 100


def test_version_is_printed() -> None:
    done = agent_call("--version")
    assert (done.returncode, done.stdout) == (0, f"servwatch-agent {agent.VERSION}\n")


def test_no_token_ends_with_a_sentence_and_the_status_for_wrong_options() -> None:
    done = agent_call("--user", "U000001")
    assert done.returncode == agent.EXIT_USAGE
    assert done.stderr.startswith("servwatch-agent: There is no device token")
    assert done.stderr.count("\n") == 1


def test_there_is_no_option_that_takes_a_token() -> None:
    done = agent_call("--user", "U000001", "--token", "secret")
    assert done.returncode == agent.EXIT_USAGE
    assert "unrecognized arguments: --token" in done.stderr
