from datetime import timedelta
from typing import Any

from django.db import connection

from devices.broker_log import LINE_CUT_BYTES, SUBSCRIBE, UNSUBSCRIBE, BrokerLog, log_kind
from devices.models import RefusedSignIn, Session
from devices.sessions import device_listens
from servwatch_site.tests.cast import NOW, BaseTestCase
from tokens.selectors import device_token_reveal
from tokens.services import device_token_issue

STAMP = "2026-11-24T14:52:03: "


class BrokerLogTestCase(BaseTestCase):
    def setUp(self) -> None:
        self.log = BrokerLog()

    def note(self, *lines: str, kind: str = "", after_s: int = 0) -> list[bool]:
        at = NOW + timedelta(seconds=after_s)
        return [self.log.note(f"{STAMP}{line}\n".encode(), at=at, kind=kind) for line in lines]

    def connect(
        self, client: str, user: str = "", *, clean: bool = True, port: int = 4567, websocket: bool = False
    ) -> None:
        if not websocket:
            self.note(f"New connection from 192.0.2.7:{port} on port 1883.")
        self.note(
            f"New client connected from 192.0.2.7:{port} as {client} "
            f"(p2, c{int(clean)}, k60, u'{user or self.owner.user_id}')."
        )

    def subscribe(self, client: str, device: str, *, token: str = "") -> None:
        self.note(f"{client} 1 {token or self.device_token}/{device}/subscribe")

    def write(self) -> None:
        with connection.cursor() as cursor:
            self.log.write(cursor)
        self.log.committed()
        assert not self.log.waiting

    def live(self) -> list[str]:
        self.write()
        return sorted(Session.objects.filter(connected=True).values_list("client_id", flat=True))

    def row(self, client: str) -> Session:
        self.write()
        return Session.objects.get(client_id=client)


