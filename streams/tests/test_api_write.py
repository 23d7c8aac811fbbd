import json
from datetime import timedelta
from typing import Any

from django.utils import timezone

from channels.models import Latest, Tag
from channels.services import tag_create
from devices.models import Device
from devices.services import device_create
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NO_LIMITS
from servwatch_site.tests.street import StreetTestCase
from streams import retention
from streams.intake import intake
from streams.tests.test_pipeline import records
from tokens.selectors import Traffic, account_traffic
from tokens.services import account_create, api_token_issue


class WritingTestCase(StreetTestCase):
    call: Any = ApiTestCase.call
    get: Any = ApiTestCase.get
    assert_error: Any = ApiTestCase.assert_error

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(intake().close)

    def write(self, body: Any, *, path: str = "/v2/stream/0", **headers: str) -> Any:
        return self.call("POST", path, body, **headers)

    def refused(self, answer: Any, status: int, code: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.assert_error(answer, status, code, **more)
        return found

    def read(self, path: str, **headers: str) -> Any:
        return self.get(path, **headers)


class PostTest(WritingTestCase):
    def test_one_record_and_what_is_read_back(self) -> None:
        answer = self.write({"value": {"cpu": {"idle": 93.1}}})
        assert (answer.status_code, json.loads(answer.content)) == (201, {"count": 1})
        (record,) = self.read("/v2/stream/0?end=last")["stream"]
        assert record["device_id"] is None and record["tag"] is None
        assert record["value"] == {"cpu": {"idle": 93.1}}

    def test_an_array_with_times_tags_and_devices(self) -> None:
        at = timezone.now() - timedelta(hours=1)
        body = [
            {"value": 1, "at": at.isoformat(), "device_id": "web-1", "tag": "rack"},
            {"value": {"n": 2}, "at": int(at.timestamp() * 1000) + 1, "device_id": None, "tag": None},
            {"value": "three"},
            {"value": "three"},
        ]
        answer = self.write(json.dumps(body).encode(), X_TAGNAME="spare")
        assert json.loads(answer.content) == {"count": 4}
        stored = records()
        assert [row[0] for row in stored] == [
            self.web1.pk,
            -self.servers.pk,
            -self.servers.pk,
            -self.servers.pk,
        ]
        assert [row[3] for row in stored] == ["rack", "spare", "spare", "spare"]
        assert account_traffic(self.owner.pk) == Traffic(received=4, stored=4)

    def test_the_same_record_again_is_stored_once(self) -> None:
        body = {"value": 1, "at": timezone.now().isoformat()}
        for _ in range(2):
            assert self.write(body).status_code == 201
        assert len(records()) == 1
        assert account_traffic(self.owner.pk) == Traffic(received=2, stored=1, duplicate=1)

    def test_records_of_no_device_in_two_channels_or_accounts_never_meet(self) -> None:
        theirs = account_create(organization="Bob", email="bob@example.org", **NO_LIMITS)
        token = api_token_issue(theirs, name="t", scopes=["write"])[1]
        self.call("POST", "/v2/channel/0", token=token)
        body = {"value": 1, "at": timezone.now().isoformat()}
        for path in ("/v2/stream/0", "/v2/stream/7"):
            assert self.write(body, path=path).status_code == 201
        assert self.call("POST", "/v2/stream/0", body, token=token).status_code == 201
        assert len(records()) == 3

    def test_integers_of_any_size_stay_exact(self) -> None:
        assert self.write(b'{"value": {"big": 123456789012345678901234567890}}').status_code == 201
        text = self.call("GET", "/v2/stream/0?end=last").content
        assert b"123456789012345678901234567890" in text

    def test_a_bad_record_is_named_and_nothing_is_stored(self) -> None:
        good = {"value": 1}
        old = (timezone.now() - timedelta(days=200)).isoformat()
        for bad, code, field in (
            ({}, "INVALID_VALUE", "1.value"),
            (5, "INVALID_VALUE", "1.value"),
            ({"value": None}, "INVALID_VALUE", "1.value"),
            ({"value": 1, "at": "soon"}, "BAD_TIME", "1.value"),
            ({"value": 1, "at": old}, "TIME_OUT_OF_RANGE", "1.at"),
            ({"value": 1, "tag": "a/b"}, "INVALID_VALUE", "1.value"),
            ({"value": 1, "device_id": 5}, "INVALID_VALUE", "1.device_id"),
            ({"value": {"a" * 1001: 1}}, "TOO_MANY_KEYS", "1.value"),
        ):
            self.refused(self.write([good, bad]), 400, code, fields={field})
        assert records() == []

    def test_bodies_that_cannot_be_used(self) -> None:
        for body, status, code in (
            (b"{", 400, "BAD_JSON_FORMAT"),
            (b"", 400, "BAD_JSON_FORMAT"),
            (b'{"value": NaN}', 400, "BAD_NUMBER"),
            (b'{"value": "\\u0000"}', 400, "BAD_TEXT"),
            (b"[]", 400, "INVALID_VALUE"),
            (json.dumps([{"value": 1}] * 10_001).encode(), 400, "INVALID_VALUE"),
            (b" " * (1024 * 1024 + 1), 413, "PAYLOAD_TOO_LARGE"),
        ):
            self.refused(self.write(body), status, code)

    def test_unknown_devices_and_channels_are_404(self) -> None:
        device_create(self.stranger, "theirs", now=timezone.now())
        for device_id in ("none", "theirs", ""):
            self.refused(self.write({"value": 1, "device_id": device_id}), 404, "NO_DEVICE")
        self.refused(self.write({"value": 1}, path="/v2/stream/99"), 404, "NO_CHANNEL")

    def test_a_repeated_request_with_a_key_stores_nothing(self) -> None:
        for _ in range(3):
            answer = self.write([{"value": 1}, {"value": 2}], Idempotency_Key="k")
            assert (answer.status_code, json.loads(answer.content)) == (201, {"count": 2})
        assert len(records()) == 2
        self.refused(self.write({"value": 3}, Idempotency_Key="k"), 400, "INVALID_VALUE")
        assert (
            self.write([{"value": 1}, {"value": 2}], path="/v2/stream/7", Idempotency_Key="other").status_code
            == 201
        )


class DeleteTest(WritingTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.base = timezone.now().replace(microsecond=0) - timedelta(hours=2)
        body = [
            {
                "value": {"n": n},
                "at": self.at(n),
                "device_id": "web-1",
                "tag": "even" if n % 2 == 0 else "odd",
            }
            for n in range(6)
        ]
        assert self.write(body).status_code == 201

    def at(self, minutes: int) -> str:
        return (self.base + timedelta(minutes=minutes)).isoformat()

    def remove(self, path: str = "/v2/stream/0", **headers: str) -> Any:
        return self.call("DELETE", path, **headers)

    def left(self) -> list[int]:
        return [row[5]["n"] for row in records()]

    def test_start_belongs_to_the_range_and_end_does_not(self) -> None:
        answer = self.remove(X_STARTTIME=self.at(1), X_ENDTIME=self.at(3))
        assert (answer.status_code, json.loads(answer.content)) == (200, {"channel": 0, "deleted": 2})
        assert self.left() == [0, 3, 4, 5]

    def test_both_bounds_are_required(self) -> None:
        self.refused(self.remove(X_STARTTIME=self.at(1)), 400, "INVALID_VALUE", fields={"end"})
        self.refused(self.remove(X_ENDTIME=self.at(1)), 400, "INVALID_VALUE", fields={"start"})
        self.refused(
            self.remove(X_STARTTIME=self.at(1), X_ENDTIME="last"), 400, "INVALID_VALUE", fields={"end"}
        )
        self.refused(self.remove(X_STARTTIME=self.at(2), X_ENDTIME=self.at(1)), 400, "INVALID_VALUE")
        assert len(self.left()) == 6

    def test_a_tag_or_device_narrows_it(self) -> None:
        headers = {"X_STARTTIME": self.at(0), "X_ENDTIME": self.at(9)}
        assert json.loads(self.remove("/v2/stream/0?device=new-1", **headers).content)["deleted"] == 0
        assert json.loads(self.remove(X_TAGNAME="odd", **headers).content)["deleted"] == 3
        assert self.left() == [0, 2, 4]

    def test_the_latest_value_follows(self) -> None:
        self.remove(X_STARTTIME=self.at(4), X_ENDTIME=self.at(9))
        values = {row.tag: row.value for row in Latest.objects.all()}
        assert values == {"even": {"n": 2}, "odd": {"n": 3}}
        assert self.read("/v2/channel/0")[0]["streams"][0]["last_value"] == 3
        self.remove(X_STARTTIME=self.at(0), X_ENDTIME=self.at(9))
        assert not Latest.objects.exists()
        assert self.read("/v2/channel/0")[0]["last_update"] is None

    def test_a_latest_value_of_another_shape_stays_its_own(self) -> None:
        self.write({"value": {"other": 1}, "at": self.at(3), "device_id": "web-1", "tag": "even"})
        self.remove(X_STARTTIME=self.at(4), X_ENDTIME=self.at(5))
        shapes = [row.value for row in Latest.objects.filter(tag="even").order_by("at")]
        assert shapes == [{"n": 2}, {"other": 1}]

    def test_a_stranger_and_a_reader_remove_nothing(self) -> None:
        headers = {"X_STARTTIME": self.at(0), "X_ENDTIME": self.at(9)}
        self.refused(self.remove(token=self.strange_token, **headers), 404, "NO_CHANNEL")
        self.refused(self.remove(token=self.read_token, **headers), 403, "FORBIDDEN")
        assert len(self.left()) == 6

    def test_deleting_a_tag_removes_its_records_and_the_tag(self) -> None:
        answer = self.remove("/v2/channel/0", X_TAGNAME="odd")
        assert (answer.status_code, json.loads(answer.content)[0]["tag"]) == (200, "odd")
        assert self.left() == [0, 2, 4]
        tags = [row["tag"] for row in self.read("/v2/channel/0", X_WITHTAG="true")]
        assert tags == ["even"]
        self.refused(self.remove("/v2/channel/0", X_TAGNAME="odd"), 400, "INVALID_VALUE", fields={"tag"})

    def test_a_deleted_tag_comes_into_being_again_when_it_is_used(self) -> None:
        tag_create(self.servers, "empty")
        self.remove("/v2/channel/0", X_TAGNAME="odd")
        self.write({"value": 1, "tag": "odd"})
        assert set(Tag.objects.values_list("name", flat=True)) == {"even", "odd", "empty"}

    def test_a_device_deleted_with_its_records_reports_how_far_it_is(self) -> None:
        assert self.remove("/v2/device/web-1?records=delete").status_code == 200
        device_create(self.owner, "web-1", now=timezone.now())
        self.write({"value": {"n": 9}, "device_id": "web-1"})
        (gone,) = self.read("/v2/device?deleted=true")
        assert (gone["device_id"], gone["records"]) == ("web-1", "deleting")
        now = timezone.now()
        assert retention.devices_purge(now=now) == {self.web1.pk: 6}
        assert self.left() == [9]  # its successor's stay
        assert retention.devices_purge(now=now + timedelta(minutes=2)) == {self.web1.pk: 0}
        (gone,) = self.read("/v2/device?deleted=true")
        assert (gone["records"], gone["records_deleted"]) == ("deleted", 6)
        assert retention.devices_purge(now=now + timedelta(minutes=3)) == {}
        assert self.read("/v2/device?deleted=true", token=self.strange_token) == []

    def test_a_device_deleted_without_keeps_them_and_they_still_say_its_id(self) -> None:
        self.remove("/v2/device/web-1")
        assert retention.devices_purge(now=timezone.now()) == {}
        assert self.read("/v2/stream/0?end=last")["stream"][0]["device_id"] == "web-1"
        assert self.read("/v2/device?deleted=true")[0]["records"] == "kept"
        assert Device.objects.filter(deleted_at__isnull=False).count() == 1
