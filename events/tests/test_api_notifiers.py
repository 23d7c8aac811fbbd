from datetime import timedelta
from typing import Any

from events.models import Attempt, Delivery, DeliveryItem, Notification, Notifier, Rule
from events.notifiers_store import KEPT, deliveries_expire_old, notifier_create, notifiers_of_rule
from events.tests.alerts import alert_add
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NOW
from tokens.services import account_update, api_token_issue

ADDRESS = "https://hooks.example.org/services/T0/B0/secret-4711"
HOOK: dict[str, Any] = {"kind": "webhook", "name": "tickets", "settings": {"url": ADDRESS}}


class NotifierTestCase(ApiTestCase):
    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.call("POST", "/v2/notifier", body)
        assert answer.status_code == 201, answer.content
        return dict(answer.json())

    def put(self, key: int, /, **fields: Any) -> dict[str, Any]:
        answer = self.call("PUT", f"/v2/notifier/{key}", fields)
        assert answer.status_code == 200, answer.content
        return dict(answer.json())

    def delivery(self, notifier: Notifier | None = None, **fields: Any) -> Delivery:
        """One of the owner's, about an alert of its own, tried once."""
        notifier = notifier or notifier_create(self.owner, kind="webhook", settings={"url": ADDRESS})
        alert = alert_add(self.owner, self.servers, self.web1)
        delivery = Delivery.objects.create(
            **{
                "account": self.owner,
                "notifier": notifier,
                "rule": alert.rule,
                "created_at": NOW,
                "next_at": NOW,
                "expires_at": NOW,
            }
            | fields
        )
        notification = Notification.objects.create(alert=alert, kind="firing", settled_at=NOW)
        DeliveryItem.objects.create(delivery=delivery, notification=notification, alert=alert)
        Attempt.objects.create(
            delivery=delivery, at=NOW, ok=False, latency_ms=12, status_code=500, answer="no", error="refused"
        )
        return delivery


