"""The WebSocket of an open page, against the real web process."""

import json
import time
from contextlib import AbstractContextManager
from typing import Any

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from servwatch_site.tests.browser import WebProcess
from servwatch_site.tests.street import CommittedTestCase
from servwatch_site.tests.waiting import wait_until
from streams.consumers import CLOSE_NONSENSE, CLOSE_SIGNED_OUT, SIGN_IN_CHECK_S
from streams.live import LIVE_NOTIFY, live_payload
from tokens.models import User

PATIENCE_S = 10


class LiveSocketTest(CommittedTestCase):
    web: WebProcess

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.web = cls.enterClassContext(WebProcess())

    def socket(self, user: User | None = None) -> AbstractContextManager[ClientConnection]:
        """A socket of a page that this person has open."""
        headers = {}
        if user is not None:
            browser = Client()
            browser.force_login(user)
            headers["Cookie"] = (
                f"{settings.SESSION_COOKIE_NAME}={browser.cookies[settings.SESSION_COOKIE_NAME].value}"
            )
        address = self.web.url.replace("http://", "ws://") + "/live/"
        return connect(address, additional_headers=headers, origin=Origin(self.web.url))

    def notify(self, *, devices: list[int] | None = None, channels: list[int] | None = None) -> None:
        payload = live_payload([self.owner.pk], channels or [], devices or [])
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [LIVE_NOTIFY, payload])

    def flood(self, payload: str) -> None:
        """Far more notifications at once than the layer keeps for one socket."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"DO $$ BEGIN FOR number IN 1..2000 LOOP PERFORM pg_notify('{LIVE_NOTIFY}', '{payload}'); COMMIT;"
                " END LOOP; END $$"
            )

    def test_it_tells_a_page_within_a_second_that_its_device_changed(self) -> None:
        with self.socket(self.alice) as socket:
            assert ask(socket, "device:web-1") == {"subscribed": ["device:web-1"]}
            before = time.monotonic()
            self.notify(devices=[self.web1.pk])
            assert hear(socket) == {"changed": ["device:web-1"]}
            assert time.monotonic() - before < 1

    def test_it_tells_nothing_of_what_the_page_does_not_show(self) -> None:
        with self.socket(self.alice) as socket:
            ask(socket, "channel:7")
            self.notify(devices=[self.web1.pk], channels=[self.servers.pk])
            self.notify(channels=[self.backups.pk])
            assert hear(socket) == {"changed": ["channel:7"]}

    def test_it_leaves_out_what_belongs_to_a_stranger_or_does_not_exist(self) -> None:
        with self.socket(self.mallory) as socket:
            names = (
                "device:web-1",
                "channel:0",
                "device:none",
                "channel:x",
                "account:1",
                "",
                "nonsense",
                "account",
            )
            assert ask(socket, *names) == {"subscribed": ["account"]}
            self.notify(devices=[self.web1.pk], channels=[self.servers.pk])
            ask(socket)
            with pytest.raises(TimeoutError):
                socket.recv(timeout=0.3)

    def test_it_watches_what_was_named_last(self) -> None:
        with self.socket(self.alice) as socket:
            ask(socket, "device:web-1")
            assert ask(socket, "device:new-1") == {"subscribed": ["device:new-1"]}
            self.notify(devices=[self.web1.pk])
            self.notify(devices=[self.new1.pk])
            assert hear(socket) == {"changed": ["device:new-1"]}

    def test_it_speaks_twice_a_second_at_most_and_never_drops_the_last_change(self) -> None:
        with self.socket(self.alice) as socket:
            ask(socket, "device:web-1", "channel:0")
            started = time.monotonic()
            self.flood(live_payload([], [], [self.web1.pk]))
            self.notify(channels=[self.servers.pk])
            heard = [hear(socket)]
            while "channel:0" not in heard[-1]["changed"]:
                heard.append(hear(socket))
            assert len(heard) <= 2 * (time.monotonic() - started) + 1

    def test_it_hears_again_after_the_database_connection_broke(self) -> None:
        with self.socket(self.alice) as socket:
            ask(socket, "device:web-1")
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'servwatch-live'"
                )
                assert cursor.fetchall() == [(True,)]
            # What happened meanwhile is unknown, so every page is told once the connection is back.
            assert hear(socket) == {"changed": ["device:web-1"]}
            self.notify(devices=[self.web1.pk])
            assert hear(socket) == {"changed": ["device:web-1"]}

    def test_it_hangs_up_on_somebody_who_is_not_signed_in(self) -> None:
        with self.socket() as socket:
            assert closing_code(socket) == CLOSE_SIGNED_OUT

    def test_it_hangs_up_on_somebody_who_was_taken_away(self) -> None:
        self.alice.is_active = False
        self.alice.save()
        with self.socket(self.alice) as socket:
            assert closing_code(socket) == CLOSE_SIGNED_OUT

    def test_it_hangs_up_when_the_session_ends_while_the_page_is_open(self) -> None:
        with self.socket(self.alice) as socket:
            ask(socket, "account")
            Session.objects.all().delete()
            assert closing_code(socket, timeout_s=SIGN_IN_CHECK_S + PATIENCE_S) == CLOSE_SIGNED_OUT

    def test_it_hangs_up_on_nonsense(self) -> None:
        for text in ("", "{", "[]", "null", '{"subscribe": "account"}', "[" * 19_000, "1" * 20_001):
            with self.subTest(text=text[:20]), self.socket(self.alice) as socket:
                socket.send(text)
                assert closing_code(socket) == CLOSE_NONSENSE

    def test_it_hangs_up_on_binary_data(self) -> None:
        with self.socket(self.alice) as socket:
            socket.send(b"\x00")
            assert closing_code(socket) == CLOSE_NONSENSE

    def test_it_is_closed_to_pages_of_other_sites(self) -> None:
        address = self.web.url.replace("http://", "ws://") + "/live/"
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(address, origin=Origin("http://elsewhere.example")),
        ):
            pass
        assert refused.value.response.status_code == 403

    def test_it_keeps_one_database_connection_for_all_pages(self) -> None:
        with self.socket(self.alice) as first, self.socket(self.alice) as second:
            for socket in (first, second):
                ask(socket, "account")
            assert self.live_connections() == 1
            self.notify()
            assert hear(first) == hear(second) == {"changed": ["account"]}
            self.web.stop()
            wait_until(lambda: self.live_connections() == 0, what="the end of the live connection")
            self.web.start()

    def live_connections(self) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'servwatch-live'")
            return int(cursor.fetchone()[0])


def ask(socket: ClientConnection, *names: str) -> Any:
    """Name what the page shows; the next answer about it."""
    socket.send(json.dumps({"subscribe": list(names)}))
    while True:
        heard = hear(socket)
        if "subscribed" in heard:
            return heard


def hear(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(timeout=PATIENCE_S))


def closing_code(socket: ClientConnection, *, timeout_s: float = PATIENCE_S) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=timeout_s)
    return closed.value.rcvd.code if closed.value.rcvd else None