class LinesTest(BrokerLogTestCase):
    def test_it_keeps_what_the_line_says(self) -> None:
        self.note("New connection from 192.0.2.7:4567 on port 1883.")
        self.note(
            f"New client connected from 192.0.2.7:4567 as web-1 (p1, c0, k30, u'{self.owner.user_id}')."
        )
        row = self.row("web-1")
        assert (row.account_id, row.ipaddress, row.connected_at) == (self.owner.pk, "192.0.2.7", NOW)
        assert (row.clean_sess, row.proto_ver, row.keepalive) == (False, 3, 30)
        assert (row.connected, row.takes_commands, row.device_id) == (True, False, "")

    def test_it_tells_addresses_and_protocols(self) -> None:
        user = self.owner.user_id
        self.note(f"New client connected from ::1:45678 as six (p5, c1, k0, u'{user}').")
        self.note(f"New client connected from ::ffff:192.0.2.9:1 as mapped (p2, c1, k65535, u'{user}').")
        assert (self.row("six").ipaddress, self.row("six").proto_ver) == ("::1", 5)
        assert (self.row("mapped").ipaddress, self.row("mapped").proto_ver) == ("192.0.2.9", 4)

    def test_every_way_of_leaving_ends_the_session(self) -> None:
        for end in (
            "Client a b disconnected.",
            "Client a b closed its connection.",
            "Client a b has exceeded timeout, disconnecting.",
            "Client a b disconnected due to protocol error.",
            "Client a b disconnected due to malformed packet.",
            "Client a b [192.0.2.7:4567] disconnected.",
            "Client a b [192.0.2.7:4567] disconnected: protocol error.",
        ):
            self.connect("a b")
            assert self.live() == ["a b"]
            self.note(end)
            assert self.live() == [], end
            assert not Session.objects.exists()

    def test_a_second_client_of_the_same_id_takes_over(self) -> None:
        self.connect("web-1", port=1)
        self.note("New connection from 192.0.2.7:2 on port 1883.")
        self.note("Client web-1 already connected, closing old connection.")
        self.connect("web-1", self.stranger.user_id, port=2)
        assert self.row("web-1").account_id == self.stranger.pk
        self.note("Client web-1 closed its connection.")
        assert self.live() == []

    def test_a_web_socket_that_was_taken_over_says_so_once_more_and_ends_nothing(self) -> None:
        self.connect("web-1", websocket=True)
        self.note("Client web-1 already connected, closing old connection.")
        self.connect("web-1", port=2)
        self.note("Client web-1 closed its connection.")
        assert self.live() == ["web-1"]
        self.note("Client web-1 closed its connection.")
        assert self.live() == []

    def test_the_listener_and_unknown_users_are_left_out(self) -> None:
        self.connect("sw-1", "servwatch-listener")
        self.connect("x", "U999999")
        self.note("New client connected from 192.0.2.7:4 as anonymous (p2, c1, k60).")
        assert self.live() == []
        self.note("Client x disconnected.")
        assert self.live() == []

    def test_odd_client_ids_stay_as_they_are(self) -> None:
        odd = [
            " ", " lead", "trail ", "q'uote\"", "x as y (p2", "日本", "disconnected.", "a closed its connection.",
            "x as y (p2, c1, k60, u'U000009').", "Client", "New", "x 1 y", "100%",
        ]  # fmt: skip
        for client in odd:
            self.connect(client)
        assert self.live() == sorted(odd)
        for client in odd:
            self.note(f"Client {client} closed its connection.")
        assert self.live() == []

    def test_a_client_id_cannot_forge_the_session_of_another(self) -> None:
        self.connect(f"victim (p2, c1, k60, u'{self.owner.user_id}').", self.stranger.user_id)
        self.connect(f"y as victim (p2, c1, k60, u'{self.owner.user_id}')", self.stranger.user_id)
        self.write()
        assert not Session.objects.filter(account=self.owner).exists()

    def test_a_line_cut_by_the_broker_is_not_believed(self) -> None:
        line = f"New client connected from 192.0.2.7:4 as victim (p2, c1, k60, u'{self.owner.user_id}')."
        padding = LINE_CUT_BYTES - len(STAMP) - len(line)
        passed = self.note(line.replace("victim", "v" * (padding + 6)))
        assert passed == [False]
        assert self.live() == []

    def test_a_subscription_cannot_imitate_the_session_of_another(self) -> None:
        """Nor can the end of one: the id and the topic of a subscription make any line."""
        attacker = self.stranger.user_id
        self.connect("victim")
        for client in ("New", "Client", "New client connected from 192.0.2.9:9 as forged"):
            self.connect(client, attacker, port=9)
        tail = f"(p2, c1, k60, u'{self.owner.user_id}')."
        passed = self.note(
            f"New client connected from 192.0.2.9:9 as forged {tail}",
            f"New client connected from 192.0.2.9:9 as forged 1 x {tail}",
            "Client victim disconnected.",
            "Client victim closed its connection.",
        )
        assert passed == [False] * 4
        self.write()
        assert [row.client_id for row in Session.objects.filter(account=self.owner)] == ["victim"]
        # What may be true is looked up, a moment later.
        assert self.log.doubtful(now=NOW) == []
        doubtful = self.log.doubtful(now=NOW + timedelta(seconds=2))
        assert doubtful == ["victim"]
        self.log.settle(doubtful, connections={("192.0.2.7", 4567)})
        assert "victim" in self.live()
        self.note("Client victim disconnected.")
        self.log.settle(["victim"], connections={("192.0.2.7", 1)})
        assert "victim" not in self.live()

    def test_where_lines_have_a_type_nothing_is_doubtful(self) -> None:
        self.connect("Client", self.stranger.user_id, port=9)
        self.connect("victim")
        self.note("Client victim disconnected.", kind=UNSUBSCRIBE)
        assert "victim" in self.live()
        self.note("Client victim disconnected.", kind=log_kind("$SYS/broker/log/N"))
        assert "victim" not in self.live()
        assert log_kind("$SYS/broker/log/M/subscribe") == SUBSCRIBE

    def test_lines_that_hold_a_token_are_not_passed_on(self) -> None:
        self.connect("web 1")
        token = self.device_token
        secret = [
            f"web 1 1 {token}/web-1/subscribe", f"web 1 {token}/web-1/subscribe", f"web 1 0 {token}/#",
            f"web 1 2 $share/g/{token}/web-1/subscribe", f"stranger to us 1 {token}/#", f"x 1 {token}",
        ]  # fmt: skip
        assert self.note(*secret) == [False] * len(secret)
        plain = [
            "New connection from 192.0.2.7:1 on port 1883.", "Client web 1 disconnected.", "Config loaded.",
            "Warning: Mosquitto should not be run as root/administrator.", "Error: Unable to open log file.",
            "Client <unknown> disconnected, not authorised.", "mosquitto version 2.0.11 running",
        ]  # fmt: skip
        assert self.note(*plain) == [True] * len(plain)
        assert not any(token in str(row) for row in Session.objects.values())


class RefusedSignInTest(BrokerLogTestCase):
    def test_it_notes_who_was_refused_and_from_where(self) -> None:
        self.note("New connection from 192.0.2.7:41 on port 1883.")
        self.note(
            "Client <unknown> disconnected, not authorised.", "Client x y disconnected, not authorized."
        )
        self.write()
        found = list(RefusedSignIn.objects.order_by("id").values_list("client_id", "address", "reason"))
        assert found == [("", "192.0.2.7", "not authorised"), ("x y", "192.0.2.7", "not authorized")]

    def test_a_failed_write_loses_and_repeats_nothing(self) -> None:
        self.note("Client <unknown> disconnected, not authorised.")
        with connection.cursor() as cursor:
            self.log.write(cursor)
            cursor.execute("DELETE FROM devices_refusedsignin")  # as if it had been rolled back
        assert self.log.waiting
        self.write()
        assert RefusedSignIn.objects.count() == 1


