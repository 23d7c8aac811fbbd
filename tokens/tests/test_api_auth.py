from datetime import timedelta
from unittest.mock import patch

from django.utils import timezone

from servwatch_site.tests.api import ApiTestCase
from tokens.models import ApiToken
from tokens.services import api_token_issue, api_token_revoke


class ApiAuthTest(ApiTestCase):
    def test_it_takes_the_token_from_either_header(self) -> None:
        assert self.call("GET", "/v2/device").status_code == 200
        for scheme in ("Bearer", "bearer"):
            bearer = self.call("GET", "/v2/device", token="", Authorization=f"{scheme} {self.api_token}")
            assert bearer.status_code == 200

    def test_it_refuses_a_missing_or_wrong_token(self) -> None:
        for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
            answer = self.call("GET", "/v2/device", token="", **headers)
            self.assert_error(answer, 401, "AUTH_REQUIRED")
            assert answer["WWW-Authenticate"].startswith("Bearer")
        for wrong in ("nonsense", self.device_token, self.api_token[:-1], "é" * 40, "x" * 5000):
            self.assert_error(self.call("GET", "/v2/device", token=wrong), 401, "AUTH_REQUIRED")

    def test_it_refuses_a_revoked_and_an_expired_token(self) -> None:
        now = timezone.now()
        token, secret = api_token_issue(self.owner, name="ci", scopes=["read"])
        api_token_revoke(token, now=now)
        _token, expired = api_token_issue(self.owner, name="old", scopes=["read"], expires_at=now)
        for gone in (secret, expired):
            self.assert_error(self.call("GET", "/v2/device", token=gone), 401, "AUTH_REQUIRED")

    def test_it_keeps_a_reader_from_writing(self) -> None:
        assert self.call("GET", "/v2/device/web-1", token=self.read_token).status_code == 200
        assert self.call("HEAD", "/v2/device/web-1", token=self.read_token).status_code == 200
        for method in ("POST", "PUT", "DELETE"):
            answer = self.call(method, "/v2/device/web-1", {}, token=self.read_token)
            self.assert_error(answer, 403, "FORBIDDEN")

    def test_a_higher_scope_includes_the_lower_ones(self) -> None:
        for scope in ("write", "admin"):
            secret = api_token_issue(self.owner, name=scope, scopes=[scope])[1]
            assert self.call("GET", "/v2/device/web-1", token=secret).status_code == 200
            assert self.call("PUT", "/v2/device/web-1", {"location": scope}, token=secret).status_code == 200

    def test_it_notes_the_use_at_most_once_a_minute(self) -> None:
        token, secret = api_token_issue(self.owner, name="ci", scopes=["read"])
        began = timezone.now()
        self.call("GET", "/v2/device", token=secret)
        used_at = ApiToken.objects.get(pk=token.pk).last_used_at
        assert used_at is not None and used_at >= began
        with patch("tokens.api_auth.timezone.now", return_value=used_at + timedelta(seconds=59)):
            self.call("GET", "/v2/device", token=secret)
        assert ApiToken.objects.get(pk=token.pk).last_used_at == used_at
        with patch("tokens.api_auth.timezone.now", return_value=used_at + timedelta(seconds=61)):
            self.call("GET", "/v2/device", token=secret)
        assert ApiToken.objects.get(pk=token.pk).last_used_at == used_at + timedelta(seconds=61)

    def test_it_finds_out_who_asks_with_one_query(self) -> None:
        self.call("GET", "/v2/channel")
        with self.assertNumQueries(3):  # the token with its account, no device, no count
            self.call("GET", "/v2/device")
            self.call("OPTIONS", "/v2/device", token="")
            self.call("PATCH", "/v2/device")
            self.call("GET", "/v2/device", token="nonsense")
