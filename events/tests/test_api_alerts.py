from datetime import timedelta
from typing import Any

from django.utils import timezone

from events.models import Alert, Rule
from events.tests.alerts import alert_add
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NOW


class AlertTestCase(ApiTestCase):
    def setUp(self) -> None:
        self.rule = Rule.objects.create(
            account=self.owner,
            channel=self.servers,
            source="cpu",
            operator=">",
            threshold="90",
            description="hot",
        )

    def alert(self, **fields: Any) -> Alert:
        """An open one of web-1."""
        return alert_add(self.owner, self.servers, self.web1, rule=self.rule, **fields)

    def other_alert(self, **fields: Any) -> Alert:
        """An open one of another device in another channel."""
        return alert_add(self.owner, self.backups, self.new1, rule=self.rule, **fields)

    def put(self, alert: Alert, **fields: Any) -> dict[str, Any]:
        answer = self.call("PUT", f"/v2/alert/{alert.pk}", fields)
        assert answer.status_code == 200, answer.content
        return dict(answer.json())

    def ids(self, query: str = "") -> list[int]:
        return [alert["alert_id"] for alert in self.get("/v2/alert" + query)["alerts"]]


class ReadTest(AlertTestCase):
    def test_it_answers_every_field(self) -> None:
        alert = self.alert(tag="rack")
        at = "2026-11-23T18:30:00.000+09:00"
        assert self.get(f"/v2/alert/{alert.pk}") == {
            "alert_id": alert.pk,
            "event_id": self.rule.pk,
            "description": "hot",
            "mapped_ch": 0,
            "channel_name": "Servers",
            "device_id": "web-1",
            "tag": "rack",
            "key": "cpu",
            "cause": "value",
            "operator": ">",
            "threshold": "90",
            "severity": "warning",
            "state": "firing",
            "since": at,
            "fired_at": at,
            "value": 95.5,
            "last_at": at,
            "last_value": 96,
            "resolved_at": None,
            "resolution": None,
            "acknowledged_at": None,
            "acknowledged_by": None,
            "snoozed_until": None,
            "snoozed_by": None,
            "comments": [],
        }

    def test_an_alert_without_a_device_says_so(self) -> None:
        alert = self.alert(device_key=-self.servers.pk, resolved_at=NOW, resolution="recovered")
        found = self.get(f"/v2/alert/{alert.pk}")
        assert (found["device_id"], found["state"], found["resolution"]) == (None, "resolved", "recovered")

    def test_it_lists_the_newest_first_and_filters(self) -> None:
        hour_ago = NOW - timedelta(hours=1)
        old = self.alert(fired_at=hour_ago, resolved_at=NOW, resolution="recovered", severity="info")
        other = self.other_alert(severity="critical")
        seen = self.alert(acknowledged_at=NOW, acknowledged_by="x")
        slept = self.alert(snoozed_until=timezone.now() + timedelta(hours=1))
        awake = self.alert(snoozed_until=timezone.now() - timedelta(hours=1))
        for query, expected in (
            ("", [awake, slept, seen, other, old]),
            ("?state=open", [awake, slept, seen, other]),
            ("?state=firing", [awake, other]),
            ("?state=acknowledged", [seen]),
            ("?state=snoozed", [slept]),
            ("?state=resolved", [old]),
            ("?severity=critical", [other]),
            ("?device=new-1", [other]),
            ("?device=none", []),
            ("?channel=7", [other]),
            ("?channel=0&state=resolved", [old]),
            (f"?event={self.rule.pk}", [awake, slept, seen, other, old]),
            ("?event=0", []),
            ("?since=2026-11-23+18:30", [awake, slept, seen, other]),
        ):
            assert self.ids(query) == [alert.pk for alert in expected], query
            for alert in self.get("/v2/alert" + query)["alerts"]:
                assert (
                    query.startswith("?state=") is False
                    or alert["state"] == query[7:]
                    or query == "?state=open"
                )
        for query, field in (("?state=bad", "state"), ("?severity=x", "severity"), ("?since=x", "since")):
            self.assert_error(self.call("GET", "/v2/alert" + query), 400, "INVALID_VALUE", fields={field})

    def test_it_gives_pages_that_meet(self) -> None:
        ids = [self.alert().pk for _ in range(5)][::-1]
        answer = self.call("GET", "/v2/alert?limit=2")
        assert answer["X-Total-Count"] == "5" and 'rel="next"' in answer["Link"]
        assert (
            self.ids("?limit=2") + self.ids(f"?limit=2&after={ids[1]}") + self.ids(f"?after={ids[3]}") == ids
        )

    def test_reading_many_asks_as_often_as_reading_one(self) -> None:
        self.alert()
        self.ids()
        with self.assertNumQueries(5):
            self.ids()
        for _ in range(5):
            self.other_alert()
        with self.assertNumQueries(5):
            assert len(self.ids()) == 6

    def test_a_strangers_alert_is_not_there(self) -> None:
        alert = self.alert()
        for path in (f"/v2/alert/{alert.pk}", "/v2/alert/999999", "/v2/alert/x", "/v2/alert/" + "9" * 30):
            for method in ("GET", "PUT", "POST"):
                answer = self.call(method, path, {"comment": "x"}, token=self.strange_token)
                self.assert_error(answer, 404, "NOT_FOUND")
        assert self.get("/v2/alert?state=open", token=self.strange_token) == {"alerts": []}