class CommandsTest(BrokerLogTestCase):
    def listens(self, device: str = "web-1") -> bool:
        self.write()
        return device_listens(self.owner.pk, device)

    def test_a_subscription_tells_the_device_and_that_it_listens(self) -> None:
        self.connect("any name")
        assert not self.listens()
        self.subscribe("any name", "web-1")
        assert self.listens()
        row = self.row("any name")
        assert (row.device_id, row.takes_commands, row.commands_for) == ("web-1", True, ["web-1"])
        self.note(f"any name {self.device_token}/web-1/subscribe")
        assert not self.listens()
        assert self.row("any name").device_id == "web-1"

    def test_one_client_may_listen_for_several_devices(self) -> None:
        self.connect("gateway")
        for device in ("b", "a", "c"):
            self.subscribe("gateway", device)
        assert [self.listens(device) for device in "abcd"] == [True, True, True, False]
        assert self.row("gateway").device_id == "b"
        self.note("Client gateway disconnected.")
        assert not self.listens("a")

    def test_other_topics_and_foreign_tokens_are_no_commands(self) -> None:
        foreign = device_token_reveal(self.stranger)
        self.connect("web-1")
        self.subscribe("web-1", "web-1", token=foreign)
        self.subscribe("web-1", "web-1", token="nonsense")
        self.note(f"web-1 1 {self.device_token}/#", f"web-1 1 {self.device_token}/+/subscribe")
        self.note(f"web-1 1 $share/g/{self.device_token}/web-1/subscribe", "web-1 1 #")
        assert not self.listens()
        assert not device_listens(self.stranger.pk, "web-1")
        assert self.row("web-1").device_id == ""

    def test_a_durable_client_still_listens_when_it_comes_back(self) -> None:
        self.connect("web-1", clean=False)
        self.subscribe("web-1", "web-1")
        self.note("Client web-1 closed its connection.")
        assert not self.listens()
        assert (self.row("web-1").connected, self.row("web-1").takes_commands) == (False, True)
        self.connect("web-1", clean=False)
        assert self.listens()
        self.connect("web-1", clean=True)
        assert not self.listens()

    def test_a_clean_client_has_to_subscribe_again(self) -> None:
        for clean in (True, False):
            self.connect("web-1")
            self.subscribe("web-1", "web-1")
            self.note("Client web-1 closed its connection.")
            assert self.live() == []
            self.connect("web-1", clean=clean)
            assert not self.listens()

    def test_it_survives_a_restart_of_the_reader(self) -> None:
        self.connect("durable", clean=False)
        self.connect("away", clean=False)
        self.connect("clean")
        for client in ("durable", "away", "clean"):
            self.subscribe(client, client)
        self.note("Client away closed its connection.")
        self.write()
        self.log = BrokerLog()
        with connection.cursor() as cursor:
            self.log.load(cursor)
        assert self.live() == ["clean", "durable"]
        self.log.clear()  # the broker has restarted, its durable sessions stay
        assert self.live() == []
        assert sorted(Session.objects.values_list("client_id", flat=True)) == ["away", "durable"]
        self.connect("away", clean=False)
        assert self.listens("away")

    def test_a_new_token_ends_the_subscriptions_of_the_old_one(self) -> None:
        self.connect("web-1", clean=False)
        self.subscribe("web-1", "web-1")
        assert self.listens()
        device_token_issue(self.owner)
        self.note("Client web-1 disconnected.")
        self.connect("web-1", clean=False)
        assert not self.listens()
        self.subscribe("web-1", "web-1", token=device_token_reveal(self.owner))
        assert self.listens()

    def test_who_newly_takes_commands_wakes_those_who_wait(self) -> None:
        def woken() -> bool:
            said: list[str] = []

            def spy(execute: Any, sql: str, *rest: Any) -> Any:
                said.append(sql)
                return execute(sql, *rest)

            with connection.execute_wrapper(spy):
                self.write()
            return "NOTIFY servwatch_commands" in said

        self.connect("web-1", clean=False)
        assert not woken()
        self.subscribe("web-1", "web-1")
        assert woken()
        self.connect("other")
        self.subscribe("web-1", "web-1")
        assert not woken()
        self.note("Client web-1 disconnected.")
        assert not woken()
        self.connect("web-1", clean=False)
        self.log.note(b"", at=NOW)
        assert self.listens()


class BatchTest(BrokerLogTestCase):
    def test_clients_that_come_and_go_during_an_outage_pile_nothing_up(self) -> None:
        self.connect("stays")
        self.write()
        self.note("Client stays disconnected.")
        for number in range(500):
            self.connect(f"random-{number}")
            self.note(f"Client random-{number} closed its connection.")
        assert len(self.log._changes) == 1
        assert self.live() == []

    def test_what_changes_while_it_is_written_is_written_next(self) -> None:
        self.connect("web-1")
        with connection.cursor() as cursor:
            self.log.write(cursor)
            self.note("Client web-1 disconnected.")
            self.log.committed()
        assert self.log.waiting
        assert self.live() == []
        assert not Session.objects.exists()

    def test_the_queries_do_not_grow_with_the_clients(self) -> None:
        for number in range(200):
            self.connect(f"c{number}")
        with self.assertNumQueries(2):
            self.write()
        assert Session.objects.count() == 200
