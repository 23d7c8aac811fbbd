"""The write street's memory of accounts, devices and mappings, and the activation on first contact.

Everything a message needs is looked up here without a query. The configuration version, read first in each
batch's transaction, tells what changed; only that is read again, so that a revocation is never missed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from servwatch_site.errors import Code
from tokens.selectors import device_token_digest

UNKNOWN_DEVICES_LISTED = 1_000


class AccountEntry(NamedTuple):
    """What the write street knows of an account."""

    key: int
    user_id: str
    zone: ZoneInfo
    new_devices: str
    default_channel: int | None
    max_devices: int
    kept_refused_rows: int
    kept_refused_bytes: int
    connector_per_second: int


class TokenEntry(NamedTuple):
    """Whose device token it is; `until`: so long it counts over HTTP, None without end."""

    account_key: int
    until: datetime | None


class DeviceEntry(NamedTuple):
    """What the write street knows of a device. `channel_key` None: unmapped, or its channel is deleted."""

    key: int
    account_key: int
    device_id: str
    enabled: bool
    pending: bool
    channel_key: int | None


class ChannelEntry(NamedTuple):
    key: int
    retention: timedelta


@dataclass(frozen=True)
class Newcomer:
    """An id that was not known: the device it became, or why it became none."""

    device: DeviceEntry | None
    refusal: Code | None


_ACCOUNT_SQL = """
SELECT a.id, a.user_id, a.locale, a.new_devices, c.id, a.max_devices, a.kept_refused_rows, a.kept_refused_bytes,
       a.connector_per_second
