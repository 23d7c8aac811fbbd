from typing import Any

from django.db import connection

from channels.services import channel_delete
from devices.services import device_delete
from events.models import Rule
from events.rulebook import RuleBook
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NOW

WHOLE: dict[str, Any] = {"mapped_ch": 0, "source": "cpu:idle", "operator": "<", "threshold": "10"}


class EventTestCase(ApiTestCase):
    def post(self, body: Any = None) -> int:
        """The id of a new event."""
        answer = self.call("POST", "/v2/event", body)
        assert answer.status_code == 201, answer.content
        assert set(answer.json()) == {"event_id"}
        return int(answer.json()["event_id"])

    def put(self, number: int, /, **fields: Any) -> dict[str, Any]:
        answer = self.call("PUT", f"/v2/event/{number}", fields)
        assert answer.status_code == 200, answer.content
        (found,) = answer.json()
        return dict(found)

    def notifier(self) -> int:
        """The id of a new notifier."""
        made = {"kind": "email", "settings": {"to": "ops@example.org"}}
        return int(self.call("POST", "/v2/notifier", made).json()["notifier_id"])

    def read(self, event_id: int) -> dict[str, Any]:
        (found,) = self.get(f"/v2/event/{event_id}")
        return dict(found)


class CreateTest(EventTestCase):
    def test_it_answers_every_field(self) -> None:
        event_id = self.post(WHOLE)
        expected = {
            "event_id": event_id,
            "description": "",
            "notify_type": "email",
            "post_url": "",
            "enabled": True,
            "for_s": 0,
            "clear_threshold": None,
            "absent_s": None,
            "ahead_s": None,
            "severity": "warning",
            "device_id": None,
            "tag": None,
            "repeat_s": None,
            "notifiers": [],
        }
        assert self.read(event_id) == expected | WHOLE

    def test_it_takes_every_field(self) -> None:
        given = {
            "description": "idle",
            "notify_type": "http",
            "post_url": "https://hooks.example.org/x?y=1",
            "enabled": False,
            "for_s": 300,
            "clear_threshold": "20.5",
            "absent_s": 600,
            "ahead_s": 86400,
            "severity": "critical",
            "device_id": "web-1",
            "tag": "ラック",
            "repeat_s": 3600,
            "notifiers": [self.notifier(), self.notifier()],
        }
        assert self.read(self.post(WHOLE | given)) == {**WHOLE, **given, "event_id": Rule.objects.get().pk}

    def test_without_a_body_it_is_disabled(self) -> None:
        for body in (None, {}, b"", {"description": "later"}):
            event = self.read(self.post(body))
            assert (event["enabled"], event["mapped_ch"], event["source"]) == (False, None, "")

    def test_a_number_is_taken_for_its_text(self) -> None:
        for number, text in ((10, "10"), (10.5, "10.5"), (-1, "-1"), ("10", "10")):
            assert self.read(self.post(WHOLE | {"threshold": number}))["threshold"] == text

    def test_an_empty_text_can_be_a_threshold(self) -> None:
        assert self.read(self.post(WHOLE | {"operator": "=", "threshold": ""}))["enabled"]
        assert not self.read(self.post(WHOLE | {"threshold": ""}))["enabled"]

    def test_silence_alone_needs_no_comparison(self) -> None:
        assert self.read(self.post({"mapped_ch": 0, "absent_s": 60}))["enabled"]

    def test_it_refuses_what_does_not_fit(self) -> None:
        for body, fields in (
            ({"operator": "~"}, {"operator"}),
            ({"threshold": None}, {"threshold"}),
            ({"threshold": True}, {"threshold"}),
            ({"threshold": "x" * 257}, {"threshold"}),
            ({"for_s": -1}, {"for_s"}),
            ({"for_s": 1.5}, {"for_s"}),
            ({"ahead_s": 599}, {"ahead_s"}),
            ({"ahead_s": 86400, "operator": "="}, {"ahead_s"}),
            ({"ahead_s": 86400, "threshold": "full"}, {"ahead_s"}),
            ({"absent_s": -1}, {"absent_s"}),
            ({"repeat_s": 5}, {"repeat_s"}),
            ({"notifiers": 5}, {"notifiers"}),
            ({"notifiers": ["x"]}, {"notifiers.0"}),
            ({"severity": "bad"}, {"severity"}),
            ({"notify_type": "fax"}, {"notify_type"}),
            ({"notify_type": "http"}, {"post_url"}),
            ({"post_url": "ftp://example.org"}, {"post_url"}),
            ({"post_url": "http://"}, {"post_url"}),
            ({"post_url": "http://[x"}, {"post_url"}),
            ({"tag": "a/b"}, {"tag"}),
            ({"source": "x" * 1001}, {"source"}),
            ({"source": "a\0b"}, {"source"}),
            ({"clear_threshold": "5"}, {"clear_threshold"}),
            ({"clear_threshold": "high"}, {"clear_threshold"}),
            ({"operator": ">", "clear_threshold": 11}, {"clear_threshold"}),
            ({"operator": "=", "clear_threshold": "10"}, {"clear_threshold"}),
            ({"mapped_ch": None, "enabled": True}, {"mapped_ch"}),
            ({"source": "", "operator": "", "enabled": True}, {"source", "operator"}),
        ):
            if "notify_type" in body or "enabled" in body:
                body = {"enabled": True, **body}
            self.assert_error(
                self.call("POST", "/v2/event", WHOLE | body), 400, "INVALID_VALUE", fields=fields
            )
        assert not Rule.objects.exists()

    def test_notifiers_that_are_named_must_exist(self) -> None:
        mine = self.notifier()
        for keys, token in (([mine, 999999], self.api_token), ([mine], self.strange_token)):
            answer = self.call("POST", "/v2/event", {"notifiers": keys}, token=token)
            self.assert_error(answer, 404, "NOT_FOUND")
        assert not Rule.objects.exists()

    def test_what_it_names_must_exist(self) -> None:
        for body, code in (({"mapped_ch": 99}, "NO_CHANNEL"), ({"device_id": "web-9"}, "NO_DEVICE")):
            self.assert_error(self.call("POST", "/v2/event", WHOLE | body), 404, code)
            self.assert_error(self.call("POST", "/v2/event", body, token=self.strange_token), 404, code)
        answer = self.call("POST", "/v2/event", WHOLE, token=self.strange_token)
        self.assert_error(answer, 404, "NO_CHANNEL")

    def test_a_reader_may_not_write(self) -> None:
        event_id = self.post(WHOLE)
        for method, path in (("POST", ""), ("PUT", f"/{event_id}"), ("DELETE", f"/{event_id}")):
            self.assert_error(
                self.call(method, "/v2/event" + path, {}, token=self.read_token), 403, "FORBIDDEN"
            )
        assert self.call("GET", "/v2/event", token=self.read_token).status_code == 200


