from datetime import timedelta

from channels.models import Channel, Stream, Tag
from channels.services import channel_create, channel_delete
from devices.services import device_create
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.cast import NOW
from streams.tests.records import record_add


class ChannelReadTest(ApiTestCase):
    def test_it_lists_the_channels_by_number_with_and_without_slash(self) -> None:
        rows = self.get("/v2/channel")
        assert [(row["channel"], row["channel_name"], row["tag"]) for row in rows] == [
            (0, "Servers", None),
            (7, "Backups", None),
        ]
        assert self.get("/v2/channel/") == rows
        assert self.get("/v2/channel/0/") == self.get("/v2/channel/0") == rows[:1]
        assert set(rows[0]) == {"channel", "channel_name", "tag", "last_update", "retention_days", "streams"}
        assert rows[0]["last_update"] is None and rows[0]["streams"] == []

    def test_a_stream_shows_label_unit_type_and_its_newest_value(self) -> None:
        Stream.objects.create(channel=self.servers, key="cpu:idle", label="Idle", unit="%", type="number")
        Stream.objects.create(channel=self.servers, key="quiet", type="string")
        record_add(self.web1, self.servers, NOW - timedelta(hours=1), {"cpu": {"idle": 1}}, tag="old")
        record_add(self.web1, self.servers, NOW, {"cpu": {"idle": 93.1}})
        (channel,) = self.get("/v2/channel/0")
        assert channel["last_update"] == "2026-11-23T18:30:00.000+09:00"
        assert channel["streams"] == [
            {
                "key": "cpu:idle",
                "label": "Idle",
                "unit": "%",
                "type": "number",
                "last_value": 93.1,
                "last_at": "2026-11-23T18:30:00.000+09:00",
            },
            {"key": "quiet", "label": "", "unit": "", "type": "string", "last_value": None, "last_at": None},
        ]

    def test_with_tags_it_answers_one_row_per_channel_and_tag(self) -> None:
        Stream.objects.create(channel=self.servers, key="load", type="number")
        record_add(self.web1, self.servers, NOW, {"load": 1})
        record_add(self.web1, self.servers, NOW - timedelta(hours=1), {"load": 2}, tag="夜")
        Tag.objects.create(channel=self.servers, name="unused")
        rows = self.get("/v2/channel", X_WITHTAG="true")
        seen = [(row["channel"], row["tag"], row["last_update"]) for row in rows]
        assert seen == [
            (0, None, "2026-11-23T18:30:00.000+09:00"),
            (0, "unused", None),
            (0, "夜", "2026-11-23T17:30:00.000+09:00"),
            (7, None, None),
        ]
        assert [row["streams"][0]["last_value"] for row in rows[:3]] == [1, None, 2]
        assert self.get("/v2/channel?withtag=true") == rows
        assert self.get("/v2/channel/0", X_WITHTAG="TRUE") == rows[:3]
        assert len(self.get("/v2/channel", X_WITHTAG="false")) == 2
        self.assert_error(self.call("GET", "/v2/channel", X_WITHTAG="1"), 400, "INVALID_VALUE")

    def test_an_integer_beyond_64_bits_stays_exact(self) -> None:
        Stream.objects.create(channel=self.servers, key="n", type="number")
        record_add(self.web1, self.servers, NOW, b'{"n": 123456789012345678901234567890}')
        assert b'"last_value":123456789012345678901234567890' in self.call("GET", "/v2/channel/0").content

    def test_it_gives_pages_that_meet(self) -> None:
        record_add(self.web1, self.servers, NOW, {"load": 1}, tag="a")
        record_add(self.web1, self.servers, NOW, {"load": 1}, tag="b&c")
        seen, path = [], "/v2/channel?withtag=true&limit=1"
        while path:
            answer = self.call("GET", path)
            assert answer["X-Total-Count"] == "3"
            seen += [(row["channel"], row["tag"]) for row in answer.json()]
            path = answer.get("Link", "")[len("<http://testserver") : -len('>; rel="next"')]
        assert seen == [(0, "a"), (0, "b&c"), (7, None)]
        for wrong in ("limit=0", "limit=abc", "limit=10001", "limit=-1", "limit=1e3", "after=x", "limit=１"):
            self.assert_error(self.call("GET", f"/v2/channel?{wrong}"), 400, "INVALID_VALUE")

    def test_the_queries_do_not_grow_with_the_channels(self) -> None:
        self.get("/v2/channel")
        for by_tag, queries in (("false", 4), ("true", 6)):
            with self.assertNumQueries(queries):
                self.get(f"/v2/channel?withtag={by_tag}")
        for number in range(20, 40):
            channel = channel_create(self.owner, number)
            record_add(self.web1, channel, NOW, {"load": number}, tag="a")
        for by_tag, queries in (("false", 4), ("true", 6)):
            with self.assertNumQueries(queries):
                assert len(self.get(f"/v2/channel?withtag={by_tag}")) == 22


