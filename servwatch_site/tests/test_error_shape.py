"""Every address of the API answers its errors in one shape (contract, section 2)."""

import re
from datetime import timedelta
from io import BytesIO
from unittest.mock import patch

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.db import OperationalError
from django.http import Http404, HttpRequest
from django.test import RequestFactory, override_settings
from rest_framework import exceptions

from devices.api import DeviceView
from events.models import Maintenance
from events.notifiers_store import notifier_create, notifier_test
from events.tests.alerts import alert_add
from servwatch_site import api_errors, urls_v2
from servwatch_site.api_parsing import MAX_BODY_BYTES
from servwatch_site.docs import docs_page, openapi_json
from servwatch_site.errors import HTTP_STATUS, Code
from servwatch_site.tests.api import ApiTestCase, read
from servwatch_site.tests.cast import NOW
from tokens.models import ApiToken
from tokens.rate_limits import Usage

SAMPLES = {"device_id": "web-1", "channel_id": "0", "command_id": "1"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def paths() -> list[str]:
    """A sample of every route under /v2 that needs a token, with and without its slash."""
    found = []
    for route in urls_v2.urlpatterns:
        if route.callback in (docs_page, openapi_json):
            continue  # test_openapi.py
        text = str(route.pattern).removeprefix("^").removesuffix(r"/?\Z")
        path = re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda match: SAMPLES[match[1]], text)
        found += [f"/v2/{path}", f"/v2/{path}/"] if path else ["/v2/nothing", "/v2/"]
    return found


class RouteWalkTest(ApiTestCase):
    def setUp(self) -> None:
        SAMPLES["token_id"] = str(ApiToken.objects.get(account=self.owner, name="reader").pk)
        alert = alert_add(self.owner, self.servers, self.web1)
        SAMPLES.update(event_id=str(alert.rule_id), alert_id=str(alert.pk))
        hook = notifier_create(self.owner, kind="webhook", settings={"url": "https://x.example.org/"})
        delivery = notifier_test(hook, now=NOW)
        SAMPLES.update(notifier_id=str(hook.pk), delivery_id=str(delivery.pk))
        window = Maintenance.objects.create(
            account=self.owner, starts_at=NOW, ends_at=NOW + timedelta(hours=1)
        )
        SAMPLES.update(maintenance_id=str(window.pk))

    def test_there_are_routes_to_walk(self) -> None:
        assert len(paths()) >= 14

    def test_an_unknown_method_is_405_with_allow_in_shape(self) -> None:
        for path in paths():
            allowed = self.call("OPTIONS", path).get("Allow", "").split(", ")
            for method in METHODS:
                if method in allowed:
                    continue
                answer = self.call(method, path)
                if allowed == [""]:
                    assert answer.status_code == 404, (method, path)
                    continue
                assert answer.status_code == 405, (method, path)
                assert answer["Allow"].split(", ") == allowed
                if method != "HEAD":
                    self.assert_error(answer, 405, "METHOD_NOT_ALLOWED")

    def test_without_or_with_a_wrong_token_it_is_401_in_shape(self) -> None:
        for path in paths():
            for method in self.call("OPTIONS", path).get("Allow", "").split(", "):
                if method in ("", "OPTIONS", "HEAD"):
                    continue
                for token in ("", "wrong"):
                    self.assert_error(self.call(method, path, {}, token=token), 401, "AUTH_REQUIRED")

    def test_head_answers_as_get_without_a_body(self) -> None:
        for path in paths():
            get, head = self.call("GET", path), self.call("HEAD", path)
            assert (head.status_code, read(head)) == (get.status_code, b""), path
            assert head["Content-Type"] == get["Content-Type"] == "application/json"

    def test_options_answers_the_methods_without_a_token(self) -> None:
        for path in paths():
            answer = self.call("OPTIONS", path, token="")
            if answer.status_code == 404:
                self.assert_error(answer, 404, "NOT_FOUND")
            else:
                assert (answer.status_code, answer.content) == (204, b"")
                allowed = set(answer["Allow"].split(", "))
                assert {"OPTIONS"} < allowed and ("GET" in allowed) == ("HEAD" in allowed)

    def test_bodies_that_are_no_json_are_refused_in_shape(self) -> None:
        bad = (
            b"{",
            b"a=1",
            b"\xff",
            b"NaN",
            b'{"a":Infinity}',
            b'\xef\xbb\xbf{"a":1}',
            "{}".encode("utf-16"),
        )
        for path in paths():
            allowed = self.call("OPTIONS", path).get("Allow", "")
            for method in ("POST", "PUT"):
                if method not in allowed or path.strip("/") == "v2/device":
                    continue
                creates = method == "POST" and path.startswith(("/v2/device", "/v2/channel"))
                target = path.replace("web-1", "fresh").replace("/0", "/99") if creates else path
                for body in bad:
                    number = path.startswith("/v2/stream") and body in (b"NaN", b'{"a":Infinity}')
                    code = "BAD_NUMBER" if number else "BAD_JSON_FORMAT"
                    self.assert_error(self.call(method, target, body), 400, code)
                self.assert_error(self.call(method, target, b"[]"), 400, "INVALID_VALUE")
                large = b" " * MAX_BODY_BYTES + b"{}"
                self.assert_error(self.call(method, target, large), 413, "PAYLOAD_TOO_LARGE")

    def test_a_database_that_is_away_is_503_in_shape(self) -> None:
        for path in paths():
            with (
                patch("tokens.api_auth.api_token_find", side_effect=OperationalError("connection refused")),
                self.assertLogs("servwatch_site.api_errors", "ERROR") as log,
            ):
                answer = self.call("GET", path)
                api_errors.logger.error("so that a 404 without a look at the database has a line too")
            if answer.status_code not in (404, 405):
                self.assert_error(answer, 503, "STORAGE_UNAVAILABLE")
                assert int(answer["Retry-After"]) >= 1
                assert b"refused" not in answer.content and "connection refused" in log.output[0]

    def test_a_fault_of_ours_is_500_with_an_id_that_is_in_the_log(self) -> None:
        for path in ("/v2/device", "/v2/user", "/v2/stream/0?end=last"):
            with (
                patch("tokens.api_auth.api_token_find", side_effect=ZeroDivisionError("secret")),
                self.assertLogs("servwatch_site.api_errors", "ERROR") as log,
            ):
                answer = self.call("GET", path)
            body = self.assert_error(answer, 500, "INTERNAL_ERROR")
            number = re.search(r"[0-9a-f]{12}", body["message"])
            assert number is not None and number[0] in log.output[0]
            assert "secret" not in body["message"] and "ZeroDivisionError: secret" in log.output[0]

    def test_a_chunked_body_is_read(self) -> None:
        """Without a length in its head, as it is sent chunk by chunk."""
        for body, status in ((b'{"location": "x"}', 200), (b"{", 400), (b"", 400), (b" " * 2**21, 413)):
            assert self.chunked("PUT", "web-1", body) == status
        assert self.chunked("POST", "chunked", b"") == 201
        assert self.get("/v2/device/web-1")[0]["location"] == "x"

    def chunked(self, method: str, device_id: str, body: bytes) -> int:
        headers = [(b"host", b"localhost"), (b"x-apitoken", self.api_token.encode())]
        scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": headers}
        return DeviceView.as_view()(ASGIRequest(scope, BytesIO(body)), device_id=device_id).status_code

    def test_a_body_of_just_the_largest_size_is_read(self) -> None:
        body = b'{"location": "x"}'.ljust(MAX_BODY_BYTES)
        assert self.call("PUT", "/v2/device/web-1", body).status_code == 200

    def test_content_type_and_accept_do_not_matter(self) -> None:
        for content_type in (
            "",
            "text/plain",
            "application/json; charset=latin-1",
            "multipart/form-data",
            "x",
        ):
            answer = self.client.generic(
                "PUT",
                "/v2/device/web-1",
                b'{"location": "x"}',
                content_type=content_type,
                headers={"X-APITOKEN": self.api_token, "Accept": "text/html"},
            )
            assert answer.status_code == 200
            assert answer["Content-Type"] == "application/json"

    def test_answers_are_not_to_be_kept(self) -> None:
        assert self.call("GET", "/v2/user")["Cache-Control"] == "no-store"


