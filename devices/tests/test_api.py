from datetime import timedelta

from django.utils import timezone

from channels.services import channel_delete
from devices.models import Device, DeviceTraffic
from devices.services import device_create, device_delete
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NOW
from tokens.services import account_update


def heard(device: Device, *, seconds_ago: float, usual_interval_s: float | None = 10) -> None:
    DeviceTraffic.objects.create(
        device_key=device.pk,
        writer=f"w{DeviceTraffic.objects.count()}",
        received=1,
        stored=1,
        last_seen=timezone.now() - timedelta(seconds=seconds_ago),
        usual_interval_s=usual_interval_s,
    )


class DeviceReadTest(ApiTestCase):
    def ids(self, query: str) -> list[str]:
        return [row["device_id"] for row in self.get(f"/v2/device?{query}")]

    def test_it_answers_every_field(self) -> None:
        assert self.get("/v2/device/web-1") == [
            {
                "device_id": "web-1",
                "description": "front",
                "enabled": True,
                "enable": "true",
                "mapped_ch": 0,
                "device_type": "",
                "location": "",
                "manufacturer": "",
                "activate_at": "2026-11-23T18:30:00.000+09:00",
                "online": False,
                "pending": False,
            }
        ]
        (new,) = self.get("/v2/device/new-1/")
        assert (new["enabled"], new["enable"], new["mapped_ch"], new["activate_at"]) == (
            False,
            "false",
            None,
            None,
        )

    def test_state_and_last_seen_show_when_known(self) -> None:
        heard(self.web1, seconds_ago=5)
        heard(self.web1, seconds_ago=500)
        Device.objects.filter(pk=self.web1.pk).update(state={"health": "ok", "battery": 7}, pending=True)
        (device,) = self.get("/v2/device/web-1")
        assert device["online"] is device["pending"] is True
        assert device["state"] == {"health": "ok", "battery": 7}
        assert device["last_seen"].endswith("+09:00")
        assert self.get("/v2/device")[1] == device

    def test_it_lists_by_id_and_filters(self) -> None:
        heard(self.web1, seconds_ago=5)
        device_create(self.owner, "gone:silent", now=NOW, changes={"enabled": True, "location": "10% Rack_7"})
        lost = device_create(self.owner, "lost", now=NOW, changes={"channel": self.backups})
        heard(lost, seconds_ago=31)
        assert self.ids("") == ["gone:silent", "lost", "new-1", "web-1"]
        assert self.ids("online=true") == ["web-1"]
        assert self.ids("online=false") == ["gone:silent", "lost", "new-1"]
        assert self.ids("enabled=true") == ["gone:silent", "web-1"]
        assert self.ids("enabled=FALSE&online=false") == ["lost", "new-1"]
        assert self.ids("mapped=true") == ["lost", "web-1"]
        assert self.ids("mapped=false") == ["gone:silent", "new-1"]
        assert self.ids("channel=7") == ["lost"]
        assert self.ids("channel=99") == []
        assert self.ids("q=FRONT") == ["web-1"]
        assert self.ids("q=10%25+rack_7") == ["gone:silent"]
        assert self.ids("q=n%25w") == []
        channel_delete(self.backups, now=NOW)
        assert self.ids("channel=7") == []
        assert self.ids("mapped=false") == ["gone:silent", "lost", "new-1"]

    def test_it_refuses_filters_that_mean_nothing(self) -> None:
        for wrong in (
            "enabled=maybe",
            "online=1",
            "mapped=null",
            "channel=web",
            "channel=-1",
            "channel=99999999999999999999",
            "q=%00",
            "q=%ff",
            "limit=0",
            "limit=abc",
            "limit=10001",
            "limit=" + "9" * 5000,
            "after=%00",
        ):
            self.assert_error(self.call("GET", f"/v2/device?{wrong}"), 400, "INVALID_VALUE")

    def test_it_gives_pages_that_meet(self) -> None:
        for number in range(5):
            device_create(self.owner, f"x:{number}", now=NOW)
        seen, path, pages = [], "/v2/device?limit=2&q=x", 0
        while path:
            answer = self.call("GET", path)
            assert answer["X-Total-Count"] == "5"
            seen += [row["device_id"] for row in answer.json()]
            path, pages = answer.get("Link", "")[len("<http://testserver") : -len('>; rel="next"')], pages + 1
        assert (seen, pages) == ([f"x:{number}" for number in range(5)], 3)
        whole = self.call("GET", "/v2/device")
        assert "Link" not in whole and "X-Total-Count" not in whole
        exact = self.call("GET", "/v2/device?limit=5&q=x")
        assert "Link" not in exact and len(exact.json()) == 5

    def test_the_queries_do_not_grow_with_the_devices(self) -> None:
        self.get("/v2/device")
        for number in range(30):
            heard(
                device_create(self.owner, f"d{number}", now=NOW, changes={"channel": self.servers}),
                seconds_ago=1,
            )
        with self.assertNumQueries(2):
            assert len(self.get("/v2/device")) == 32
        with self.assertNumQueries(3):
            assert len(self.get("/v2/device?limit=20&online=true")) == 20
        with self.assertNumQueries(3):
            self.get("/v2/device/d3")


