"""Counts what became of every measurement of a batch: received = stored + duplicate + refused + limited. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(slots=True)
class Tally:
    """One device's or account's counts; `attempted` becomes stored and duplicate when the database has spoken."""

    account_key: int
    received: int = 0
    attempted: int = 0
    stored: int = 0
    duplicate: int = 0
    refused: int = 0
    limited: int = 0
    repeated_keys: int = 0
    last_seen: datetime | None = None

    def receive(self, count: int, *, at: datetime) -> None:
        self.received += count
        if self.last_seen is None or at > self.last_seen:
            self.last_seen = at

    def settle(self, stored: int) -> None:
        self.stored += stored
        self.duplicate += self.attempted - stored
        self.attempted = 0

    def add(self, other: "Tally") -> None:
        self.received += other.received
        self.stored += other.stored
        self.duplicate += other.duplicate
        self.refused += other.refused
        self.limited += other.limited
        self.repeated_keys += other.repeated_keys


@dataclass
class Ledger:
    """The tallies of one batch, by device key. `strays` are by account key what belongs to no known device.

    Account key 0: no account; device key 0: no device is known.
    """

    devices: dict[int, Tally] = field(default_factory=dict)
    strays: dict[int, Tally] = field(default_factory=dict)
    refusals: Counter[tuple[int, int, str]] = field(default_factory=Counter)

    def tally(self, account_key: int, device_key: int) -> Tally:
        """The device's, or that of the account's strays."""
        tallies, key = (self.devices, device_key) if device_key else (self.strays, account_key)
        found = tallies.get(key)
        if found is None:
            found = tallies[key] = Tally(account_key)
        return found

    def accounts(self) -> dict[int, Tally]:
        """By account key the sums over devices and strays."""
        totals: dict[int, Tally] = {}
        for tally in (*self.devices.values(), *self.strays.values()):
            total = totals.get(tally.account_key)
            if total is None:
                total = totals[tally.account_key] = Tally(tally.account_key)
            total.add(tally)
        return totals

    def refused(self, account_key: int, device_key: int, reason: str) -> None:
        self.tally(account_key, device_key).refused += 1
        self.refusals[(account_key, device_key, reason)] += 1

    def limited(self, account_key: int, device_key: int, count: int, *, at: datetime) -> None:
        """Requests that came too often, and whose contents nobody read: each counts as one."""
        tally = self.tally(account_key, device_key)
        tally.receive(count, at=at)
        tally.limited += count

    def replayed(self, account_key: int, device_key: int, *, was_device_key: int, reason: str) -> None:
        """A refused measurement is tried again: it was received long ago and is no longer refused."""
        device = self.tally(account_key, device_key)
        device.attempted += 1
        if was_device_key == device_key:
            device.refused -= 1
        else:  # it was refused before this device existed: what the account counts moves to the device
            strays = self.tally(account_key, 0)
            strays.refused -= 1
            strays.received -= 1
            device.received += 1
        self.refusals[(account_key, was_device_key, reason)] -= 1

    def settle(self, stored_by_device: Mapping[int, int]) -> None:
        """Turn what was attempted into stored and duplicate."""
        for device_key, tally in self.devices.items():
            if tally.attempted:
                tally.settle(stored_by_device.get(device_key, 0))
