from typing import Any

from django.utils import timezone

from devices.models import Device, Session
from devices.selectors import DeviceFilter, device_list, device_now
from devices.services import device_create, device_delete
from devices.sessions import device_listens
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NOW
from tokens.models import Account


def session(account: Account, client_id: str, **given: Any) -> Session:
    """A live session; `commands_for` makes it listen."""
    client = client_id.partition(f"{account.user_id}")
    return Session.objects.create(
        **{
            "broker": "servwatch",
            "client_id": client_id,
            "account": account,
            "named_device": client[2][1:] if client[1] and not client[0] else "",
            "ipaddress": "192.0.2.7",
            "clean_sess": True,
            "proto_ver": 4,
            "keepalive": 60,
            "connected_at": NOW,
            "connected": True,
            "takes_commands": bool(given.get("commands_for")),
            **given,
        }
    )


class SessionListTest(ApiTestCase):
    def pairs(self) -> list[tuple[str, str | None]]:
        return [(row["client_id"], row["device_id"]) for row in self.get("/v2/session")]

    def test_it_answers_every_field(self) -> None:
        session(self.owner, "any name", device_id="web-1", clean_sess=False, proto_ver=5, keepalive=30)
        answer = [
            {
                "client_id": "any name",
                "device_id": "web-1",
                "ipaddress": "192.0.2.7",
                "clean_sess": False,
                "proto_ver": 5,
                "keepalive": 30,
                "connected_at": "2026-11-23T18:30:00.000+09:00",
            }
        ]
        assert self.get("/v2/session") == self.get("/v2/session/") == answer

    def test_it_shows_live_clients_of_the_own_account_only(self) -> None:
        session(self.owner, "mine")
        session(self.owner, "gone", connected=False, commands_for=["web-1"])
        session(self.stranger, "theirs")
        assert self.pairs() == [("mine", None)]

    def test_the_client_id_tells_the_device_when_there_is_such_a_one(self) -> None:
        own = self.owner.user_id
        device_create(self.owner, f"{own}-db", now=NOW)
        device_create(self.owner, "db", now=NOW)
        gone = device_create(self.owner, "gone", now=NOW)
        device_delete(gone, now=NOW)
        device_create(self.stranger, "theirs", now=NOW)
        for client in ("web-1", f"{own}:new-1", f"{own}-db", f"{own}/gone", "theirs", "x"):
            session(self.owner, client)
        assert dict(self.pairs()) == {
            "web-1": "web-1",
            f"{own}:new-1": "new-1",
            f"{own}-db": f"{own}-db",
            f"{own}/gone": None,
            "theirs": None,
            "x": None,
        }

    def test_it_gives_pages_that_meet(self) -> None:
        clients = [" ", " a", "a ", "a+b&c", "100%", "%20", "日本", "x:y/z", "\ufffd", "U1-web-1"]
        for client in clients:
            session(self.owner, client)
        seen, path = [], "/v2/session?limit=1"
        while path:
            answer = self.call("GET", path)
            assert answer["X-Total-Count"] == str(len(clients))
            seen += [row["client_id"] for row in answer.json()]
            path = answer.get("Link", "")[len("<http://testserver") : -len('>; rel="next"')]
            assert len(seen) <= len(clients)
        assert sorted(seen) == sorted(clients)
        whole = self.call("GET", "/v2/session")
        assert "Link" not in whole and [row["client_id"] for row in whole.json()] == seen

    def test_it_refuses_what_it_must(self) -> None:
        self.assert_error(self.call("GET", "/v2/session", token=""), 401, "AUTH_REQUIRED")
        self.assert_error(self.call("POST", "/v2/session", {}), 405, "METHOD_NOT_ALLOWED")
        self.assert_error(self.call("GET", "/v2/session?limit=0"), 400, "INVALID_VALUE")
        assert self.call("GET", "/v2/session?after=%2500&limit=2").status_code == 200
        assert self.call("GET", "/v2/session", token=self.read_token).status_code == 200
        assert self.get("/v2/session", token=self.strange_token) == []

    def test_the_queries_do_not_grow_with_the_sessions(self) -> None:
        self.get("/v2/session")
        for number in range(30):
            session(self.owner, f"c{number}")
        with self.assertNumQueries(2):
            assert len(self.get("/v2/session")) == 30


class OnlineTest(ApiTestCase):
    def online(self) -> set[str]:
        """By the answers, checked against the filter and the single device."""
        now = timezone.now()
        rows = device_list(self.owner, now=now)
        told = {row.device.device_id for row in rows if row.online}
        for wish in (True, False):
            narrow = DeviceFilter(online=wish)
            filtered = {row.device.device_id for row in device_list(self.owner, narrow=narrow, now=now)}
            assert filtered == {row.device.device_id for row in rows if row.online is wish}
        for row in rows:
            alone = device_now(Device.objects.get(pk=row.device.pk), now=now)
            assert alone.online == row.online
        return told

    def test_a_live_session_makes_its_device_online(self) -> None:
        assert self.online() == set()
        named = session(self.owner, "any name", device_id="web-1")
        assert self.online() == {"web-1"}
        session(self.owner, f"{self.owner.user_id}-new-1")
        assert self.online() == {"web-1", "new-1"}
        named.delete()
        assert self.online() == {"new-1"}
        session(self.owner, "web-1")
        assert self.online() == {"web-1", "new-1"}

    def test_other_sessions_do_not(self) -> None:
        session(self.owner, "away", device_id="web-1", connected=False)
        session(self.stranger, "web-1", device_id="new-1")
        session(self.owner, "new-1", device_id="somebody-else")
        assert self.online() == set()

    def test_a_session_belongs_to_one_device(self) -> None:
        whole = f"{self.owner.user_id}-web-1"
        device_create(self.owner, whole, now=NOW)
        session(self.owner, whole)
        assert self.online() == {whole}

    def test_a_device_that_never_sent_is_online_by_its_session(self) -> None:
        session(self.owner, "web-1")
        assert device_now(self.web1, now=timezone.now()).status == "online"
        assert self.get("/v2/device/web-1")[0]["online"] is True


class DeviceListensTest(ApiTestCase):
    def test_only_a_connected_client_of_the_account_listens(self) -> None:
        session(self.owner, "away", connected=False, commands_for=["web-1"])
        session(self.stranger, "theirs", commands_for=["web-1"])
        session(self.owner, "web-1", device_id="web-1")
        assert not device_listens(self.owner.pk, "web-1")
        session(self.owner, "gateway", device_id="new-1", commands_for=["new-1", "web-1"])
        assert device_listens(self.owner.pk, "web-1") and device_listens(self.owner.pk, "new-1")
