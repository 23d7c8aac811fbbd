"""The files that say who may do what on the broker."""

from pathlib import Path

import pytest

from servwatch_site.embedded.broker_accounts import BrokerAccount, problem, write_accounts

SECRET = "secret-of-this-installation"
ALICE = BrokerAccount("U1", "token-1", ("readwrite token-1/#",))
BOB = BrokerAccount("U2", "token-2", ("readwrite token-2/#", "read $SYS/broker/log/#"))


def test_it_writes_both_files_for_their_owner_only(tmp_path: Path) -> None:
    assert write_accounts(tmp_path, [BOB, ALICE], secret=SECRET)
    assert (tmp_path / "acl").read_text(encoding="utf-8") == (
        "user U1\ntopic readwrite token-1/#\n\n"
        "user U2\ntopic readwrite token-2/#\ntopic read $SYS/broker/log/#\n\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"acl", "passwords"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_no_password_stands_in_the_password_file(tmp_path: Path) -> None:
    write_accounts(tmp_path, [ALICE, BOB], secret=SECRET)
    assert "token" not in (tmp_path / "passwords").read_text(encoding="utf-8")


def test_unchanged_accounts_change_nothing(tmp_path: Path) -> None:
    write_accounts(tmp_path, [ALICE, BOB], secret=SECRET)
    before = (tmp_path / "passwords").stat().st_mtime_ns
    assert not write_accounts(tmp_path, [BOB, ALICE], secret=SECRET)
    assert (tmp_path / "passwords").stat().st_mtime_ns == before


def test_a_new_token_changes_only_the_line_of_its_account(tmp_path: Path) -> None:
    write_accounts(tmp_path, [ALICE, BOB], secret=SECRET)
    before = (tmp_path / "passwords").read_text(encoding="utf-8").splitlines()
    changed = BrokerAccount("U2", "token-3", ("readwrite token-3/#",))
    assert write_accounts(tmp_path, [ALICE, changed], secret=SECRET)
    after = (tmp_path / "passwords").read_text(encoding="utf-8").splitlines()
    assert (after[0], len(after)) == (before[0], 2)
    assert after[1] != before[1]


def test_a_damaged_line_is_made_anew(tmp_path: Path) -> None:
    write_accounts(tmp_path, [ALICE], secret=SECRET)
    whole = (tmp_path / "passwords").read_text(encoding="utf-8")
    (tmp_path / "passwords").write_text(whole[:-20], encoding="utf-8")
    assert write_accounts(tmp_path, [ALICE], secret=SECRET)
    assert (tmp_path / "passwords").read_text(encoding="utf-8") == whole


def test_a_removed_account_is_gone_from_both_files(tmp_path: Path) -> None:
    write_accounts(tmp_path, [ALICE, BOB], secret=SECRET)
    assert write_accounts(tmp_path, [BOB], secret=SECRET)
    assert all("U1" not in path.read_text(encoding="utf-8") for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a:b", "a\nuser b", "a\rb", "#a", " a", "a\u2028b", "a\0"])
def test_it_refuses_user_names_that_would_break_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="user name"):
        write_accounts(tmp_path, [BrokerAccount(name, "p", ())], secret=SECRET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("topic", ["readwrite a/#\ntopic readwrite #", "a/#", "readwrite ", "everything #"])
def test_it_refuses_access_lines_that_would_open_more(topic: str) -> None:
    assert problem(BrokerAccount("U1", "p", (topic,))) is not None


def test_it_refuses_an_empty_password() -> None:
    assert problem(BrokerAccount("U1", "", ())) is not None
    assert problem(ALICE) is None
