"""How open pages learn that something changed: PostgreSQL's NOTIFY to every web process, groups inside one.

The write street sends, after each commit, the keys of what a batch touched (`live_payload`). Each web process
listens on one connection of its own and wakes the groups of Channels' in-memory layer that somebody in this
process is watching. Only keys travel; a page that hears of a change asks for the values itself.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from channels.layers import get_channel_layer
from django.db import connection, connections
from django.utils import timezone

from devices.commands import commands_due_send
from devices.sessions import COMMANDS_NOTIFY
from streams.database import connection_parameters

logger = logging.getLogger(__name__)

LIVE_NOTIFY = "servwatch_live"
PAYLOAD_MAX_BYTES = 7_500  # PostgreSQL refuses 8,000
MOST_ACCOUNTS_TOLD = 350  # their keys have at most 19 digits
RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0)


_ACCOUNTS_WITH_NEWS_SQL = """
SELECT DISTINCT a.account_id FROM events_notification n JOIN events_alert a ON a.id = n.alert_id
WHERE n.settled_at IS NULL AND n.held_until IS NULL
LIMIT %s
"""


def live_payload(accounts: Iterable[int], channels: Iterable[int], devices: Iterable[int]) -> str:
    """The payload of one NOTIFY: primary keys of what changed; accounts alone when the rest would not fit."""
    whole = {"a": sorted(set(accounts)), "c": sorted(set(channels)), "d": sorted(set(devices))}
    payload = json.dumps(whole, separators=(",", ":"))
    if len(payload) <= PAYLOAD_MAX_BYTES:
        return payload
    return json.dumps({"a": whole["a"]}, separators=(",", ":"))


def alerts_tell(*, now: datetime) -> int:
    """A step of the worker's outbox: wakes the pages of accounts that have notifications to settle.

    Alerts that a batch begins or ends wake them with its commit, but silence, trends and edited rules come without a
    batch. Returns 0, since nothing is left to do again.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ACCOUNTS_WITH_NEWS_SQL, [MOST_ACCOUNTS_TOLD])
        accounts = [key for (key,) in cursor.fetchall()]
        if accounts:
            payload = json.dumps({"a": accounts}, separators=(",", ":"))
            cursor.execute("SELECT pg_notify(%s, %s)", [LIVE_NOTIFY, payload])
    return 0


def account_group(key: int) -> str:
    return f"account.{key}"


def channel_group(key: int) -> str:
    return f"channel.{key}"


def device_group(key: int) -> str:
    return f"device.{key}"


@dataclass
class _Watch:
    account_key: int
    sockets: int = 0
    changes: int = 0


class Watched:
    """Which groups somebody in this process watches: a batch of a thousand devices then wakes only those."""

    def __init__(self) -> None:
        self._groups: dict[str, _Watch] = {}

    def add(self, group: str, *, account_key: int) -> None:
        self._groups.setdefault(group, _Watch(account_key)).sockets += 1

    def discard(self, group: str) -> None:
        watch = self._groups.get(group)
        if watch is None:
            return
        watch.sockets -= 1
        if watch.sockets <= 0:
            del self._groups[group]

    def changes(self, group: str) -> int:
        """How often the group was touched since it is watched. The layer drops messages to a socket that has a
        hundred waiting; comparing this number at the next message finds what a dropped one would have told.
        """
        watch = self._groups.get(group)
        return watch.changes if watch else 0

    def count_change(self, group: str) -> None:
        watch = self._groups.get(group)
        if watch is not None:
            watch.changes += 1

    def all(self) -> list[str]:
        return list(self._groups)

    def touched(self, changed: Mapping[str, Iterable[int]]) -> list[str]:
        """The watched groups that a payload is about. Without devices and channels: all of its accounts."""
        accounts = set(changed.get("a", ()))
        if "d" not in changed:
            return [group for group, watch in self._groups.items() if watch.account_key in accounts]
        named = {account_group(key) for key in accounts}
        named.update(channel_group(key) for key in changed.get("c", ()))
        named.update(device_group(key) for key in changed["d"])
        return [group for group in self._groups if group in named]


watched = Watched()
commands_wanted = asyncio.Event()


async def wake(groups: Iterable[str]) -> None:
    """Tell every socket of these groups, in this process, that its page is out of date."""
    layer = get_channel_layer()
    for group in groups:
        watched.count_change(group)
        await layer.group_send(group, {"type": "live.changed"})


async def listen_for_ever() -> None:
    """The LISTEN task of a web process. After a broken connection every page refreshes: it may have missed some."""
    failures = 0
    while True:
        try:
            async with await _connect() as connection:
                await connection.execute(f"LISTEN {LIVE_NOTIFY}")
                await connection.execute(f"LISTEN {COMMANDS_NOTIFY}")
                commands_wanted.set()
                if failures:
                    await wake(watched.all())
                failures = 0
                async for notify in connection.notifies():
                    if notify.channel == COMMANDS_NOTIFY:
                        commands_wanted.set()
                    else:
                        await wake(_touched(notify.payload))
        except (psycopg.Error, OSError) as error:
            if not failures:
                logger.warning("Live updates wait for the database: %s", type(error).__name__)
            await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
            failures += 1


async def send_commands_for_ever() -> None:
    """Sends what waits for devices as soon as one of them takes commands; several processes may do it."""
    while True:
        await commands_wanted.wait()
        commands_wanted.clear()
        try:
            await asyncio.to_thread(_send_commands)
        except Exception:
            logger.exception("Waiting commands could not be sent; the worker tries again within a minute.")


def _send_commands() -> None:
    try:
        commands_due_send(now=timezone.now())
    finally:
        connections.close_all()  # a thread of the pool: its connection must not lie about


def _touched(payload: str) -> list[str]:
    try:
        return watched.touched(json.loads(payload))
    except (
        ValueError,
        TypeError,
        AttributeError,
    ):  # not from our write street; it must not end the listening
        logger.warning("A live message could not be read: %.80r", payload)
        return []


async def _connect() -> psycopg.AsyncConnection[Any]:
    """A connection beside Django's: it waits for notifications for as long as the process lives."""
    return await psycopg.AsyncConnection.connect(
        **{**connection_parameters(), "autocommit": True, "application_name": "servwatch-live"}
    )
