from datetime import UTC, datetime

from servwatch_site.tests.api import ApiTestCase
from streams.tests.records import record_add
from tokens.config import config_version
from tokens.models import Account, AccountTraffic


class UserApiTest(ApiTestCase):
    def test_it_answers_the_profile_with_the_token_that_was_used(self) -> None:
        (user,) = self.get("/v2/user")
        assert user == {
            "user_id": self.owner.user_id,
            "api_token": self.api_token,
            "device_token": self.device_token,
            "email1": "alice@example.org",
            "email2": "",
            "organization": "Alice Hosting",
            "locale": "Asia/Tokyo",
            "user_alias": "",
            "storage": {"count": 0, "usage_bytes": 0, "maxSize": None, "avg_obj_size": 0},
        }
        (user,) = self.get("/v2/user/", token=self.read_token)
        assert user["api_token"] == self.read_token

    def test_each_account_sees_itself_only(self) -> None:
        (user,) = self.get("/v2/user", token=self.strange_token)
        assert user["user_id"] == self.stranger.user_id
        self.assert_error(self.call("GET", "/v2/user", token=""), 401, "AUTH_REQUIRED")
        self.assert_error(self.call("PUT", "/v2/user", {"user_alias": "x"}, token=""), 401, "AUTH_REQUIRED")

    def test_it_estimates_the_space_by_the_share_of_all_records(self) -> None:
        record_add(self.web1, self.servers, datetime(2026, 11, 23, tzinfo=UTC), {"load1": 0.4})
        for account, stored in ((self.owner, 3), (self.stranger, 1)):
            AccountTraffic.objects.create(account_key=account.pk, writer="w", received=stored, stored=stored)
        storage = self.get("/v2/user")[0]["storage"]
        other = self.get("/v2/user", token=self.strange_token)[0]["storage"]
        assert (storage["count"], other["count"]) == (3, 1)
        assert storage["usage_bytes"] >= 3 * other["usage_bytes"] > 0
        assert storage["avg_obj_size"] == storage["usage_bytes"] // 3

    def test_it_changes_the_fields_that_may_change(self) -> None:
        wanted = {
            "email1": "ops@example.org",
            "email2": "night@example.org",
            "organization": "アリス",
            "locale": "Europe/Berlin",
            "user_alias": "alice",
        }
        before = config_version()
        answer = self.call("PUT", "/v2/user", wanted)
        assert answer.status_code == 200
        assert {name: answer.json()[0][name] for name in wanted} == wanted
        assert self.get("/v2/user") == answer.json()
        assert config_version() > before

    def test_what_was_read_can_be_sent_back_and_fixed_fields_stay(self) -> None:
        (user,) = self.get("/v2/user")
        sent = user | {"user_id": "U999999", "device_token": "mine", "storage": {"count": 9}, "email2": ""}
        assert self.call("PUT", "/v2/user", sent).json() == [user]

    def test_it_refuses_what_does_not_fit_and_changes_nothing(self) -> None:
        bad: dict[str, list[object]] = {
            "email1": ["nobody", 5, None, "a" * 260 + "@example.org", "a\0@example.org"],
            "locale": ["Mars/Olympus", "", "../../etc/passwd", "localhost", ["UTC"]],
            "organization": ["x" * 129, True, {"a": 1}, "a\0b"],
            "user_alias": ["x" * 65, 1.5],
        }
        for field, values in bad.items():
            for value in values:
                answer = self.call("PUT", "/v2/user", {"email2": "new@example.org", field: value})
                self.assert_error(answer, 400, "INVALID_VALUE", fields={field})
        assert Account.objects.get(pk=self.owner.pk).email2 == ""
        for body in (b"[]", b"5", b'"a"', b"null"):
            self.assert_error(self.call("PUT", "/v2/user", body), 400, "INVALID_VALUE")
        for body in (b"", b"  \n", b"{", b'{"a": NaN}', b"\xff\xfe", b'{"email1": "\xe9"}', b"[" * 100_000):
            self.assert_error(self.call("PUT", "/v2/user", body), 400, "BAD_JSON_FORMAT")
        self.assert_error(
            self.call("PUT", "/v2/user", {"user_alias": "x"}, token=self.read_token), 403, "FORBIDDEN"
        )

    def test_messages_follow_the_language_asked_for(self) -> None:
        answer = self.call("GET", "/v2/user", token="", Accept_Language="ja")
        self.assert_error(answer, 401, "AUTH_REQUIRED")
        assert answer["Content-Language"] == "ja"