class ChangeTest(EventTestCase):
    def setUp(self) -> None:
        self.event_id = self.post(WHOLE)

    def test_it_changes_what_is_named_and_nothing_else(self) -> None:
        before = self.read(self.event_id)
        changed = self.put(self.event_id, threshold="5", device_id="web-1", tag="rack")
        assert changed == {**before, "threshold": "5", "device_id": "web-1", "tag": "rack"}
        assert self.put(self.event_id, device_id=None, tag=None) == {**before, "threshold": "5"}
        assert self.put(self.event_id) == {**before, "threshold": "5"}

    def test_what_was_read_can_be_sent_back(self) -> None:
        before = self.read(self.event_id)
        assert self.put(self.event_id, **before) == before

    def test_a_bad_field_changes_nothing(self) -> None:
        before = self.read(self.event_id)
        answer = self.call("PUT", f"/v2/event/{self.event_id}", {"threshold": "5", "operator": ""})
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"operator"})
        assert self.read(self.event_id) == before

    def test_a_strangers_event_is_not_there(self) -> None:
        for path in (
            f"/v2/event/{self.event_id}",
            "/v2/event/999999",
            "/v2/event/x",
            "/v2/event/" + "9" * 30,
        ):
            for method in ("GET", "PUT", "DELETE"):
                self.assert_error(self.call(method, path, {}, token=self.strange_token), 404, "NO_EVENT")
        assert self.get("/v2/event", token=self.strange_token) == []

    def test_deleting_answers_it_as_it_was(self) -> None:
        before = self.read(self.event_id)
        answer = self.call("DELETE", f"/v2/event/{self.event_id}/")
        assert (answer.status_code, answer.json()) == (200, [before])
        self.assert_error(self.call("GET", f"/v2/event/{self.event_id}"), 404, "NO_EVENT")
        assert self.get("/v2/event") == []

    def test_deleting_a_channel_disables_its_events(self) -> None:
        channel_delete(self.servers, now=NOW)
        event = self.read(self.event_id)
        assert (event["enabled"], event["mapped_ch"]) == (False, None)
        assert not self.put(self.event_id, description="orphan")["enabled"]
        answer = self.call("PUT", f"/v2/event/{self.event_id}", {"enabled": True})
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"mapped_ch"})
        assert self.put(self.event_id, enabled=True, mapped_ch=7)["enabled"]

    def test_the_device_of_an_event_is_named_after_it_is_deleted(self) -> None:
        self.put(self.event_id, device_id="web-1")
        device_delete(self.web1, now=NOW)
        assert self.read(self.event_id)["device_id"] == "web-1"

    def test_it_lists_by_id_and_filters(self) -> None:
        others = [self.post(WHOLE | {"mapped_ch": 7}), self.post(WHOLE | {"enabled": False}), self.post()]
        for query, expected in (
            ("", [self.event_id, *others]),
            ("?channel=7", others[:1]),
            ("?enabled=true", [self.event_id, others[0]]),
            ("?enabled=false", others[1:]),
            ("?channel=0&enabled=false", [others[1]]),
        ):
            assert [event["event_id"] for event in self.get("/v2/event" + query)] == expected, query
        channel_delete(self.backups, now=NOW)
        assert others[0] in [event["event_id"] for event in self.get("/v2/event?enabled=false")]
        self.assert_error(self.call("GET", "/v2/event?enabled=1"), 400, "INVALID_VALUE", fields={"enabled"})

    def test_it_gives_pages_that_meet(self) -> None:
        ids = [self.event_id, *(self.post(WHOLE) for _ in range(4))]
        seen, path = [], "/v2/event?limit=2"
        while path:
            answer = self.call("GET", path)
            assert answer["X-Total-Count"] == "5"
            seen += [event["event_id"] for event in answer.json()]
            link = answer.get("Link", "")
            path = link.partition(">")[0].removeprefix("<http://testserver") if link else ""
        assert seen == ids
        self.assert_error(self.call("GET", "/v2/event?after=x"), 400, "INVALID_VALUE", fields={"after"})


class InForceTest(EventTestCase):
    """Which events the write street holds against messages."""

    def in_force(self) -> list[int]:
        rules = RuleBook()
        with connection.cursor() as cursor:
            rules.follow(cursor, 1)
        return [key for key in Rule.objects.order_by("pk").values_list("pk", flat=True) if rules.get(key)]

    def test_enabled_events_of_channels_that_exist(self) -> None:
        first = self.post(WHOLE)
        second = self.post(WHOLE | {"mapped_ch": 7})
        self.post(WHOLE | {"enabled": False})
        silence = self.post({"mapped_ch": 0, "absent_s": 0})
        self.post({"mapped_ch": 0})
        assert self.in_force() == [first, second, silence]
        channel_delete(self.backups, now=NOW)
        self.call("DELETE", f"/v2/event/{first}")
        self.call("DELETE", f"/v2/event/{silence}")
        assert self.in_force() == []