class NotifierTest(NotifierTestCase):
    def test_it_answers_every_field_and_no_secret(self) -> None:
        made = self.post(HOOK)
        created = made.pop("created_at")
        assert created.endswith("+09:00")
        assert made == {
            "notifier_id": Notifier.objects.get().pk,
            "kind": "webhook",
            "name": "tickets",
            "enabled": True,
            "group_s": 0,
            "settings": {"url": "https://hooks.example.org/…4711"},
            "failures": 0,
            "retry_at": None,
            "last_ok_at": None,
            "last_error": "",
        }
        assert "secret" not in Notifier.objects.get().ciphertext

    def test_what_people_read_is_grouped(self) -> None:
        slack = self.post({"kind": "slack", "settings": {"url": ADDRESS}})
        assert (slack["group_s"], self.put(slack["notifier_id"], group_s=0)["group_s"]) == (15, 0)
        answer = self.call("POST", "/v2/notifier", HOOK | {"group_s": 5})
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"group_s"})

    def test_it_refuses_what_does_not_fit(self) -> None:
        for body, fields in (
            ({}, {"kind"}),
            ({"kind": "fax"}, {"kind"}),
            ({"kind": "webhook"}, {"url"}),
            (HOOK | {"settings": {"url": "x"}}, {"url"}),
            (HOOK | {"settings": {"url": ADDRESS, "more": 1}}, {"more"}),
            (HOOK | {"settings": "x"}, {"settings"}),
            (HOOK | {"name": "x" * 65}, {"name"}),
            (HOOK | {"name": "a\nb"}, {"name"}),
            (HOOK | {"group_s": 3601}, {"group_s"}),
            (HOOK | {"enabled": 1}, {"enabled"}),
        ):
            self.assert_error(self.call("POST", "/v2/notifier", body), 400, "INVALID_VALUE", fields=fields)
        assert not Notifier.objects.exists()

    def test_what_was_read_can_be_sent_back(self) -> None:
        made = self.post(HOOK)
        self.put(
            made["notifier_id"], **{name: made[name] for name in ("name", "enabled", "group_s", "settings")}
        )
        assert Notifier.objects.get().reveal() == {"url": ADDRESS}
        assert self.put(made["notifier_id"], settings={"url": ADDRESS + "/x"})["settings"] == {
            "url": "https://hooks.example.org/…11/x"
        }

    def test_new_settings_begin_anew(self) -> None:
        key = self.post(HOOK)["notifier_id"]
        Notifier.objects.update(failures=7, retry_at=NOW)
        assert self.put(key, name="other")["failures"] == 7
        assert self.put(key, settings={"url": ADDRESS})["failures"] == 0

    def test_a_deleted_one_is_gone_from_lists_and_events(self) -> None:
        made = self.post(HOOK)
        event = self.call("POST", "/v2/event", {"mapped_ch": 0, "notifiers": [made["notifier_id"]]}).json()
        assert self.get(f"/v2/event/{event['event_id']}")[0]["notifiers"] == [made["notifier_id"]]
        answer = self.call("DELETE", f"/v2/notifier/{made['notifier_id']}")
        assert (answer.status_code, answer.json()) == (200, made)
        assert self.get("/v2/notifier") == {"notifiers": []}
        assert self.get(f"/v2/event/{event['event_id']}")[0]["notifiers"] == []
        self.assert_error(self.call("GET", f"/v2/notifier/{made['notifier_id']}"), 404, "NOT_FOUND")

    def test_it_gives_pages_that_meet(self) -> None:
        keys = [self.post(HOOK)["notifier_id"] for _ in range(3)]
        answer = self.call("GET", "/v2/notifier?limit=2")
        assert [row["notifier_id"] for row in answer.json()["notifiers"]] == keys[:2]
        assert answer["X-Total-Count"] == "3"
        path = answer["Link"].partition(">")[0].removeprefix("<http://testserver")
        assert [row["notifier_id"] for row in self.get(path)["notifiers"]] == keys[2:]
        self.assert_error(self.call("GET", "/v2/notifier?after=x"), 400, "INVALID_VALUE", fields={"after"})

    def test_a_strangers_notifier_is_not_there(self) -> None:
        key = self.post(HOOK)["notifier_id"]
        for path in (f"/v2/notifier/{key}", "/v2/notifier/999999", "/v2/notifier/x"):
            for method in ("GET", "PUT", "DELETE"):
                self.assert_error(self.call(method, path, {}, token=self.strange_token), 404, "NOT_FOUND")
            self.assert_error(
                self.call("POST", f"{path}/test", {}, token=self.strange_token), 404, "NOT_FOUND"
            )
        assert self.get("/v2/notifier", token=self.strange_token) == {"notifiers": []}
        for method, path in (("POST", "/v2/event"),):
            answer = self.call(method, path, {"notifiers": [key]}, token=self.strange_token)
            self.assert_error(answer, 404, "NOT_FOUND")
        assert Notifier.objects.get().enabled

    def test_a_reader_may_not_write(self) -> None:
        key = self.post(HOOK)["notifier_id"]
        for method, path in (
            ("POST", "/v2/notifier"),
            ("PUT", f"/v2/notifier/{key}"),
            ("DELETE", f"/v2/notifier/{key}"),
            ("POST", f"/v2/notifier/{key}/test"),
        ):
            self.assert_error(self.call(method, path, HOOK, token=self.read_token), 403, "FORBIDDEN")
        assert len(self.get("/v2/notifier", token=self.read_token)["notifiers"]) == 1

    def test_a_test_is_queued_like_everything_else(self) -> None:
        key = self.post(HOOK)["notifier_id"]
        answer = self.call("POST", f"/v2/notifier/{key}/test")
        assert answer.status_code == 201
        found = self.get(f"/v2/delivery/{answer.json()['delivery_id']}")
        assert (found["test"], found["status"], found["notifier_id"]) == (True, "pending", key)
        self.put(key, enabled=False)
        self.assert_error(
            self.call("POST", f"/v2/notifier/{key}/test"), 400, "INVALID_VALUE", fields={"enabled"}
        )


class SecretTest(NotifierTestCase):
    def test_an_admin_reads_and_replaces_it(self) -> None:
        first = self.get("/v2/notifier/secret")
        assert first == self.get("/v2/notifier/secret") and first["previous_until"] is None
        answer = self.call("POST", "/v2/notifier/secret")
        assert answer.status_code == 201
        second = answer.json()
        assert second["signing_secret"].startswith("whsec_")
        assert second["signing_secret"] != first["signing_secret"] and second["previous_until"]
        assert self.get("/v2/notifier/secret") == second
        assert self.get("/v2/notifier/secret", token=self.strange_token) != second

    def test_nobody_else_does(self) -> None:
        writer = api_token_issue(self.owner, name="writer", scopes=["write"])[1]
        for method in ("GET", "POST"):
            for token in (self.read_token, writer):
                self.assert_error(self.call(method, "/v2/notifier/secret", token=token), 403, "FORBIDDEN")