class DeviceWriteTest(ApiTestCase):
    def test_it_creates_disabled_and_unmapped(self) -> None:
        answer = self.call("POST", "/v2/device/rack.7:a_b-c")
        assert answer.status_code == 201
        assert answer.json() == self.get("/v2/device/rack.7:a_b-c")
        assert answer.json()[0]["enabled"] is False and answer.json()[0]["mapped_ch"] is None

    def test_the_body_may_say_otherwise(self) -> None:
        body = {"enabled": True, "mapped_ch": 7, "description": "裏", "device_type": "vm", "id": 5}
        answer = self.call("POST", "/v2/device/db-1/", body)
        assert answer.status_code == 201
        (device,) = answer.json()
        assert (device["enabled"], device["mapped_ch"], device["description"]) == (True, 7, "裏")
        assert device["activate_at"] is not None

    def test_it_refuses_ids_that_cannot_be(self) -> None:
        for path in ("/v2/device/0", "/v2/device/", "/v2/device"):
            self.assert_error(self.call("POST", path, {}), 400, "DEVICE_ID_ZERO")
        for wrong in (
            "json",
            "subscribe",
            ".",
            "..",
            "a%20b",
            "x" * 65,
            "%E5%A4%9C",
            "%00",
            "a%0A",
            "a+b",
            "a%23",
        ):
            self.assert_error(
                self.call("POST", f"/v2/device/{wrong}"), 400, "INVALID_VALUE", fields={"device_id"}
            )
            for method in ("GET", "PUT", "DELETE"):
                self.assert_error(self.call(method, f"/v2/device/{wrong}", {}), 404, "NO_DEVICE")
        self.assert_error(self.call("POST", "/v2/device/a/b"), 404, "NOT_FOUND")

    def test_it_refuses_a_second_of_the_id_and_one_over_the_limit(self) -> None:
        self.assert_error(self.call("POST", "/v2/device/web-1"), 403, "DEVICE_INUSE")
        account_update(self.owner, max_devices=3)
        assert self.call("POST", "/v2/device/third").status_code == 201
        self.assert_error(self.call("POST", "/v2/device/fourth"), 403, "MAX_DEVICE_REACH")
        assert self.call("DELETE", "/v2/device/third").status_code == 200
        assert self.call("POST", "/v2/device/fourth").status_code == 201

    def test_it_activates_and_maps(self) -> None:
        answer = self.call("PUT", "/v2/device/new-1", {"enabled": True, "mapped_ch": 0, "location": "Tokyo"})
        assert answer.status_code == 200
        (device,) = answer.json()
        assert (device["enabled"], device["enable"], device["mapped_ch"]) == (True, "true", 0)
        assert device["activate_at"] is not None
        assert self.call("PUT", "/v2/device/new-1", {"mapped_ch": None}).json()[0]["mapped_ch"] is None
        assert self.get("/v2/device/new-1")[0]["location"] == "Tokyo"

    def test_it_takes_the_older_name_of_enabled(self) -> None:
        assert self.call("PUT", "/v2/device/new-1", {"enable": "true"}).json()[0]["enabled"] is True
        assert self.call("PUT", "/v2/device/new-1", {"enable": "false"}).json()[0]["enabled"] is False
        assert self.call("PUT", "/v2/device/new-1", {"enabled": "true"}).json()[0]["enabled"] is True

    def test_what_was_read_can_be_sent_back_with_either_name_changed(self) -> None:
        (device,) = self.get("/v2/device/web-1")
        assert self.call("PUT", "/v2/device/web-1", device).json() == [device]
        off = self.call("PUT", "/v2/device/web-1", device | {"enabled": False}).json()[0]
        assert (off["enabled"], off["enable"]) == (False, "false")
        on = self.call("PUT", "/v2/device/web-1", off | {"enable": "true"}).json()[0]
        assert (on["enabled"], on["enable"]) == (True, "true")
        answer = self.call("POST", "/v2/device/both", {"enabled": True, "enable": "false"})
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"enable"})

    def test_it_refuses_what_does_not_fit_and_changes_nothing(self) -> None:
        bad: dict[str, list[object]] = {
            "description": ["x" * 257, 5, None, ["x"], "a\0"],
            "enabled": ["yes", 1, None, "", []],
            "enable": ["on", 0, {}],
            "mapped_ch": ["web", -1, 1.0, True, [0], int("9" * 300), ""],
            "device_type": ["x" * 65],
            "location": ["x" * 129],
            "manufacturer": [False],
        }
        for field, values in bad.items():
            for value in values:
                answer = self.call("PUT", "/v2/device/web-1", {"manufacturer": "new", field: value})
                self.assert_error(answer, 400, "INVALID_VALUE", fields={field})
        for number in (99, 2**40, 2**63):
            body = {"manufacturer": "new", "mapped_ch": number}
            self.assert_error(self.call("PUT", "/v2/device/web-1", body), 404, "NO_CHANNEL")
            self.assert_error(self.call("POST", "/v2/device/fresh", body), 404, "NO_CHANNEL")
        assert self.get("/v2/device/web-1")[0]["manufacturer"] == ""
        self.assert_error(self.call("GET", "/v2/device/fresh"), 404, "NO_DEVICE")
        for wrong in (b"", b"{", b"enabled=true", b'{"description": "\xff"}', b'{"description": "\\ud800"}'):
            self.assert_error(self.call("PUT", "/v2/device/web-1", wrong), 400, "BAD_JSON_FORMAT")
        for wrong in (b"[]", b"1", b'"x"'):
            self.assert_error(self.call("PUT", "/v2/device/web-1", wrong), 400, "INVALID_VALUE")
            self.assert_error(self.call("POST", "/v2/device/fresh", wrong), 400, "INVALID_VALUE")

    def test_deleting_frees_the_id(self) -> None:
        (before,) = self.get("/v2/device/web-1")
        answer = self.call("DELETE", "/v2/device/web-1")
        assert (answer.status_code, answer.json()) == (200, [before])
        for method in ("GET", "PUT", "DELETE"):
            self.assert_error(self.call(method, "/v2/device/web-1", {}), 404, "NO_DEVICE")
        (again,) = self.call("POST", "/v2/device/web-1").json()
        assert (again["description"], again["enabled"], again["activate_at"]) == ("", False, None)

    def test_a_strangers_device_is_as_if_it_were_not(self) -> None:
        assert self.get("/v2/device", token=self.strange_token) == []
        for method in ("GET", "PUT", "DELETE"):
            strange = self.call(method, "/v2/device/web-1", {}, token=self.strange_token)
            absent = self.call(method, "/v2/device/web-x", {}, token=self.strange_token)
            self.assert_error(strange, 404, "NO_DEVICE")
            assert strange.content.replace(b"web-1", b"web-x") == absent.content
            self.assert_error(self.call(method, "/v2/device/web-1", {}, token=""), 401, "AUTH_REQUIRED")
        answer = self.call("POST", "/v2/device/web-1", {"mapped_ch": 7}, token=self.strange_token)
        self.assert_error(answer, 404, "NO_CHANNEL")
        assert self.call("POST", "/v2/device/web-1", token=self.strange_token).status_code == 201
        device_delete(self.web1, now=NOW)
        assert len(self.get("/v2/device", token=self.strange_token)) == 1
