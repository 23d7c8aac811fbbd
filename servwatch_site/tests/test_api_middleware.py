"""What the web process does for programs before a view sees them, asked of the real server."""

import http.client
import json
from typing import Any

from servwatch_site.tests.browser import WebProcess
from servwatch_site.tests.street import CommittedTestCase
from streams.tests.test_pipeline import records


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


class ConnectorAppTest(CommittedTestCase):
    """The connector as devices reach it: in front of Django's handler."""

    def setUp(self) -> None:
        super().setUp()
        self.web = self.enterContext(WebProcess())

    def ask(
        self, path: str, body: Any, *, method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=20)
        sent = {"X-DEVICETOKEN": self.device_token, "X-DEVICEID": "web-1"}
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        try:
            connection.request(method, path, body, sent, encode_chunked=not isinstance(body, bytes))
            answer = connection.getresponse()
            text = answer.read()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, json.loads(text) if text else None
        finally:
            connection.close()

    def test_it_stores_and_answers_as_the_view_does(self) -> None:
        for path, body in (
            ("/post_v2/", b'{"n": 1}'),
            ("/post_v2", b"2"),
            ("/post_v1/", b"v=1"),
            ("/post", b"v=2"),
        ):
            status, headers, found = self.ask(path, body)
            assert (status, found) == (200, {"stored": True, "count": 1})
            assert headers["content-type"] == "application/json" and headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
        assert len(records()) == 4

    def test_errors_leave_in_the_one_shape(self) -> None:
        for body, headers, status, code in (
            (b"{", {}, 400, "BAD_JSON_FORMAT"),
            (b"1", {"X_DEVICEID": "0"}, 400, "DEVICE_ID_ZERO"),
            (b"1", {"X_DEVICETOKEN": "wrong"}, 401, "AUTH_REQUIRED"),
            (b"1", {"X_DEVICEID": "new-1"}, 403, "DEVICE_DISABLED"),
            (b"1", {"Host": "evil.example.org"}, 400, "INVALID_VALUE"),
        ):
            found = self.ask("/post_v2/", body, **headers)
            assert (found[0], found[2]["error"]) == (status, code)
        status, headers, found_body = self.ask("/post_v2/", b"", method="GET")
        assert (status, headers["allow"], found_body["error"]) == (405, "POST, OPTIONS", "METHOD_NOT_ALLOWED")
        assert self.ask("/post_v2/", b"", method="OPTIONS")[0] == 204
        assert self.ask("/post_v2//", b"1")[0] == 404

    def test_a_body_that_is_too_large_is_413_with_and_without_a_length(self) -> None:
        large = b" " * (3 * 1024 * 1024)
        parts = (large[start : start + 65536] for start in range(0, len(large), 65536))
        for body in (large, parts):
            status, _headers, found = self.ask("/post_v2/", body)
            assert (status, found["error"]) == (413, "PAYLOAD_TOO_LARGE")
        assert self.ask("/post_v2/", iter([b'{"n"', b": 1}"]))[0] == 200
        assert records()[-1][5] == {"n": 1}

    def test_messages_follow_the_language_asked_for(self) -> None:
        found = [
            self.ask("/post_v2/", b"1", X_DEVICEID="0", Accept_Language=name)[2]["message"]
            for name in ("en", "ja")
        ]
        assert found[0].isascii() and not found[1].isascii()
