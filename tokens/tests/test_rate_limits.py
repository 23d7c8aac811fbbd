import time
from unittest.mock import patch

from django.db import connection
from django.test import override_settings

from servwatch_site.tests.api import ApiTestCase
from tokens.models import ApiToken
from tokens.rate_limits import device_usage
from tokens.services import account_update, api_token_issue

CLOCK = "time.time"
SECOND = time.time() // 1 + 1000  # some second that has just begun


class ApiTokenLimitTest(ApiTestCase):
    def setUp(self) -> None:
        account_update(self.owner, api_per_second=3)

    def test_three_pass_in_a_second_and_the_fourth_is_429_until_the_next(self) -> None:
        with patch(CLOCK, return_value=SECOND + 0.9):
            answers = [self.call("GET", "/v2/device") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert [answer["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
        assert {answer["RateLimit-Limit"] for answer in answers} == {"3"}
        self.assert_error(answers[3], 429, "TOO_MANY_REQUESTS")
        assert answers[3]["Retry-After"] == answers[3]["RateLimit-Reset"] == "1"
        assert "Retry-After" not in answers[2]
        with patch(CLOCK, return_value=SECOND + 1.9):
            assert self.call("GET", "/v2/device").status_code == 200

    def test_errors_count_and_carry_the_headers_too(self) -> None:
        with patch(CLOCK, return_value=SECOND):
            answers = [self.call("GET", "/v2/device/none") for _ in range(3)]
            answers.append(self.call("PUT", "/v2/device/web-1", {}))
        assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
        assert all("RateLimit-Remaining" in answer for answer in answers)

    def test_a_token_without_the_scope_is_counted_as_well(self) -> None:
        with patch(CLOCK, return_value=SECOND):
            answers = [self.call("PUT", "/v2/user", {}, token=self.read_token) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [403, 403, 403, 429]

    def test_each_token_has_its_own_count(self) -> None:
        other = api_token_issue(self.owner, name="other", scopes=["read"])[1]
        with patch(CLOCK, return_value=SECOND):
            first = [self.call("GET", "/v2/user").status_code for _ in range(4)]
            second = [self.call("GET", "/v2/user", token=other).status_code for _ in range(3)]
        assert (first, second) == ([200, 200, 200, 429], [200, 200, 200])

    def test_the_limit_is_the_accounts_and_zero_is_none(self) -> None:
        account_update(self.owner, api_per_second=1)
        with patch(CLOCK, return_value=SECOND):
            assert [self.call("GET", "/v2/user").status_code for _ in range(2)] == [200, 429]
        account_update(self.owner, api_per_second=0)
        answers = [self.call("GET", "/v2/user") for _ in range(9)]
        assert {answer.status_code for answer in answers} == {200}
        assert "RateLimit-Limit" not in answers[0]

    def test_asking_for_the_methods_is_not_counted(self) -> None:
        with patch(CLOCK, return_value=SECOND):
            assert {self.call("OPTIONS", "/v2/user").status_code for _ in range(6)} == {204}


@override_settings(ADDRESS_LIMIT=4)
class AddressLimitTest(ApiTestCase):
    def setUp(self) -> None:
        with connection.cursor() as cursor:  # counters are committed at once, also those of other tests
            cursor.execute("DELETE FROM tokens_counter")

    def test_wrong_tokens_of_one_address_are_limited_and_make_no_counter_each(self) -> None:
        with patch(CLOCK, return_value=SECOND + 50):
            answers = [self.call("GET", "/v2/user", token=f"wrong-{number}") for number in range(7)]
            with self.assertNumQueries(0):  # whoever is shut out costs no look at the database
                assert self.call("GET", "/v2/user").status_code == 429
        assert [answer.status_code for answer in answers] == [401] * 4 + [429] * 3
        self.assert_error(answers[-1], 429, "TOO_MANY_REQUESTS")
        assert answers[-1]["Retry-After"] == "1"
        assert answers[0]["RateLimit-Remaining"] == "3"
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM tokens_counter")
            assert cursor.fetchone() == (1,)
        with patch(CLOCK, return_value=SECOND + 51):
            assert self.call("GET", "/v2/user").status_code == 200

    def test_right_tokens_are_not_counted_by_address(self) -> None:
        with patch(CLOCK, return_value=SECOND + 50):
            assert {self.call("GET", "/v2/user").status_code for _ in range(9)} == {200}

    def test_behind_our_proxy_the_address_is_what_the_proxy_says(self) -> None:
        with (
            override_settings(BEHIND_PROXY=True),
            patch(CLOCK, return_value=SECOND + 50),
        ):
            for number in range(9):
                answer = self.call(
                    "GET", "/v2/user", token="wrong", X_Forwarded_For=f"1.1.1.1, 10.0.0.{number}"
                )
                assert answer.status_code == 401


class DeviceLimitTest(ApiTestCase):
    def test_a_device_is_counted_per_account(self) -> None:
        with patch(CLOCK, return_value=SECOND):
            mine = [device_usage(self.owner.pk, "web-1", limit=1).exceeded for _ in range(2)]
            theirs = device_usage(self.stranger.pk, "web-1", limit=1)
        assert (mine, theirs.exceeded) == ([False, True], False)
        assert ApiToken.objects.count() == 3