class ActTest(AlertTestCase):
    def test_acknowledging_says_who_and_when_and_again_changes_nothing(self) -> None:
        alert = self.alert()
        first = self.put(alert, acknowledged=True)
        assert (first["state"], first["acknowledged_by"]) == ("acknowledged", "API token test")
        assert first["acknowledged_at"] is not None
        assert self.put(alert, acknowledged="true") == first
        assert self.get(f"/v2/alert/{alert.pk}") == first

    def test_acknowledging_can_be_taken_back(self) -> None:
        alert = self.alert(acknowledged_at=NOW, acknowledged_by="somebody")
        found = self.put(alert, acknowledged=False)
        assert (found["state"], found["acknowledged_by"], found["acknowledged_at"]) == ("firing", None, None)

    def test_a_snooze_ends_by_itself_or_by_hand(self) -> None:
        alert = self.alert(acknowledged_at=NOW, acknowledged_by="somebody")
        found = self.put(alert, snooze_s=600)
        assert (found["state"], found["snoozed_by"]) == ("snoozed", "API token test")
        alert.refresh_from_db()
        assert alert.state_now(now=timezone.now() + timedelta(seconds=601)) == "acknowledged"
        assert self.put(alert, snooze_s=0)["state"] == "acknowledged"

    def test_comments_are_kept_in_their_order(self) -> None:
        alert = self.alert(resolved_at=NOW, resolution="recovered")
        for text in ("first", " 二つ目 "):
            answer = self.call("POST", f"/v2/alert/{alert.pk}/", {"comment": text})
            assert answer.status_code == 201
        comments = self.get(f"/v2/alert/{alert.pk}")["comments"]
        assert [(one["text"], one["by"]) for one in comments] == [
            ("first", "API token test"),
            ("二つ目", "API token test"),
        ]

    def test_a_resolved_one_is_past_acknowledging(self) -> None:
        alert = self.alert(resolved_at=NOW, resolution="recovered")
        for body in ({"acknowledged": True}, {"acknowledged": False}, {"snooze_s": 60}, {"snooze_s": 0}):
            answer = self.call("PUT", f"/v2/alert/{alert.pk}", body)
            self.assert_error(answer, 400, "INVALID_VALUE", fields={"state"})

    def test_it_refuses_what_does_not_fit(self) -> None:
        path = f"/v2/alert/{self.alert().pk}"
        for method, body, field in (
            ("PUT", {"acknowledged": 1}, "acknowledged"),
            ("PUT", {"snooze_s": -1}, "snooze_s"),
            ("PUT", {"snooze_s": 31 * 86400}, "snooze_s"),
            ("POST", {}, "comment"),
            ("POST", {"comment": " "}, "comment"),
            ("POST", {"comment": "x" * 2001}, "comment"),
        ):
            self.assert_error(self.call(method, path, body), 400, "INVALID_VALUE", fields={field})

    def test_a_reader_may_look_and_nothing_else(self) -> None:
        path = f"/v2/alert/{self.alert().pk}"
        assert self.call("GET", path, token=self.read_token).status_code == 200
        for method in ("PUT", "POST"):
            answer = self.call(method, path, {"comment": "x"}, token=self.read_token)
            self.assert_error(answer, 403, "FORBIDDEN")
