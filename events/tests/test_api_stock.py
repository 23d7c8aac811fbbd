from typing import Any

from channels.models import Stream
from events.models import Notifier, Rule
from servwatch_site.tests.api import ApiTestCase


class StockApiTest(ApiTestCase):
    def setUp(self) -> None:
        super().setUp()
        for key in ("memory:used_pct", "disks:/:used_pct"):
            Stream.objects.create(channel=self.servers, key=key, type="number")

    def post(self, **body: Any) -> Any:
        answer = self.call("POST", "/v2/event/stock", body)
        assert answer.status_code == 200, answer.content
        (found,) = answer.json()
        return found

    def test_it_lists_what_is_offered(self) -> None:
        found = self.get("/v2/event/stock")
        assert [one["stock"] for one in found] == ["offline", "memory", "disk_full", "disk_fills"]
        assert found[1] | {"about": ""} == {
            "mapped_ch": 0,
            "stock": "memory",
            "name": "Memory short",
            "about": "",
            "source": "memory:used_pct",
            "severity": "critical",
            "event_id": None,
            "enabled": False,
            "changed": False,
        }
        assert self.get("/v2/event/stock?channel=7") == []
        assert self.get("/v2/event/stock", token=self.strange_token) == []

    def test_it_switches_on_and_off(self) -> None:
        found = self.post(mapped_ch=0, stock="memory")
        assert (found["enabled"], found["event_id"]) == (True, Rule.objects.get().pk)
        assert self.get(f"/v2/event/{found['event_id']}")[0]["description"] == "Memory short"
        assert not self.post(mapped_ch=0, stock="memory", enabled=False)["enabled"]
        assert not Rule.objects.filter(deleted_at=None).exists()

    def test_a_new_one_tells_these_notifiers(self) -> None:
        mine, theirs = (
            Notifier.objects.create(account=account, kind="ntfy", ciphertext="x")
            for account in (self.owner, self.stranger)
        )
        self.post(mapped_ch=0, stock="memory", notifiers=[mine.pk])
        assert list(Rule.objects.get().notifiers.all()) == [mine]
        answer = self.call(
            "POST", "/v2/event/stock", {"mapped_ch": 0, "stock": "offline", "notifiers": [theirs.pk]}
        )
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"notifiers"})

    def test_it_refuses_what_does_not_fit(self) -> None:
        for body, status, code in (
            ({}, 400, "INVALID_VALUE"),
            ({"mapped_ch": 0}, 400, "INVALID_VALUE"),
            ({"mapped_ch": 0, "stock": "none"}, 404, "NOT_FOUND"),
            ({"mapped_ch": 0, "stock": "cpu"}, 404, "NOT_FOUND"),
            ({"mapped_ch": 99, "stock": "cpu"}, 404, "NO_CHANNEL"),
        ):
            self.assert_error(self.call("POST", "/v2/event/stock", body), status, code)
        body = {"mapped_ch": 0, "stock": "memory"}
        self.assert_error(self.call("POST", "/v2/event/stock", body, token=""), 401, "AUTH_REQUIRED")
        self.assert_error(self.call("POST", "/v2/event/stock", body, token=self.read_token), 403, "FORBIDDEN")
        self.assert_error(
            self.call("POST", "/v2/event/stock", body, token=self.strange_token), 404, "NO_CHANNEL"
        )
