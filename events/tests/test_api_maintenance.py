from typing import Any

from django.utils import timezone

from events.maintenance import maintenance_create
from events.models import Maintenance
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NOW

WHOLE: dict[str, Any] = {"starts_at": "2026-11-29 02:00", "ends_at": "2026-11-29 04:00"}


class MaintenanceTest(ApiTestCase):
    """The owner lives in Tokyo."""

    def post(self, **fields: Any) -> dict[str, Any]:
        answer = self.call("POST", "/v2/maintenance", WHOLE | fields)
        assert answer.status_code == 201, answer.content
        return dict(answer.json())

    def test_it_answers_every_field(self) -> None:
        made = self.post()
        expected: dict[str, Any] = {
            "name": "",
            "channel": None,
            "device_id": None,
            "tag": None,
            "starts_at": "2026-11-29T02:00:00.000+09:00",
            "ends_at": "2026-11-29T04:00:00.000+09:00",
            "repeat": "once",
            "weekdays": [],
            "until": None,
            "active": False,
            "active_until": None,
            "created_by": "API token test",
        }
        assert {name: made[name] for name in expected} == expected
        assert set(made) == {*expected, "maintenance_id", "created_at"}
        assert self.get(f"/v2/maintenance/{made['maintenance_id']}") == made
        assert self.get("/v2/maintenance/") == {"maintenance": [made]}

    def test_it_takes_every_field(self) -> None:
        given = {
            "name": "Patches",
            "channel": 0,
            "device_id": "web-1",
            "tag": "rack",
            "repeat": "weekly",
            "weekdays": [5, 6],
            "until": "2027-01-01T00:00:00.000+09:00",
        }
        made = self.post(**given)
        assert {name: made[name] for name in given} == given

    def test_it_says_whether_it_holds_now(self) -> None:
        made = self.post(starts_at="2020-01-01 00:00", ends_at="2020-01-01 23:59:59.999", repeat="daily")
        assert made["active"] is True
        assert made["active_until"].startswith(timezone.now().astimezone(self.owner.zone).date().isoformat())

    def test_a_change_keeps_the_rest(self) -> None:
        made = self.post(name="Patches", channel=0)
        path = f"/v2/maintenance/{made['maintenance_id']}"
        answer = self.call("PUT", path, {"ends_at": "2026-11-29T05:00+09:00", "channel": None, "tag": ""})
        assert answer.status_code == 200
        assert answer.json() == made | {"ends_at": "2026-11-29T05:00:00.000+09:00", "channel": None}

    def test_it_is_deleted(self) -> None:
        made = self.post()
        path = f"/v2/maintenance/{made['maintenance_id']}"
        assert self.call("DELETE", path).json() == made
        self.assert_error(self.call("GET", path), 404, "NOT_FOUND")
        self.assert_error(self.call("DELETE", path), 404, "NOT_FOUND")

    def test_it_refuses_bad_input(self) -> None:
        for fields, wrong in (
            ({"starts_at": ""}, {"starts_at"}),
            ({"ends_at": "tomorrow"}, {"ends_at"}),
            ({"ends_at": "2026-11-29 01:00"}, {"ends_at"}),
            ({"repeat": "yearly"}, {"repeat"}),
            ({"weekdays": [7]}, {"weekdays.0"}),
            ({"weekdays": "monday"}, {"weekdays"}),
            ({"name": "x" * 129}, {"name"}),
            ({"channel": -1}, {"channel"}),
        ):
            answer = self.call("POST", "/v2/maintenance", WHOLE | fields)
            self.assert_error(answer, 400, "INVALID_VALUE", fields=wrong)
        self.assert_error(self.call("POST", "/v2/maintenance", {}), 400, "INVALID_VALUE")
        self.assert_error(self.call("POST", "/v2/maintenance", WHOLE | {"channel": 5}), 404, "NO_CHANNEL")
        self.assert_error(self.call("POST", "/v2/maintenance", WHOLE | {"device_id": "x"}), 404, "NO_DEVICE")
        assert Maintenance.objects.count() == 0

    def test_a_missing_token_and_a_stranger_s(self) -> None:
        made = self.post()
        path = f"/v2/maintenance/{made['maintenance_id']}"
        for method in ("GET", "PUT", "DELETE"):
            self.assert_error(self.call(method, path, {}, token=""), 401, "AUTH_REQUIRED")
            self.assert_error(self.call(method, path, {}, token=self.strange_token), 404, "NOT_FOUND")
        assert self.get("/v2/maintenance", token=self.strange_token) == {"maintenance": []}
        answer = self.call("POST", "/v2/maintenance", WHOLE, token=self.read_token)
        assert answer.status_code == 403

    def test_what_is_no_number_is_not_found(self) -> None:
        for text in ("x", "-1", "9" * 30):
            self.assert_error(self.call("GET", f"/v2/maintenance/{text}"), 404, "NOT_FOUND")

    def test_many_cost_no_more_queries(self) -> None:
        for number in range(5):
            changes = {"name": str(number), "starts_at": NOW, "ends_at": timezone.now(), "device": self.web1}
            maintenance_create(self.owner, changes=changes, by="Alice", now=NOW)
        with self.assertNumQueries(3):
            assert len(self.get("/v2/maintenance")["maintenance"]) == 5
