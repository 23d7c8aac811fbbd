"""What the web process does for programs before a view sees them, asked of the real server."""

import http.client
import json
from typing import Any

from servwatch_site.tests.browser import WebProcess
from servwatch_site.tests.street import CommittedTestCase


class ApiMiddlewareTest(CommittedTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.web = self.enterContext(WebProcess())

    def ask(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=20)
        try:
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request("GET", path, headers={"X-APITOKEN": self.api_token, **named})
            answer = connection.getresponse()
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def test_a_foreign_host_is_refused_in_shape(self) -> None:
        for path in ("/v2/device", "/post_v2/"):
            status, _headers, body = self.ask(path, Host="evil.example.org")
            assert (status, json.loads(body)["error"]) == (400, "INVALID_VALUE")

    def test_answers_carry_headers_against_misuse_in_a_browser_and_no_cookie(self) -> None:
        status, headers, _body = self.ask("/v2/device")
        assert status == 200
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"
        assert "set-cookie" not in headers

    def test_messages_follow_the_language_asked_for(self) -> None:
        messages: list[Any] = [
            json.loads(self.ask("/v2/device/none", Accept_Language=language)[2])["message"]
            for language in ("en", "ja", "en")
        ]
        assert messages[0] == messages[2] != messages[1]
        assert not messages[1].isascii()

    def test_an_unknown_path_is_404_in_shape_and_the_page_of_the_api_is_a_page(self) -> None:
        status, _headers, body = self.ask("/v2/nothing")
        assert (status, json.loads(body)["error"]) == (404, "NOT_FOUND")
        status, headers, _body = self.ask("/v2/docs")
        assert status == 200 and headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in headers["content-security-policy"]
