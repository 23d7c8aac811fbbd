"""Counts what became of every measurement of a batch: received = stored + duplicate + refused + limited. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime


@dataclass
class Tally:
    """One account's or device's counts; `attempted` becomes stored and duplicate when the database has spoken."""

    received: int = 0
    attempted: int = 0
    stored: int = 0
    duplicate: int = 0
    refused: int = 0
    limited: int = 0
    repeated_keys: int = 0
    last_seen: datetime | None = None

    def settle(self, stored: int) -> None:
        self.stored += stored
        self.duplicate += self.attempted - stored
        self.attempted = 0


@dataclass
class Ledger:
    """The tallies of one batch. Account key 0: no account; device key 0: no device is known."""

    accounts: dict[int, Tally] = field(default_factory=dict)
    devices: dict[tuple[int, int], Tally] = field(default_factory=dict)
    refusals: Counter[tuple[int, int, str]] = field(default_factory=Counter)

    def tallies(self, account_key: int, device_key: int) -> tuple[Tally, Tally]:
        """The account's and the device's tally; for no device one that nobody reads."""
        account = self.accounts.get(account_key)
        if account is None:
            account = self.accounts[account_key] = Tally()
        if not device_key:
            return account, Tally()
        device = self.devices.get((account_key, device_key))
        if device is None:
            device = self.devices[(account_key, device_key)] = Tally()
        return account, device

    def received(self, account_key: int, device_key: int, count: int, *, at: datetime) -> None:
        for tally in self.tallies(account_key, device_key):
            tally.received += count
            if tally.last_seen is None or at > tally.last_seen:
                tally.last_seen = at

    def attempted(self, account_key: int, device_key: int, *, repeated_keys: int = 0) -> None:
        for tally in self.tallies(account_key, device_key):
            tally.attempted += 1
            tally.repeated_keys += repeated_keys

    def sign_stored(self, account_key: int, device_key: int) -> None:
        for tally in self.tallies(account_key, device_key):
            tally.stored += 1

    def redelivered(self, account_key: int, device_key: int, count: int) -> None:
        for tally in self.tallies(account_key, device_key):
            tally.duplicate += count

    def refused(self, account_key: int, device_key: int, reason: str) -> None:
        for tally in self.tallies(account_key, device_key):
            tally.refused += 1
        self.refusals[(account_key, device_key, reason)] += 1

    def limited(self, account_key: int, device_key: int, count: int, *, at: datetime) -> None:
        """Requests that came too often, and whose contents nobody read: each counts as one."""
        self.received(account_key, device_key, count, at=at)
        for tally in self.tallies(account_key, device_key):
            tally.limited += count

    def replayed(self, account_key: int, device_key: int, *, was_device_key: int, reason: str) -> None:
        """A refused measurement is tried again: it was received long ago and is no longer refused."""
        account, device = self.tallies(account_key, device_key)
        account.refused -= 1
        account.attempted += 1
        device.attempted += 1
        if was_device_key == device_key:
            device.refused -= 1
        else:  # it was refused before this device existed
            device.received += 1
        self.refusals[(account_key, was_device_key, reason)] -= 1

    def settle(self, stored_by_device: dict[int, int]) -> None:
        """Turn what was attempted into stored and duplicate."""
        by_account: Counter[int] = Counter()
        for (account_key, device_key), tally in self.devices.items():
            stored = stored_by_device.get(device_key, 0)
            by_account[account_key] += stored
            tally.settle(stored)
        for account_key, tally in self.accounts.items():
            tally.settle(by_account[account_key])
