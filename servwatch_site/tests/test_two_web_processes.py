"""Limits hold over all web processes, counted in the second of the wall clock."""

import http.client
import os
import time
from typing import Any
from unittest.mock import patch

from servwatch_site.tests.browser import WebProcess
from servwatch_site.tests.street import CommittedTestCase
from servwatch_site.tests.waiting import wait_until
from tokens.services import account_update

ATTEMPTS = 20
REQUESTS = 8


class Caller:
    """A client that keeps its connection to one web process."""

    def __init__(self, web: WebProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> tuple[int, dict[str, Any]]:
        """Status and headers."""
        self._connection.request(method, path, body=body, headers=headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}

    def close(self) -> None:
        self._connection.close()


class TwoWebProcessesTest(CommittedTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(patch.dict(os.environ, {"SERVWATCH_ADDRESS_LIMIT": "5"}))
        self.callers = [Caller(self.enterContext(WebProcess())) for _ in range(2)]
        for caller in self.callers:
            self.addCleanup(caller.close)
            caller.ask("GET", "/health", {})  # the first request of a process is slow

    def in_one_second(
        self, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> list[tuple[int, dict[str, Any]]]:
        """The answers to requests sent in turns to both processes, all of them within one wall-clock second."""
        for _attempt in range(ATTEMPTS):
            second = int(time.time()) + 1
            wait_until(lambda: time.time() >= second, what="the next second")  # noqa: B023 - called at once
            answers = [
                self.callers[number % 2].ask(method, path, headers, body) for number in range(REQUESTS)
            ]
            if int(time.time()) == second:
                return answers
        raise AssertionError("this machine is too slow to send the requests within one second")

    def test_three_requests_of_a_token_pass_and_the_rest_is_429_whichever_process_answers(self) -> None:
        account_update(self.owner, api_per_second=3)
        headers = {"X-APITOKEN": self.api_token}
        answers = self.in_one_second("GET", "/v2/user", headers)
        assert [status for status, _headers in answers] == [200] * 3 + [429] * (REQUESTS - 3)
        refused = answers[-1][1]
        assert (refused["ratelimit-limit"], refused["ratelimit-remaining"]) == ("3", "0")
        until = time.time() + int(refused["retry-after"])
        wait_until(lambda: time.time() >= until, what="the time of Retry-After")
        assert self.callers[0].ask("GET", "/v2/user", headers)[0] == 200

    def test_one_message_of_a_device_passes_on_the_connector(self) -> None:
        account_update(self.owner, connector_per_second=1)
        headers = {"X-DEVICETOKEN": self.device_token, "X-DEVICEID": "web-1"}
        answers = self.in_one_second("POST", "/post_v2/", headers, b'{"n": 1}')
        assert [status for status, _headers in answers] == [200] + [429] * (REQUESTS - 1)
        until = time.time() + int(answers[-1][1]["retry-after"])
        wait_until(lambda: time.time() >= until, what="the time of Retry-After")
        assert self.callers[1].ask("POST", "/post_v2/", headers, b'{"n": 2}')[0] == 200

    def test_wrong_tokens_are_limited_by_their_address(self) -> None:
        answers = self.in_one_second("GET", "/v2/user", {"X-APITOKEN": "wrong"})
        assert [status for status, _headers in answers] == [401] * 5 + [429] * (REQUESTS - 5)