FROM tokens_account a
LEFT JOIN channels_channel c ON c.account_id = a.id AND c.number = a.default_channel AND c.deleted_at IS NULL
"""
_DEVICE_SQL = """
SELECT d.id, d.account_id, d.device_id, d.enabled, d.pending, c.id
FROM devices_device d
LEFT JOIN channels_channel c ON c.id = d.channel_id AND c.deleted_at IS NULL
"""


class Registry:
    """One per writing process; every method is given the cursor of the writer's own connection."""

    def __init__(self) -> None:
        self.version = -1
        self._accounts: dict[int, AccountEntry] = {}
        self._tokens: dict[str, TokenEntry] = {}
        self._devices: dict[tuple[int, str], DeviceEntry] = {}
        self._channels: dict[int, ChannelEntry] = {}

    def refresh(self, cursor: Any) -> bool:
        """Read again what changed since the last time; True when anything had."""
        cursor.execute("SELECT version FROM tokens_configversion WHERE id = 1")
        (version,) = cursor.fetchone()
        if version == self.version:
            return False
        self._reload(cursor, since=self.version)
        self.version = version
        return True

    def account_of(self, cursor: Any, token: str) -> AccountEntry | None:
        """Whose device token this is. A replaced one counts: the broker took the message while it was in force."""
        entry = self._token(cursor, token)
        return None if entry is None else self.account(cursor, entry.account_key)

    def zone_known(self, token: str) -> ZoneInfo | None:
        """The time zone of the account with this device token, if both are remembered. Asks nobody: for any thread."""
        entry = self._tokens.get(token)
        account = self._accounts.get(entry.account_key) if entry is not None else None
        return account.zone if account is not None else None

    def account_of_request(self, cursor: Any, token: str, *, now: datetime) -> AccountEntry | None:
        """Whose device token a request shows; a replaced one counts until its overlap ends."""
        entry = self._token(cursor, token)
        if entry is None or (entry.until is not None and entry.until <= now):
            return None
        return self.account(cursor, entry.account_key)

    def _token(self, cursor: Any, token: str) -> TokenEntry | None:
        entry = self._tokens.get(token)
        if entry is None:
            cursor.execute(
                "SELECT account_id, CASE WHEN revoked_at IS NOT NULL THEN coalesce(overlap_until, revoked_at) END"
                " FROM tokens_devicetoken WHERE digest = %s",
                [device_token_digest(token)],
            )
            row = cursor.fetchone()
            if row is None:
                return None
            entry = self._tokens[token] = TokenEntry(*row)
        return entry

    def account(self, cursor: Any, key: int) -> AccountEntry | None:
        if key not in self._accounts:
            cursor.execute(f"{_ACCOUNT_SQL} WHERE a.id = %s", [key])
            self._keep_accounts(cursor.fetchall())
        return self._accounts.get(key)

    def channel(self, key: int) -> ChannelEntry:
        return self._channels[key]

    def device(self, account_key: int, device_id: str) -> DeviceEntry | None:
        """The device, if it was looked up before."""
        return self._devices.get((account_key, device_id))

    def look_up(self, cursor: Any, wanted: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
        """Read these devices, and return the ones that do not exist, in order."""
        missing = sorted({pair for pair in wanted if pair not in self._devices})
        if not missing:
            return []
        cursor.execute(
            f"{_DEVICE_SQL} JOIN unnest(%s::bigint[], %s::text[]) AS w (account_id, device_id)"
            " ON w.account_id = d.account_id AND w.device_id = d.device_id WHERE d.deleted_at IS NULL",
            [[pair[0] for pair in missing], [pair[1] for pair in missing]],
        )
        self._keep_devices(cursor, cursor.fetchall())
        return [pair for pair in missing if pair not in self._devices]

    def activate(
        self, cursor: Any, wanted: Sequence[tuple[int, str]], *, now: datetime
    ) -> dict[tuple[int, str], Newcomer]:
        """First contact: register ids as their account's setting says (contract, section 4.3).

        Runs in a short transaction of its own, before the batch's: two listeners may meet the same newcomer,
        and the account's row is locked so that the limit is exact. `wanted` is sorted.
        """
        newcomers: dict[tuple[int, str], Newcomer] = {}
        for account_key in dict.fromkeys(pair[0] for pair in wanted):
            ids = [device_id for key, device_id in wanted if key == account_key]
            newcomers.update(self._activate_account(cursor, account_key, ids, now=now))
        return newcomers

    def _activate_account(
        self, cursor: Any, account_key: int, ids: list[str], *, now: datetime
    ) -> dict[tuple[int, str], Newcomer]:
        account = self._accounts[account_key]
        if account.new_devices == "closed":
            return {(account_key, device_id): Newcomer(None, Code.DEVICE_UNKNOWN) for device_id in ids}
        cursor.execute("SELECT max_devices FROM tokens_account WHERE id = %s FOR UPDATE", [account_key])
        (limit,) = cursor.fetchone()
        cursor.execute(
            "SELECT count(*) FROM devices_device WHERE account_id = %s AND deleted_at IS NULL", [account_key]
        )
        room = max(0, limit - cursor.fetchone()[0])
        enabled = account.new_devices == "open"
        cursor.execute(
            """
            INSERT INTO devices_device
                (account_id, device_id, description, enabled, pending, channel_id, device_type, location,
                 manufacturer, replay_when_mapped, activate_at, created_at, config_version)
            SELECT %s, id, '', %s, %s, %s, '', '', '', false, %s, %s, 0 FROM unnest(%s::text[]) AS id
            ON CONFLICT (account_id, device_id) WHERE deleted_at IS NULL DO NOTHING
            RETURNING device_id
            """,
            [
                account_key,
                enabled,
                not enabled,
                account.default_channel if enabled else None,
                now if enabled else None,
                now,
                ids[:room],
            ],
        )
        made = {row[0] for row in cursor.fetchall()}
        over = self.look_up(cursor, [(account_key, device_id) for device_id in ids])
        newcomers = {pair: Newcomer(None, Code.MAX_DEVICE_REACH) for pair in over}
        for device_id in made:
            pair = (account_key, device_id)
            newcomers[pair] = Newcomer(self._devices[pair], None)
        return newcomers

    def _reload(self, cursor: Any, *, since: int) -> None:
        cursor.execute(f"{_ACCOUNT_SQL} WHERE a.id = ANY(%s)", [list(self._accounts)])
        self._accounts.clear()
        self._tokens.clear()
        self._keep_accounts(cursor.fetchall())
        cursor.execute("SELECT id, retention_days FROM channels_channel WHERE config_version > %s", [since])
        self._keep_channels(cursor.fetchall())
        if since < 0:
            return  # no device is remembered yet, so none is stale
        # A deleted channel changes its devices' mapping without touching their rows.
        cursor.execute(
            f"{_DEVICE_SQL} LEFT JOIN channels_channel m ON m.id = d.channel_id"
            " WHERE d.deleted_at IS NULL AND (d.config_version > %s OR m.config_version > %s)",
            [since, since],
        )
        rows = cursor.fetchall()
        self._forget_deleted(cursor, since=since)
        self._keep_devices(cursor, [row for row in rows if (row[1], row[2]) in self._devices])

    def _forget_deleted(self, cursor: Any, *, since: int) -> None:
        cursor.execute(
            "SELECT id, account_id, device_id FROM devices_device"
            " WHERE deleted_at IS NOT NULL AND config_version > %s",
            [since],
        )
        for key, account_key, device_id in cursor.fetchall():
            known = self._devices.get((account_key, device_id))
            if known is not None and known.key == key:
                del self._devices[(account_key, device_id)]

    def _keep_accounts(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for key, user_id, zone, *rest in rows:
            self._accounts[key] = AccountEntry(key, user_id, ZoneInfo(zone), *rest)

    def _keep_channels(self, rows: Iterable[tuple[int, int]]) -> None:
        for key, days in rows:
            self._channels[key] = ChannelEntry(key, timedelta(days=days))

    def _keep_devices(self, cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
        unknown = set()
        for row in rows:
            device = DeviceEntry(*row)
            self._devices[(device.account_key, device.device_id)] = device
            if device.channel_key is not None and device.channel_key not in self._channels:
                unknown.add(device.channel_key)
        if unknown:
            cursor.execute(
                "SELECT id, retention_days FROM channels_channel WHERE id = ANY(%s)", [sorted(unknown)]
            )
            self._keep_channels(cursor.fetchall())


def unknown_devices_note(cursor: Any, rows: Sequence[tuple[int, str, str, int]], *, now: datetime) -> None:
    """List ids that knocked in vain: (account key, id, reason, attempts); a bounded list per account."""
    for account_key, device_id, reason, attempts in sorted(rows):
        cursor.execute(
            """
            INSERT INTO devices_unknowndevice AS u (account_id, device_id, reason, attempts, first_at, last_at)
            SELECT %(account)s, %(id)s::varchar, %(reason)s, %(attempts)s, %(now)s, %(now)s
            WHERE (SELECT count(*) FROM devices_unknowndevice WHERE account_id = %(account)s) < %(most)s
               OR EXISTS (
                   SELECT FROM devices_unknowndevice WHERE account_id = %(account)s AND device_id = %(id)s::varchar
               )
            ON CONFLICT (account_id, device_id) DO UPDATE
            SET attempts = u.attempts + excluded.attempts, reason = excluded.reason, last_at = excluded.last_at
            """,
            {
                "account": account_key,
                "id": device_id,
                "reason": reason,
                "attempts": attempts,
                "now": now,
                "most": UNKNOWN_DEVICES_LISTED,
            },
        )
