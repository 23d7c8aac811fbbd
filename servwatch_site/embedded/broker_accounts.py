"""Who may do what on the broker, in Mosquitto's password and access files."""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROUNDS = 101  # what mosquitto_passwd uses; the passwords are long random tokens
SALT_BYTES = 12
HASH_CHARACTERS = 88  # 64 bytes in base64
ACCESS = re.compile(r"(read|write|readwrite|deny) \S.*")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Account(Protocol):
    """What an account must show; rooms below this one bring a type of their own."""

    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def topics(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class BrokerAccount:
    """`topics` are lines of the access file such as `readwrite TOKEN/#`."""

    username: str
    password: str
    topics: tuple[str, ...]


def write_accounts(directory: Path, accounts: Iterable[Account], *, secret: str) -> bool:
    """Bring both files up to date; answers whether anything changed and the broker must read them again.

    The access file goes first: a new account must not be let in before its limits are known. An account
    with a `problem` is an error here; the caller leaves it out, and says so.
    """
    ordered = sorted(accounts, key=lambda account: account.username)
    for account in ordered:
        if (found := problem(account)) is not None:
            raise ValueError(found)
    acl = "".join(_access_lines(account) for account in ordered)
    known = _known_lines(directory / "passwords")
    passwords = "".join(_password_line(account, secret=secret, known=known) for account in ordered)
    changed = [
        _replace(directory / "acl", acl),
        _replace(directory / "passwords", passwords),
    ]
    return any(changed)


def problem(account: Account) -> str | None:
    """Why this account cannot stand in the broker's files, None when it can."""
    name = account.username
    if not name or name.startswith("#") or ":" in name or name != name.strip() or _has_control(name):
        return f"The broker cannot take the user name {name!r}."
    if not account.password:
        return f"The broker account {name!r} has no password."
    for topic in account.topics:
        if _has_control(topic) or ACCESS.fullmatch(topic) is None:
            return f"The broker cannot take an access line of {name!r}: {topic!r}."
    return None


def _has_control(text: str) -> bool:
    return CONTROL.search(text) is not None


def _access_lines(account: Account) -> str:
    topics = "".join(f"topic {topic}\n" for topic in account.topics)
    return f"user {account.username}\n{topics}\n"


def _password_line(account: Account, *, secret: str, known: Mapping[str, str]) -> str:
    """The salt follows from the account: an equal salt means an equal password, and the line is kept.

    Hashing is the dear part, a second for 10,000 accounts.
    """
    seed = f"{account.username}\0{account.password}".encode()
    salt = hmac.digest(secret.encode(), seed, "sha256")[:SALT_BYTES]
    start = f"{account.username}:$7${ROUNDS}${_base64(salt)}$"
    line = known.get(account.username, "")
    if line.startswith(start) and len(line) == len(start) + HASH_CHARACTERS:
        return f"{line}\n"
    digest = hashlib.pbkdf2_hmac("sha512", account.password.encode(), salt, ROUNDS)
    return f"{start}{_base64(digest)}\n"


def _known_lines(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}
    return {line.partition(":")[0]: line for line in lines}


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _replace(path: Path, text: str) -> bool:
    """A reader sees the old file or the new one, never half of it; also after a power cut."""
    content = text.encode()
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        _share_with_owner(descriptor, folder=path.parent)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    draft.rename(path)
    _sync_folder(path.parent)
    return True


def _share_with_owner(descriptor: int, *, folder: Path) -> None:
    """A broker of the system reads the files as a user of its own.

    Root gives them to the folder's owner; any other user relies on the folder's group (`chmod g+s`).
    """
    status = folder.stat()
    if os.geteuid() == 0:
        os.fchown(descriptor, status.st_uid, status.st_gid)
    elif status.st_mode & 0o2000:
        os.fchmod(descriptor, 0o640)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