class AroundTheViewsTest(ApiTestCase):
    def test_paths_nobody_knows(self) -> None:
        for path in (
            "/v2/nothing",
            "/v2/device/a/b",
            "/v2/",
            "/v2",
            "/v2/stream",
            "/v2/user%0A",
            "/v2//user",
        ):
            for method in ("GET", "POST", "DELETE"):
                self.assert_error(self.call(method, path), 404, "NOT_FOUND")
        page = self.call("GET", "/nothing-here")
        assert page.status_code == 404 and page["Content-Type"].startswith("text/html")

    @override_settings(ALLOWED_HOSTS=["other.example.org"])
    def test_a_wrong_host_is_refused_in_shape(self) -> None:
        with self.assertLogs("django.security.DisallowedHost", "ERROR"):
            self.assert_error(self.call("GET", "/v2/user"), 400, "INVALID_VALUE")

    def test_a_database_that_is_away_before_the_view_is_503(self) -> None:
        self.client.raise_request_exception = False
        path = "django.contrib.sessions.middleware.SessionMiddleware.process_request"
        with patch(path, side_effect=OperationalError("connection refused")):
            answer = self.call("GET", "/v2/user")
            page = self.call("GET", "/accounts/login/")
        self.assert_error(answer, 503, "STORAGE_UNAVAILABLE")
        assert page.status_code == 500 and page["Content-Type"].startswith("text/html")

    def test_the_connector_paths_answer_in_shape_too(self) -> None:
        for path in ("/post/", "/post_v1/", "/post_v2/", "/post_v2", "/v2"):
            assert api_errors.is_api_path(path)
        for path in ("/", "/v20/x", "/posting", "/channels/v2/", ""):
            assert not api_errors.is_api_path(path)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Usage(3, 4).error(), Code.TOO_MANY_REQUESTS),
        (exceptions.NotAuthenticated(), Code.AUTH_REQUIRED),
        (exceptions.PermissionDenied(), Code.FORBIDDEN),
        (exceptions.NotFound(), Code.NOT_FOUND),
        (Http404(), Code.NOT_FOUND),
        (exceptions.ParseError(), Code.BAD_JSON_FORMAT),
        (exceptions.MethodNotAllowed("PUT"), Code.METHOD_NOT_ALLOWED),
    ],
)
def test_other_libraries_errors_become_ours(error: Exception, code: Code) -> None:
    request: HttpRequest = RequestFactory().get("/v2/user")
    answer = api_errors.exception_handler(error, {"request": request})
    assert answer.status_code == HTTP_STATUS[code]
    assert answer.data["error"] == code
    if code is Code.TOO_MANY_REQUESTS:
        assert answer["Retry-After"] == "1"


def test_every_code_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(Code)