class ChannelWriteTest(ApiTestCase):
    def test_it_creates_with_and_without_a_body(self) -> None:
        answer = self.call("POST", "/v2/channel/12")
        assert answer.status_code == 201
        assert (
            answer.json()[0] | {"channel": 12, "channel_name": "", "retention_days": 90} == answer.json()[0]
        )
        body = {"channel_name": "夜間", "retention_days": 30, "unknown": 1}
        answer = self.call("POST", "/v2/channel/2147483647/", body)
        assert answer.status_code == 201
        assert answer.json() == self.get("/v2/channel/2147483647")
        assert (answer.json()[0]["channel_name"], answer.json()[0]["retention_days"]) == ("夜間", 30)

    def test_it_creates_the_tag_of_a_percent_encoded_header(self) -> None:
        answer = self.call("POST", "/v2/channel/12", X_TAGNAME="%E5%A4%9C%20100%25")
        assert answer.status_code == 201
        assert answer.json()[0]["tag"] == "夜 100%"
        assert [row["tag"] for row in self.get("/v2/channel/12", X_WITHTAG="true")] == ["夜 100%"]
        for wrong in ("%E5%A4", "a/b", "a%2Fb", "%23", "%00", "x" * 65, "夜", "%0A"):
            answer = self.call("POST", "/v2/channel/13", X_TAGNAME=wrong)
            self.assert_error(answer, 400, "INVALID_VALUE", fields={"tag"})
        assert not Channel.objects.filter(number=13).exists()

    def test_a_number_in_use_is_refused_in_one_account_only(self) -> None:
        self.assert_error(self.call("POST", "/v2/channel/0"), 403, "CHANNEL_INUSE")
        assert self.call("POST", "/v2/channel/0", token=self.strange_token).status_code == 201

    def test_it_refuses_what_is_no_channel_id(self) -> None:
        for wrong in ("-1", "abc", "1.5", "2147483648", "9" * 400, "１", "%20", "%00", "1%0A", "+1"):
            self.assert_error(
                self.call("POST", f"/v2/channel/{wrong}"), 400, "INVALID_VALUE", fields={"channel"}
            )
            for method in ("GET", "PUT", "DELETE"):
                self.assert_error(self.call(method, f"/v2/channel/{wrong}", {}), 404, "NO_CHANNEL")

    def test_it_changes_name_retention_labels_and_units(self) -> None:
        Stream.objects.create(channel=self.servers, key="cpu:idle", type="number")
        Stream.objects.create(channel=self.servers, key="load", label="Load", unit="1", type="number")
        streams = [
            {"key": "cpu:idle", "label": "Idle", "unit": "%", "type": "string", "last_value": 5},
            {"key": "load"},
        ]
        body = {"channel_name": "Front", "retention_days": 3650, "streams": streams}
        answer = self.call("PUT", "/v2/channel/0", body)
        assert answer.status_code == 200
        assert answer.json() == self.get("/v2/channel/0")
        assert [(s["label"], s["unit"], s["type"]) for s in answer.json()[0]["streams"]] == [
            ("Idle", "%", "number"),
            ("Load", "1", "number"),
        ]
        assert self.call("PUT", "/v2/channel/0", answer.json()[0]).json() == answer.json()

    def test_many_labels_cost_few_queries(self) -> None:
        keys = [f"key{number}" for number in range(300)]
        Stream.objects.bulk_create(Stream(channel=self.servers, key=key, type="number") for key in keys)
        self.get("/v2/channel/0")
        with self.assertNumQueries(10):
            body = {"streams": [{"key": key, "unit": "%"} for key in keys]}
            assert self.call("PUT", "/v2/channel/0", body).status_code == 200

    def test_it_refuses_what_does_not_fit_and_changes_nothing(self) -> None:
        Stream.objects.create(channel=self.servers, key="load", type="number")
        bad: list[tuple[dict[str, object], str]] = [
            ({"channel_name": "x" * 65}, "channel_name"),
            ({"channel_name": 5}, "channel_name"),
            ({"channel_name": None}, "channel_name"),
            ({"channel_name": "a\0"}, "channel_name"),
            ({"retention_days": 0}, "retention_days"),
            ({"retention_days": 3651}, "retention_days"),
            ({"retention_days": True}, "retention_days"),
            ({"retention_days": 1.5}, "retention_days"),
            ({"retention_days": int("9" * 300)}, "retention_days"),
            ({"streams": [{"key": "load", "unit": "x" * 33}]}, "streams.0.unit"),
            ({"streams": [{"key": "load"}, {"key": "load", "label": 5}]}, "streams.1.label"),
            ({"streams": [{"label": "x"}]}, "streams.0.key"),
            ({"streams": [{"key": "load", "label": "new"}, {"key": "other"}]}, "streams"),
            ({"streams": {"key": "load"}}, "streams"),
            ({"streams": ["load"]}, "streams.0"),
        ]
        for body, field in bad:
            answer = self.call("PUT", "/v2/channel/0", {"channel_name": "new", **body})
            self.assert_error(answer, 400, "INVALID_VALUE", fields={field})
        (channel,) = self.get("/v2/channel/0")
        assert (channel["channel_name"], channel["streams"][0]["label"]) == ("Servers", "")
        self.assert_error(self.call("PUT", "/v2/channel/0"), 400, "BAD_JSON_FORMAT")
        self.assert_error(self.call("PUT", "/v2/channel/0", [1]), 400, "INVALID_VALUE")
        answer = self.call("POST", "/v2/channel/9", {"streams": [{"key": "load"}]})
        self.assert_error(answer, 400, "INVALID_VALUE", fields={"streams"})

    def test_deleting_frees_the_number_and_unmaps_its_devices(self) -> None:
        (before,) = self.get("/v2/channel/0")
        answer = self.call("DELETE", "/v2/channel/0")
        assert (answer.status_code, answer.json()) == (200, [before])
        self.assert_error(self.call("GET", "/v2/channel/0"), 404, "NO_CHANNEL")
        self.assert_error(self.call("DELETE", "/v2/channel/0"), 404, "NO_CHANNEL")
        assert self.get("/v2/device/web-1")[0]["mapped_ch"] is None
        assert self.call("POST", "/v2/channel/0").status_code == 201
        assert self.get("/v2/device/web-1")[0]["mapped_ch"] is None

    def test_a_channel_created_again_shows_nothing_of_its_predecessor(self) -> None:
        Stream.objects.create(channel=self.servers, key="load", type="number")
        record_add(self.web1, self.servers, NOW, {"load": 1}, tag="a")
        channel_delete(self.servers, now=NOW)
        channel_create(self.owner, 0)
        (channel,) = self.get("/v2/channel/0", X_WITHTAG="true")
        assert (channel["tag"], channel["last_update"], channel["streams"]) == (None, None, [])

    def test_deleting_a_tag_that_is_not_there_is_refused_rather_than_taken_for_all(self) -> None:
        self.assert_error(self.call("DELETE", "/v2/channel/0", X_TAGNAME="a"), 400, "INVALID_VALUE")
        self.assert_error(self.call("DELETE", "/v2/channel/0?tag=a"), 400, "INVALID_VALUE")
        assert len(self.get("/v2/channel/0")) == 1

    def test_a_strangers_channel_is_as_if_it_were_not(self) -> None:
        device_create(self.stranger, "web-1", now=NOW)
        assert self.get("/v2/channel", token=self.strange_token) == []
        for method in ("GET", "PUT", "DELETE"):
            strange = self.call(method, "/v2/channel/7", {}, token=self.strange_token)
            absent = self.call(method, "/v2/channel/7000", {}, token=self.strange_token)
            self.assert_error(strange, 404, "NO_CHANNEL")
            assert strange.content.replace(b"7", b"N") == absent.content.replace(b"7000", b"N")
            self.assert_error(self.call(method, "/v2/channel/7", {}, token=""), 401, "AUTH_REQUIRED")
        assert len(self.get("/v2/channel")) == 2
