import gzip
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import psycopg
from django.db import connection
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone

from channels.models import Tag
from devices.models import Device
from devices.selectors import device_traffic, refusals_by_reason
from devices.services import device_update
from servwatch_site.tests.street import CommittedTestCase
from servwatch_site.tests.waiting import wait_until
from streams.intake import Intake, intake
from streams.models import KeptAnswer, RefusedMessage
from streams.retention import answers_expire
from streams.tests.test_pipeline import records
from tokens.selectors import Traffic, account_traffic
from tokens.services import account_update, device_token_issue


class ConnectorTestCase(CommittedTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(intake().close)

    def post(
        self, body: bytes | str, *, path: str = "/post_v2/", device: str = "web-1", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of a request with the owner's device token; headers may replace its own."""
        answer = self.answer(body, path=path, device=device, **headers)
        found: dict[str, Any] = json.loads(answer.content)
        return answer.status_code, found

    def answer(
        self, body: bytes | str, *, path: str = "/post_v2/", device: str = "web-1", **headers: str
    ) -> Any:
        sent = {"X-DEVICETOKEN": self.device_token, "X-DEVICEID": device}
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        content = body if isinstance(body, bytes) else body.encode()
        return Client().generic(
            "POST", path, content, content_type="application/x-www-form-urlencoded", headers=sent
        )


class StoringTest(ConnectorTestCase):
    def test_a_message_is_stored_before_it_is_answered(self) -> None:
        before = datetime.now(UTC)
        assert self.post('{"cpu": {"idle": 93.1}}') == (200, {"stored": True, "count": 1})
        ((device_key, channel_key, at, tag, form, value),) = records()
        assert (device_key, channel_key, tag, form) == (self.web1.pk, self.servers.pk, None, 0)
        assert before <= at <= datetime.now(UTC) and value == {"cpu": {"idle": 93.1}}

    def test_the_trailing_slash_is_optional_and_bare_values_count(self) -> None:
        for body in ("17.5", '"up"', '{"a": 1}'):
            assert self.post(body, path="/post_v2")[0] == 200
        assert [row[5] for row in records()] == [17.5, "up", {"a": 1}]

    def test_older_devices_send_forms(self) -> None:
        for path in ("/post/", "/post_v1/", "/post", "/post_v1"):
            assert self.post("v=11.1&v2=47.9&v3=on&v4=", path=path)[0] == 200
        assert records()[0][4:] == (1, {"value": 11.1, "value2": 47.9, "value3": "on", "value4": ""})
        assert len(records()) == 4

    def test_a_tag_comes_percent_encoded_with_either_form(self) -> None:
        assert self.post("{}", X_TAGNAME="%E6%A3%9A1")[0] == 200
        assert self.post("v=1", path="/post/", X_TAGNAME="rack")[0] == 200
        assert [row[3] for row in records()] == ["棚1", "rack"]
        assert set(Tag.objects.values_list("name", flat=True)) == {"棚1", "rack"}

    def test_an_array_of_measurements_with_their_own_times(self) -> None:
        at = int(time.time()) - 60
        body = json.dumps([{"at": at + number, "value": {"n": number}} for number in range(50)])
        assert self.post(body) == (200, {"stored": True, "count": 50})
        assert [row[5]["n"] for row in records()] == list(range(50))
        assert self.post(body) == (200, {"stored": True, "count": 50})  # the same again stores nothing
        assert account_traffic(self.owner.pk) == Traffic(received=100, stored=50, duplicate=50)

    def test_gzip_is_unpacked(self) -> None:
        packed = gzip.compress(b'{"n": 1}')
        assert self.post(packed, Content_Encoding="gzip")[0] == 200
        for broken in (packed[:-3], packed + b"x", b"{}", b""):
            status, body = self.post(broken, Content_Encoding="gzip")
            assert (status, body["error"]) == (400, "BAD_JSON_FORMAT")
        status, body = self.post(b"{}", Content_Encoding="br")
        assert (status, body["error"]) == (400, "INVALID_VALUE")
        status, body = self.post(gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")
        assert (status, body["error"]) == (413, "PAYLOAD_TOO_LARGE")
        assert len(records()) == 1

    def test_many_requests_at_once_share_transactions_and_all_are_stored(self) -> None:
        def send(number: int) -> int:
            return self.post(json.dumps({"n": number}))[0]

        with ThreadPoolExecutor(16) as threads:
            assert set(threads.map(send, range(200))) == {200}
        assert sorted(row[5]["n"] for row in records()) == list(range(200))
        assert account_traffic(self.owner.pk) == Traffic(received=200, stored=200)
        assert device_traffic(self.web1) == Traffic(received=200, stored=200)


class FirstContactTest(ConnectorTestCase):
    """The table of contract 4.3, row by row."""

    def test_open_with_a_default_channel(self) -> None:
        account_update(self.owner, new_devices="open", default_channel=7)
        status, body = self.post("{}", device="fresh")
        assert (status, body["code"], body["stored"]) == (201, "NEW_DEVICE_FOUND", True)
        assert self.post("{}", device="fresh") == (200, {"stored": True, "count": 1})
        assert {row[1] for row in records()} == {self.backups.pk}

    def test_open_without(self) -> None:
        account_update(self.owner, new_devices="open", default_channel=None)
        status, body = self.post("{}", device="fresh")
        assert (status, body["code"], body["stored"]) == (201, "NEW_DEVICE_FOUND", False)
        assert self.refused_now("fresh") == (403, "NO_MAPPED_CH")
        assert RefusedMessage.objects.filter(device_id="fresh", source="http").count() == 2

    def test_approve(self) -> None:
        account_update(self.owner, new_devices="approve")
        status, body = self.post("{}", device="fresh")
        assert (status, body["code"], body["stored"]) == (201, "NEW_DEVICE_FOUND", False)
        assert self.refused_now("fresh") == (403, "DEVICE_DISABLED")
        device = Device.objects.get(device_id="fresh")
        assert (device.pending, device.enabled, device.activate_at) == (True, False, None)
        assert RefusedMessage.objects.filter(device_id="fresh").count() == 2

    def test_closed(self) -> None:
        account_update(self.owner, new_devices="closed")
        for _ in range(2):
            assert self.refused_now("fresh") == (403, "DEVICE_UNKNOWN")
        assert not Device.objects.filter(device_id="fresh").exists()
        assert refusals_by_reason(self.owner.pk) == {"DEVICE_UNKNOWN": 2}

    def test_the_limit_of_devices(self) -> None:
        account_update(self.owner, new_devices="open", max_devices=2)
        assert self.refused_now("fresh") == (403, "MAX_DEVICE_REACH")

    def test_disabled_wins_over_unmapped(self) -> None:
        assert self.refused_now("new-1") == (403, "DEVICE_DISABLED")
        device_update(self.new1, changes={"enabled": True}, now=timezone.now())
        assert self.refused_now("new-1") == (403, "NO_MAPPED_CH")

    def test_a_first_message_that_is_no_json_is_told_so_and_the_device_is_there(self) -> None:
        account_update(self.owner, new_devices="open", default_channel=7)
        status, body = self.post("{", device="fresh")
        assert (status, body["error"]) == (400, "BAD_JSON_FORMAT")
        assert self.post("{}", device="fresh")[0] == 200

    def refused_now(self, device: str) -> tuple[int, str]:
        status, body = self.post("{}", device=device)
        assert set(body) == {"error", "message"}
        return status, body["error"]


class RefusalTest(ConnectorTestCase):
    def test_ids_that_are_none(self) -> None:
        for device, code in (("0", "DEVICE_ID_ZERO"), ("", "DEVICE_ID_ZERO"), ("a/b", "INVALID_VALUE")):
            status, body = self.post("{}", device=device)
            assert (status, body["error"]) == (400, code)
        status, body = self.post("{}", X_TAGNAME="a/b")
        assert (status, body["error"]) == (400, "INVALID_VALUE")
        assert account_traffic(self.owner.pk) == Traffic()

    def test_a_missing_or_wrong_token(self) -> None:
        for token in ("", "wrong", self.api_token, self.device_token[:-1]):
            answer = self.answer("{}", X_DEVICETOKEN=token)
            assert answer.status_code == 401
            assert json.loads(answer.content)["error"] == "AUTH_REQUIRED"
            assert token not in answer.content.decode() or not token
        assert records() == []

    def test_bad_payloads_are_kept_with_the_reason(self) -> None:
        for body, status, code in (
            ("{", 400, "BAD_JSON_FORMAT"),
            (b"\xff", 400, "BAD_JSON_FORMAT"),
            ("", 400, "BAD_JSON_FORMAT"),
            ('{"a": NaN}', 400, "BAD_NUMBER"),
            ('{"a": 1e400}', 400, "BAD_NUMBER"),
            ('{"a": "\\u0000"}', 400, "BAD_TEXT"),
            ("[]", 400, "INVALID_VALUE"),
            ('{"at": "soon", "value": 1}', 400, "BAD_TIME"),
            ('{"at": 1, "value": 1}', 400, "TIME_OUT_OF_RANGE"),
            ('{"a":' * 40 + "1" + "}" * 40, 400, "TOO_DEEP"),
            (json.dumps({"a": "x" * 300_000}), 413, "PAYLOAD_TOO_LARGE"),
        ):
            found, answer = self.post(body)
            assert (found, answer["error"]) == (status, code), answer
        assert RefusedMessage.objects.count() == 11
        assert account_traffic(self.owner.pk) == Traffic(received=11, refused=11)
        status, body_ = self.post(b" " * (1024 * 1024 + 1))
        assert (status, body_["error"]) == (413, "PAYLOAD_TOO_LARGE")

    def test_of_an_array_the_good_ones_are_stored_and_the_bad_ones_named(self) -> None:
        now = int(time.time())
        body = [{"at": now, "value": 1}, {"at": "soon", "value": 2}, {"at": now, "value": 3}, 4]
        status, answer = self.post(json.dumps(body))
        assert (status, answer["stored"], answer["count"]) == (200, False, 2)
        assert [(row["index"], row["error"]) for row in answer["errors"]] == [
            (1, "BAD_TIME"),
            (3, "INVALID_VALUE"),
        ]
        status, answer = self.post(json.dumps(body[1::2]))
        assert (status, answer["error"], set(answer["fields"])) == (400, "BAD_TIME", {"0", "1"})

    def test_other_methods_are_405(self) -> None:
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            answer = Client().generic(method, "/post_v2/")
            assert (answer.status_code, answer["Allow"]) == (405, "POST, OPTIONS")
            assert json.loads(answer.content)["error"] == "METHOD_NOT_ALLOWED"
        assert Client().options("/post_v2/")["Allow"] == "POST, OPTIONS"


class TokenTest(ConnectorTestCase):
    def test_a_replaced_token_counts_until_its_overlap_ends(self) -> None:
        assert self.post("1")[0] == 200
        device_token_issue(self.owner, overlap_s=3600)
        assert self.post("2")[0] == 200
        with patch("streams.intake.datetime") as clock:
            clock.now.return_value = datetime.now(UTC) + timedelta(seconds=3601)
            assert self.post("3")[0] == 401

    def test_without_an_overlap_it_is_refused_at_once(self) -> None:
        assert self.post("1")[0] == 200
        fresh = device_token_issue(self.owner)
        assert self.post("2")[0] == 401
        assert self.post("3", X_DEVICETOKEN=fresh)[0] == 200


class LimitTest(ConnectorTestCase):
    def test_one_a_second_per_device_and_the_rest_is_counted_as_limited(self) -> None:
        account_update(self.owner, connector_per_second=1)
        with patch("time.time", return_value=time.time() // 1 + 1000):
            answers = [self.answer("{}") for _ in range(4)]
            other = self.answer("{}", device="new-1")
        assert [answer.status_code for answer in answers] == [200, 429, 429, 429]
        assert (answers[1]["Retry-After"], answers[1]["RateLimit-Remaining"]) == ("1", "0")
        assert answers[0]["RateLimit-Limit"] == "1" and other.status_code == 403
        whole = Traffic(received=5, stored=1, refused=1, limited=3)
        wait_until(lambda: account_traffic(self.owner.pk) == whole, what="the limited ones being counted")
        assert device_traffic(self.web1) == Traffic(received=4, stored=1, limited=3)

    def test_what_was_limited_is_counted_when_the_process_ends(self) -> None:
        account_update(self.owner, connector_per_second=1)
        with patch("time.time", return_value=time.time() // 1 + 2000):
            for _ in range(3):
                self.answer("{}")
        intake().close()
        assert account_traffic(self.owner.pk) == Traffic(received=3, stored=1, limited=2)

    def test_wrong_tokens_are_limited_by_address(self) -> None:
        with override_settings(ADDRESS_LIMIT=2), patch("time.time", return_value=time.time() // 1 + 3000):
            found = [self.answer("{}", X_DEVICETOKEN=f"wrong-{number}").status_code for number in range(4)]
            assert self.answer("{}").status_code == 429
        assert found == [401, 401, 429, 429]


class IdempotencyTest(ConnectorTestCase):
    def test_the_same_key_gives_the_same_answer_and_stores_once(self) -> None:
        account_update(self.owner, new_devices="open", default_channel=7)
        first = self.post('{"n": 1}', device="fresh", Idempotency_Key="k-1")
        again = self.post('{"n": 1}', device="fresh", Idempotency_Key="k-1")
        assert first == again and first[0] == 201
        assert len(records()) == 1
        assert account_traffic(self.owner.pk) == Traffic(received=1, stored=1)

    def test_without_a_key_a_message_without_its_own_time_is_stored_twice(self) -> None:
        for _ in range(2):
            assert self.post('{"n": 1}')[0] == 200
        assert len(records()) == 2

    def test_a_key_used_for_another_request_is_refused(self) -> None:
        assert self.post('{"n": 1}', Idempotency_Key="k")[0] == 200
        status, body = self.post('{"n": 2}', Idempotency_Key="k")
        assert (status, body["error"]) == (400, "INVALID_VALUE")
        assert len(records()) == 1
        status, body = self.post("{}", Idempotency_Key="k" * 256)
        assert (status, body["error"]) == (400, "INVALID_VALUE")

    def test_a_refusal_is_repeated_too_and_keys_are_an_accounts_own(self) -> None:
        first = self.post("{", Idempotency_Key="k")
        assert first == self.post("{", Idempotency_Key="k") and first[0] == 400
        assert RefusedMessage.objects.count() == 1
        account_update(self.stranger, new_devices="open")
        theirs = device_token_issue(self.stranger)
        assert self.post("{", Idempotency_Key="k", X_DEVICETOKEN=theirs)[0] == 400
        assert RefusedMessage.objects.count() == 2

    def test_two_processes_with_the_same_key_at_once_store_once(self) -> None:
        other = Intake(name="http-other")
        self.addCleanup(other.close)
        gate = threading.Barrier(8)

        def send(_number: int) -> int:
            gate.wait()
            return self.post('{"n": 1}', Idempotency_Key="race")[0]

        in_turns = itertools.cycle([intake(), other])
        with (
            patch("streams.connectors.http.intake", side_effect=lambda: next(in_turns)),
            ThreadPoolExecutor(8) as threads,
        ):
            assert set(threads.map(send, range(8))) == {200}
        assert len(records()) == 1
        assert KeptAnswer.objects.count() == 1

    def test_keys_are_forgotten_after_a_day(self) -> None:
        self.post("1", Idempotency_Key="k")
        assert answers_expire(now=timezone.now() + timedelta(hours=23)) == 0
        assert answers_expire(now=timezone.now() + timedelta(hours=25)) == 1
        assert "k" not in str(KeptAnswer.objects.values_list())


class OutageTest(ConnectorTestCase):
    def test_a_database_that_is_away_is_503_and_stores_nothing_twice_later(self) -> None:
        with patch("streams.writer.connect", side_effect=psycopg.OperationalError("down")):
            intake().close()
            with self.assertLogs("streams.intake", "ERROR"):
                answer = self.answer('{"n": 1}')
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert json.loads(answer.content)["error"] == "STORAGE_UNAVAILABLE"
        assert self.post('{"n": 1}')[0] == 200
        assert len(records()) == 1

    def test_a_connection_that_died_meanwhile_costs_nobody_an_answer(self) -> None:
        assert self.post("1")[0] == 200
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name LIKE 'servwatch-http%%' AND datname = current_database()"
            )
            assert cursor.fetchone()[0] >= 1
        assert self.post("2")[0] == 200
        assert len(records()) == 2

    async def test_it_answers_under_asgi(self) -> None:
        answer = await AsyncClient().post(
            "/post_v2/",
            b"1",
            content_type="text/plain",
            headers={"X-DEVICETOKEN": self.device_token, "X-DEVICEID": "web-1"},
        )
        assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
