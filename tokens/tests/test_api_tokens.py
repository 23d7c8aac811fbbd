import json
from datetime import timedelta
from typing import Any

from django.utils import timezone

from servwatch_site.tests.api import ApiTestCase
from tokens.models import ApiToken, DeviceToken
from tokens.services import api_token_issue


class TokenTest(ApiTestCase):
    def setUp(self) -> None:
        self.mine = ApiToken.objects.get(account=self.owner, name="test")

    def make(self, body: Any, *, status: int = 201) -> dict[str, Any]:
        answer = self.call("POST", "/v2/token", body)
        assert answer.status_code == status, answer.content
        made: dict[str, Any] = json.loads(answer.content)
        return made

    def test_a_new_token_works_and_its_secret_is_shown_once_and_never_stored(self) -> None:
        made = self.make({"name": "ci", "scopes": ["write", "read", "read"]})
        assert made["scopes"] == ["read", "write"]
        secret = made.pop("secret")
        assert len(secret) == 32  # letters and digits: 190 bits
        assert self.call("GET", "/v2/device", token=secret).status_code == 200
        assert self.get(f"/v2/token/{made['id']}") == {**made, "last_used_at": self.used(made["id"])}
        assert secret not in json.dumps(self.get("/v2/token"))
        stored = ApiToken.objects.get(pk=made["id"])
        assert secret not in str(vars(stored)) and stored.hint == secret[:4]

    def used(self, pk: int) -> str:
        return str(self.get(f"/v2/token/{pk}")["last_used_at"])

    def test_a_token_without_scopes_may_read_only(self) -> None:
        made = self.make({"name": "reader"})
        assert made["scopes"] == ["read"]
        self.assert_error(self.call("PUT", "/v2/user", {}, token=made["secret"]), 403, "FORBIDDEN")

    def test_it_expires_when_it_was_told_to_in_the_accounts_time(self) -> None:
        made = self.make({"name": "day", "expires_at": "2031-01-02 09:00"})
        assert made["expires_at"] == "2031-01-02T09:00:00.000+09:00"
        ApiToken.objects.filter(pk=made["id"]).update(expires_at=timezone.now())
        self.assert_error(self.call("GET", "/v2/user", token=made["secret"]), 401, "AUTH_REQUIRED")
        self.assert_error(self.call("GET", f"/v2/token/{made['id']}"), 404, "NOT_FOUND")

    def test_bad_fields_are_named(self) -> None:
        for body, field in (
            ({}, "name"),
            ({"name": "  "}, "name"),
            ({"name": "x" * 65}, "name"),
            ({"name": 5}, "name"),
            ({"name": "a", "scopes": []}, "scopes"),
            ({"name": "a", "scopes": ["root"]}, "scopes.0"),
            ({"name": "a", "scopes": "read"}, "scopes"),
            ({"name": "a", "expires_at": "soon"}, "expires_at"),
            ({"name": "a", "expires_at": "2001-01-01 00:00"}, "expires_at"),
            ({"name": "a\0", "expires_at": None}, "name"),
        ):
            self.assert_error(self.call("POST", "/v2/token", body), 400, "INVALID_VALUE", fields={field})

    def test_name_scopes_and_expiry_can_be_changed(self) -> None:
        made = self.make({"name": "ci", "expires_at": "2031-01-02 09:00"})
        answer = self.call(
            "PUT", f"/v2/token/{made['id']}", {"name": "cd", "scopes": ["admin"], "expires_at": None}
        )
        changed = json.loads(answer.content)
        assert (changed["name"], changed["scopes"], changed["expires_at"]) == ("cd", ["admin"], None)
        answer = self.call("PUT", f"/v2/token/{made['id']}", {"name": ""})
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"name"})

    def test_a_revoked_token_is_refused_at_once(self) -> None:
        made = self.make({"name": "ci"})
        answer = self.call("DELETE", f"/v2/token/{made['id']}")
        assert (answer.status_code, json.loads(answer.content)["id"]) == (200, made["id"])
        self.assert_error(self.call("GET", "/v2/user", token=made["secret"]), 401, "AUTH_REQUIRED")
        self.assert_error(self.call("DELETE", f"/v2/token/{made['id']}"), 404, "NOT_FOUND")

    def test_rotation_gives_a_new_secret_and_ends_the_old_one_after_the_overlap(self) -> None:
        made = self.make({"name": "ci", "scopes": ["write"]})
        answer = self.call("POST", f"/v2/token/{made['id']}", {"overlap_s": 60})
        fresh = json.loads(answer.content)
        assert answer.status_code == 201
        assert (fresh["name"], fresh["scopes"]) == ("ci", ["write"]) and fresh["secret"] != made["secret"]
        for secret in (made["secret"], fresh["secret"]):
            assert self.call("GET", "/v2/device", token=secret).status_code == 200
        old = ApiToken.objects.get(pk=made["id"])
        assert old.expires_at is not None
        assert old.expires_at - timezone.now() <= timedelta(seconds=60)
        at_once = json.loads(self.call("POST", f"/v2/token/{fresh['id']}").content)
        self.assert_error(self.call("GET", "/v2/device", token=fresh["secret"]), 401, "AUTH_REQUIRED")
        assert self.call("GET", "/v2/device", token=at_once["secret"]).status_code == 200

    def test_only_the_scope_admin_may_see_or_change_tokens(self) -> None:
        writer = api_token_issue(self.owner, name="w", scopes=["write"])[1]
        for token in (self.read_token, writer):
            for method, path in (
                ("GET", "/v2/token"),
                ("POST", "/v2/token"),
                ("GET", f"/v2/token/{self.mine.pk}"),
                ("PUT", f"/v2/token/{self.mine.pk}"),
                ("POST", f"/v2/token/{self.mine.pk}"),
                ("DELETE", f"/v2/token/{self.mine.pk}"),
                ("GET", "/v2/token/device"),
                ("POST", "/v2/token/device"),
            ):
                answer = self.call(method, path, {"name": "x"}, token=token)
                self.assert_error(answer, 403, "FORBIDDEN")
        assert DeviceToken.objects.filter(account=self.owner).count() == 1

    def test_a_strangers_token_does_not_exist(self) -> None:
        for method in ("GET", "PUT", "POST", "DELETE"):
            answer = self.call(method, f"/v2/token/{self.mine.pk}", {}, token=self.strange_token)
            self.assert_error(answer, 404, "NOT_FOUND")
        for odd in ("0", "-1", "x", "9" * 30, "１"):
            self.assert_error(self.call("GET", f"/v2/token/{odd}"), 404, "NOT_FOUND")
        assert self.call("GET", "/v2/device").status_code == 200

    def test_the_list_comes_in_pages(self) -> None:
        first = self.call("GET", "/v2/token?limit=1")
        assert first["X-Total-Count"] == "2" and 'rel="next"' in first["Link"]
        path = first["Link"].split(">")[0].split("testserver")[1]
        names = [
            row["name"]
            for answer in (first, self.call("GET", path))
            for row in json.loads(answer.content)["tokens"]
        ]
        assert names == ["test", "reader"]


class DeviceTokenTest(ApiTestCase):
    def test_it_is_replaced_and_the_old_one_overlaps_over_http(self) -> None:
        before = self.get("/v2/token/device")
        assert (before["device_token"], before["previous_until"]) == (self.device_token, None)
        answer = self.call("POST", "/v2/token/device", {"overlap_s": 3600})
        after = json.loads(answer.content)
        assert answer.status_code == 201 and after["device_token"] != self.device_token
        assert after["previous_until"] is not None
        assert self.get("/v2/user")[0]["device_token"] == after["device_token"]
        second = json.loads(self.call("POST", "/v2/token/device").content)
        assert second["previous_until"] is None  # without an overlap nothing older counts either

    def test_a_bad_overlap_is_refused(self) -> None:
        for overlap in (-1, "soon", 10**9, 1.5, True):
            answer = self.call("POST", "/v2/token/device", {"overlap_s": overlap})
            self.assert_error(answer, 400, "INVALID_VALUE", fields={"overlap_s"})

    def test_a_token_that_may_only_read_does_not_see_it(self) -> None:
        assert self.get("/v2/user", token=self.read_token)[0]["device_token"] is None