class DeliveryTest(NotifierTestCase):
    def test_it_answers_every_field(self) -> None:
        delivery = self.delivery()
        at = "2026-11-23T18:30:00.000+09:00"
        assert self.get(f"/v2/delivery/{delivery.pk}") == {
            "delivery_id": delivery.pk,
            "webhook_id": str(delivery.public_id),
            "notifier_id": delivery.notifier_id,
            "kind": "webhook",
            "event_id": delivery.rule_id,
            "test": False,
            "status": "pending",
            "created_at": at,
            "next_at": at,
            "expires_at": at,
            "delivered_at": None,
            "notifications": [{"alert_id": delivery.items.get().alert_id, "kind": "firing"}],
            "attempts": [
                {
                    "at": at,
                    "ok": False,
                    "latency_ms": 12,
                    "status_code": 500,
                    "answer": "no",
                    "error": "refused",
                }
            ],
        }

    def test_it_lists_the_newest_first_and_filters(self) -> None:
        first = self.delivery()
        second = self.delivery(first.notifier, status="delivered", delivered_at=NOW)
        third = self.delivery()
        for query, expected in (
            ("", [third, second, first]),
            ("?status=pending", [third, first]),
            ("?status=delivered", [second]),
            (f"?notifier={first.notifier_id}", [second, first]),
            (f"?alert={third.items.get().alert_id}", [third]),
            ("?limit=1", [third]),
            (f"?after={third.pk}", [second, first]),
        ):
            found = self.get("/v2/delivery" + query)["deliveries"]
            assert [row["delivery_id"] for row in found] == [row.pk for row in expected], query
        self.assert_error(self.call("GET", "/v2/delivery?status=x"), 400, "INVALID_VALUE", fields={"status"})

    def test_a_long_list_takes_few_queries(self) -> None:
        first = self.delivery()
        for _ in range(5):
            self.delivery(first.notifier)
        with self.assertNumQueries(6):  # token, its use, rows, items, attempts, total
            assert len(self.get("/v2/delivery")["deliveries"]) == 6

    def test_it_is_sent_again(self) -> None:
        delivery = self.delivery(status="expired")
        answer = self.call("POST", f"/v2/delivery/{delivery.pk}/resend")
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["webhook_id"]) == ("pending", str(delivery.public_id))
        delivery.refresh_from_db()
        assert delivery.expires_at > NOW + timedelta(hours=23)
        Notifier.objects.update(enabled=False)
        self.assert_error(
            self.call("POST", f"/v2/delivery/{delivery.pk}/resend"),
            400,
            "INVALID_VALUE",
            fields={"notifier_id"},
        )

    def test_a_strangers_delivery_is_not_there(self) -> None:
        delivery = self.delivery()
        for path in (f"/v2/delivery/{delivery.pk}", "/v2/delivery/999999", "/v2/delivery/x"):
            self.assert_error(self.call("GET", path, token=self.strange_token), 404, "NOT_FOUND")
            self.assert_error(self.call("POST", f"{path}/resend", token=self.strange_token), 404, "NOT_FOUND")
        assert self.get("/v2/delivery", token=self.strange_token) == {"deliveries": []}
        answer = self.call("POST", f"/v2/delivery/{delivery.pk}/resend", token=self.read_token)
        self.assert_error(answer, 403, "FORBIDDEN")

    def test_old_ones_go_and_waiting_ones_stay(self) -> None:
        old, waiting = self.delivery(status="delivered"), self.delivery()
        assert deliveries_expire_old(now=NOW + KEPT) == 0
        assert deliveries_expire_old(now=NOW + KEPT + timedelta(seconds=1)) == 1
        assert list(Delivery.objects.all()) == [waiting]
        assert not Attempt.objects.filter(delivery=old.pk).exists()


class WhoIsToldTest(NotifierTestCase):
    def rule(self, *notifiers: Notifier, **fields: Any) -> Rule:
        rule = Rule.objects.create(account=self.owner, channel=self.servers, **fields)
        rule.notifiers.set(notifiers)
        return rule

    def told(self, rule: Rule) -> list[tuple[str, Any]]:
        return [(found.kind, found.reveal()) for found in notifiers_of_rule(rule)]

    def test_mail_goes_to_the_accounts_addresses_unless_others_are_named(self) -> None:
        account_update(self.owner, email2="night@example.org")
        to = ["alice@example.org", "night@example.org"]
        assert self.told(self.rule()) == [("email", {"to": to})]
        hook = notifier_create(self.owner, kind="webhook", settings={"url": ADDRESS})
        named = self.rule(hook)
        assert self.told(named) == [("webhook", {"url": ADDRESS})]
        Notifier.objects.filter(pk=hook.pk).update(enabled=False)
        assert self.told(named) == []
        account_update(self.owner, email1="", email2="")
        assert self.told(self.rule()) == []

    def test_the_post_url_is_told_beside_those_that_are_named(self) -> None:
        mail = notifier_create(self.owner, kind="email", settings={"to": "a@example.org"})
        rule = self.rule(mail, notify_type="http", post_url="https://x.example.org/")
        assert [kind for kind, _settings in self.told(rule)] == ["email", "webhook"]

    def test_one_address_is_one_receiver_and_no_notifier_of_the_list(self) -> None:
        rules = [self.rule(notify_type="http", post_url="https://x.example.org/") for _ in range(2)]
        first, second = (notifiers_of_rule(rule) for rule in rules)
        assert first == second and Notifier.objects.count() == 1
        assert self.get("/v2/notifier") == {"notifiers": []}
