"""The WebSocket of an open page: it names what it shows, and is told when that has changed.

No values travel here. The page says `{"subscribe": ["device:web-1", "account"]}`, is answered with what it may
watch, and later hears `{"changed": ["device:web-1"]}`, twice a second at most and the last time for certain.
"""

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.db import DatabaseError
from django.http import HttpRequest

from channels.selectors import channel_get_for_account
from devices.selectors import device_get_for_account
from servwatch_site.errors import ServwatchError
from streams.live import account_group, channel_group, device_group, watched
from tokens.models import Account

MESSAGE_GAP_S = 0.5
SIGN_IN_CHECK_S = 10.0
MAX_SUBSCRIPTIONS = 100
MAX_MESSAGE_CHARS = 20_000
CLOSE_SIGNED_OUT = 4401  # the page goes to the sign-in instead of coming back
CLOSE_NONSENSE = 4400


class LiveConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    """One open page."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names: dict[str, str] = {}  # group -> the name the page knows it by
        self._seen: dict[str, int] = {}  # group -> its count of changes when the page was told last
        self._changed: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._account: Account | None = None

    async def __call__(self, *args: Any) -> None:
        """However the socket ends, an error of ours included, nothing of it stays behind."""
        try:
            await super().__call__(*args)
        finally:
            for task in self._tasks.values():
                task.cancel()
            for group in list(self._names):
                await self._leave(group)

    async def connect(self) -> None:
        self._account = await database_sync_to_async(_account_of)(self.scope["session"])
        if self._account is None:
            await self.accept()  # a refusal before the handshake has no code a page could read
            await self.close(CLOSE_SIGNED_OUT)
            return
        await self.accept()
        self._tasks["sign-in"] = asyncio.create_task(self._watch_sign_in())

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """None for what is no JSON or too long; receive_json() hangs up on it."""
        try:
            return await super().decode_json(text_data) if len(text_data) <= MAX_MESSAGE_CHARS else None
        except (ValueError, RecursionError):
            return None

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        await super().receive(text_data=text_data or "null", **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """The page names everything it shows now; what it named before and not again is left."""
        names = content.get("subscribe") if isinstance(content, dict) else None
        if not isinstance(names, list) or self._account is None:
            await self.close(CLOSE_NONSENSE)
            return
        wanted = [str(name) for name in names[:MAX_SUBSCRIPTIONS]]
        account = self._account
        groups = await database_sync_to_async(_groups)(account, wanted)
        for group in set(self._names) - set(groups):
            await self._leave(group)
        for group, name in groups.items():
            await self._join(group, name, account_key=account.pk)
        await self.send_json({"subscribed": sorted(groups.values())})

    async def live_changed(self, event: Mapping[str, str]) -> None:
        """Something of this page was touched: tell it now, or together with what comes in the next half second.

        The message is only a bell: messages before it may have been dropped, so every group is looked at.
        """
        for group, name in self._names.items():
            changes = watched.changes(group)
            if changes != self._seen[group]:
                self._seen[group] = changes
                self._changed.add(name)
        sender = self._tasks.get("send")
        if self._changed and (sender is None or sender.done()):
            self._tasks["send"] = asyncio.create_task(self._send_changes())

    async def _send_changes(self) -> None:
        """Runs while changes keep coming. Ends only when none is left, so the last one is never dropped."""
        while self._changed:
            names, self._changed = self._changed, set()
            await self.send_json({"changed": sorted(names)})
            await asyncio.sleep(MESSAGE_GAP_S)

    async def _watch_sign_in(self) -> None:
        """Hang up when the session has ended, the password was changed, or the person was taken away."""
        while True:
            await asyncio.sleep(SIGN_IN_CHECK_S)
            try:
                account = await database_sync_to_async(_account_of)(self.scope["session"])
            except DatabaseError:
                continue  # nobody can read anything just now; ask again when the database is back
            if account != self._account:
                await self.close(CLOSE_SIGNED_OUT)
                return
            for group in self._names:  # the layer forgets a membership after a day
                await self.channel_layer.group_add(group, self.channel_name)

    async def _join(self, group: str, name: str, *, account_key: int) -> None:
        known = group in self._names
        self._names[group] = name
        if not known:
            watched.add(group, account_key=account_key)
            self._seen[group] = watched.changes(group)
            await self.channel_layer.group_add(group, self.channel_name)

    async def _leave(self, group: str) -> None:
        del self._names[group], self._seen[group]
        watched.discard(group)
        await self.channel_layer.group_discard(group, self.channel_name)


def _account_of(session: SessionBase) -> Account | None:
    """The account of whoever is signed in by this session at this moment, read afresh."""
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session.session_key)
    user = get_user(request)
    return getattr(user, "account", None) if user.is_active else None


def _groups(account: Account, names: list[str]) -> dict[str, str]:
    """Group -> name, of what the account may watch. What is not its own is left out without a word."""
    found: dict[str, str] = {}
    for name in names:
        group = _group(account, name)
        if group is not None:
            found[group] = name
    return found


def _group(account: Account, name: str) -> str | None:
    kind, _, identity = name.partition(":")
    try:
        if kind == "account":
            return account_group(account.pk)
        if kind == "device":
            return device_group(device_get_for_account(account, identity).pk)
        if kind == "channel" and identity.isdecimal() and len(identity) <= 9:
            return channel_group(channel_get_for_account(account, int(identity)).pk)
    except ServwatchError:
        return None
    return None
