"""Every page: works, rejects bad input, is a 404 for strangers, and asks no more of the database when lists grow."""

import html
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from channels.models import Channel, Stream
from channels.selectors import tag_updates
from console.payloads import payload_text
from console.ranges import range_parse
from console.sign_in import sign_in_url, user_from_link
from devices.command_sender import Message
from devices.models import Command, Device, RefusedSignIn, Session, UnknownDevice
from devices.services import device_create, device_update
from servwatch_site.errors import Code, ServwatchError
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import StreetTestCase
from streams.models import RefusedMessage
from streams.selectors_console import newest_of_device
from tokens.models import Account, ApiToken
from tokens.selectors import api_token_find, device_token_now, device_token_reveal
from tokens.services import account_update

PAGES = (
    "/",
    "/add-a-server/",
    "/new-device/",
    "/devices/web-1/",
    "/devices/web-1/edit/",
    "/channels/",
    "/channels/0/",
    "/new-channel/",
    "/refused/",
    "/sessions/",
    "/system/",
    "/account/",
)


class ConsoleTestCase(StreetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.force_login(self.alice, backend="allauth.account.auth_backends.AuthenticationBackend")

    def text(self, path: str, *, status: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == status, (path, answer.status_code)
        return answer.content.decode()

    def queries(self, path: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            self.text(path)
        return len(captured)

    def post(self, path: str, data: Mapping[str, object]) -> str:
        answer = self.client.post(path, data, follow=True)
        assert answer.status_code == 200, answer.status_code
        return answer.content.decode()


class EveryPageTest(ConsoleTestCase):
    def test_every_page_opens_with_and_without_data(self) -> None:
        for path in PAGES:
            self.text(path)
        self.send(
            "json/web-1", '{"cpu":{"total":12.5},"up":true,"host":"<b>x</b>","mem":{"used_bytes":4096}}'
        )
        self.send("state/web-1", "fw=1.2")
        self.send("json/web-1", "{")
        for path in PAGES:
            self.text(path)

    def test_every_page_asks_for_a_sign_in(self) -> None:
        self.client.logout()
        for path in PAGES:
            answer = self.client.get(path)
            assert answer.status_code == 302, path
            assert answer["Location"].startswith("/accounts/login/")

    def test_another_accounts_objects_do_not_exist(self) -> None:
        self.client.force_login(self.mallory, backend="allauth.account.auth_backends.AuthenticationBackend")
        for path in ("/devices/web-1/", "/devices/web-1/edit/", "/devices/web-1/chart.json", "/channels/0/"):
            self.text(path, status=404)
        for path in (
            "/devices/web-1/delete/",
            "/devices/web-1/commands/",
            "/channels/0/delete/",
            "/channels/0/edit/",
            "/channels/0/tags/delete/",
        ):
            assert self.client.post(path).status_code == 404, path
        assert "web-1" not in self.text("/")
        assert self.client.get("/fleet/sparklines.json?id=web-1").json() == {}
        assert Device.objects.filter(deleted_at=None).count() == 2

    def test_pages_allow_no_inline_script_and_no_other_host(self) -> None:
        answer = self.client.get("/devices/web-1/")
        assert "script-src 'self'" in answer["Content-Security-Policy"]
        html = answer.content.decode()
        assert "http://" not in html and "https://" not in html
        assert " style=" not in html and " onclick=" not in html
        assert html.count("<script>") == 0

    def test_an_unknown_address_is_a_page_with_a_way_back(self) -> None:
        self.text("/devices/%00/", status=404)
        assert "There is nothing at this address" in self.text("/nowhere/", status=404)

    def test_pages_with_secrets_are_not_kept_by_caches(self) -> None:
        assert "no-store" in self.client.get("/account/")["Cache-Control"]
        assert "no-store" in self.client.get("/add-a-server/")["Cache-Control"]


class FleetTest(ConsoleTestCase):
    def test_it_shows_state_in_words_and_values(self) -> None:
        self.send("json/web-1", '{"cpu":{"total":12.5}}')
        html = self.text("/")
        assert "online" in html and "12.5" in html and "disabled" in html

    def test_search_and_filters_narrow_the_list(self) -> None:
        assert "new-1" not in self.text("/?fragment=1&q=front")
        assert "web-1" not in self.text("/?fragment=1&status=disabled")
        assert "No device fits" in self.text("/?fragment=1&q=nothing-like-this")

    def test_nonsense_in_the_address_is_no_error(self) -> None:
        for query in (
            "?page=zzz",
            "?page=-4",
            "?sort=drop+table",
            "?status=what",
            "?q=%00",
            "?q=%F0%9F%98%80",
        ):
            self.text("/" + query)

    def test_it_takes_the_same_queries_for_two_and_for_sixty_devices(self) -> None:
        self.send("json/web-1", '{"cpu":{"total":1}}')
        self.text("/")
        few = self.queries("/")
        for number in range(58):
            device_create(self.owner, f"host-{number:02d}", now=NOW)
        assert self.queries("/") == few

    def test_the_inbox_enables_and_maps_what_is_ticked(self) -> None:
        account_update(self.owner, new_devices="approve")
        for number in (1, 2):
            self.send(f"json/db-{number}", "1")
        assert "needs you" in self.text("/") or "need you" in self.text("/")
        html = self.post("/inbox/", {"device": ["db-1"], "channel": str(self.servers.pk), "action": "enable"})
        assert "1 device is enabled" in html
        one, two = Device.objects.filter(device_id__startswith="db-").order_by("device_id")
        assert one.enabled and one.channel == self.servers and not one.pending
        assert two.pending
        self.post("/inbox/", {"device": ["db-2"], "action": "refuse"})
        two.refresh_from_db()
        assert not two.pending and not two.enabled
        assert self.send("json/db-2", "1").new_device is False

    def test_the_inbox_touches_only_new_devices_and_own_channels(self) -> None:
        strange = Channel.objects.create(account=self.stranger, number=1)
        account_update(self.owner, new_devices="approve")
        self.send("json/db-1", "1")
        self.post("/inbox/", {"device": ["web-1"], "action": "refuse"})
        self.post("/inbox/", {"device": ["db-1"], "channel": str(strange.pk), "action": "enable"})
        assert Device.objects.get(device_id="web-1").enabled
        assert Device.objects.get(device_id="db-1").pending

    def test_ids_that_knocked_in_vain_can_be_created(self) -> None:
        account_update(self.owner, new_devices="closed")
        self.send("json/db-1", "1")
        assert UnknownDevice.objects.count() == 1
        assert "/new-device/?id=db-1" in self.text("/")
        assert 'value="db-1"' in self.text("/new-device/?id=db-1")


class DevicePageTest(ConsoleTestCase):
    def test_it_shows_tiles_counters_state_and_messages(self) -> None:
        self.send("json/web-1", '{"mem":{"used_bytes":4096},"note":"<script>alert(1)</script>"}')
        self.send("state/web-1", "fw=9")
        html = self.text("/devices/web-1/")
        assert "KiB" in html
        assert "2 received = 2 stored" in html
        assert "&lt;script&gt;" in html and "<script>alert" not in html

    def test_the_form_saves_and_activates(self) -> None:
        data = {"description": "db", "enabled": "on", "channel": str(self.backups.pk)}
        assert "is saved" in self.post("/devices/new-1/edit/", data)
        self.new1.refresh_from_db()
        assert (self.new1.description, self.new1.enabled, self.new1.channel) == ("db", True, self.backups)
        assert self.new1.activate_at is not None

    def test_a_form_with_a_strangers_channel_or_too_long_a_text_is_shown_again(self) -> None:
        strange = Channel.objects.create(account=self.stranger, number=1)
        for data in ({"channel": str(strange.pk)}, {"description": "x" * 300}):
            assert "errorlist" in self.post("/devices/new-1/edit/", data)

    def test_a_device_is_created_by_hand_once(self) -> None:
        data = {"device_id": "hand-1", "enabled": "on", "channel": str(self.servers.pk)}
        assert "is created" in self.post("/new-device/", data)
        assert "exists already" in self.post("/new-device/", data)
        assert "characters" in self.post(
            "/new-device/", {"device_id": "no/slash"}
        ) or "not usable" in self.post("/new-device/", {"device_id": "no/slash"})

    def test_a_deleted_device_is_gone(self) -> None:
        self.post("/devices/new-1/delete/", {})
        self.text("/devices/new-1/", status=404)

    def test_a_device_is_deleted_with_its_records_when_that_is_ticked(self) -> None:
        assert "records stay" in self.post("/devices/new-1/delete/", {})
        html = self.post("/devices/web-1/delete/", {"with_records": "on"})
        assert "removed in the background" in html
        assert "stay in their channel" in html and "being removed, 0 records so far" in html
        gone = Device.objects.get(device_id="web-1")
        assert gone.purge_wanted and not Device.objects.get(device_id="new-1").purge_wanted
        Device.objects.filter(pk=gone.pk).update(purged_at=timezone.now(), purged_records=12_345)
        assert "removed: 12345 records" in self.text("/")

    def test_what_was_deleted_long_ago_is_not_listed(self) -> None:
        Device.objects.filter(pk=self.new1.pk).update(deleted_at=timezone.now() - timedelta(days=31))
        assert "Deleted lately" not in self.text("/")

    def test_it_says_since_when_and_from_where_the_device_is_connected(self) -> None:
        assert "192.0.2." not in self.text("/devices/web-1/")
        session_make(self.owner, "web-1", ipaddress="192.0.2.1")
        session_make(self.owner, "U000001:web-1", named_device="web-1", ipaddress="192.0.2.2")
        session_make(self.owner, "any", device_id="web-1", ipaddress="192.0.2.3")
        session_make(self.owner, "new-1", named_device="web-1", ipaddress="192.0.2.4")  # is that of new-1
        session_make(self.owner, "web-1", ipaddress="192.0.2.5", connected=False, broker="other")
        session_make(self.stranger, "web-1", ipaddress="192.0.2.6", broker="third")
        html = self.text("/devices/web-1/")
        assert [number for number in range(1, 7) if f"from 192.0.2.{number}" in html] == [1, 2, 3]
        assert "192.0.2.4" in self.text("/devices/new-1/?fragment=now")

    def test_its_charts_are_asked_for_before_the_page_is_read_to_its_end(self) -> None:
        self.street.process([self.incoming("json/web-1", '{"cpu":{"idle":93.1},"load&1":0.4}')])
        for page in ("/devices/web-1/?range=6h", "/channels/0/?range=6h"):
            head = self.text(page).partition("</head>")[0]
            (address,) = re.findall(r'first-chart[^"]*\.js" data-url="([^"]+)" async', head)
            asked = json.loads(self.text(html.unescape(address)))
            assert {"cpu:idle", "load&1"} <= asked["series"].keys()
            assert asked["end"] - asked["start"] == 6 * 3600

    def test_nonsense_in_a_charts_address_is_no_error(self) -> None:
        for query in ("key=%00", "key=", "key=a&range=zzz", "key=a&from=x", "key=%22%5B*%5D"):
            self.text(f"/devices/web-1/chart.json?{query}")

    def test_its_chart_data_follow_the_range(self) -> None:
        self.send("json/web-1", '{"cpu":{"idle":93.1}}')
        data = self.client.get("/devices/web-1/chart.json?key=cpu:idle&range=15m").json()
        assert data["series"]["cpu:idle"]["avg"] == [93.1]
        assert round(data["end"] - data["start"]) == 900
        old = self.client.get(
            "/devices/web-1/chart.json?key=cpu:idle&from=2026-01-01 00:00&to=2026-01-02 00:00"
        )
        assert old.json()["times"] == []


class ChannelPageTest(ConsoleTestCase):
    def test_it_shows_streams_and_saves_labels_and_units(self) -> None:
        self.send("json/web-1", '{"cpu":{"idle":93.1}}')
        assert "cpu:idle" in self.text("/channels/0/")
        data = {"name": "Web", "retention_days": "30", "label:cpu:idle": "idle share", "unit:cpu:idle": "%"}
        assert "is saved" in self.post("/channels/0/edit/", data)
        stream = Stream.objects.get()
        assert (stream.label, stream.unit) == ("idle share", "%")
        self.servers.refresh_from_db()
        assert (self.servers.name, self.servers.retention_days) == ("Web", 30)

    def test_bad_values_change_nothing(self) -> None:
        self.post("/channels/0/edit/", {"name": "Web", "retention_days": "0"})
        self.servers.refresh_from_db()
        assert self.servers.name == "Servers"

    def test_a_channel_is_created_once_and_deleted(self) -> None:
        data = {"number": "3", "name": "Three", "retention_days": "90"}
        assert "is created" in self.post("/new-channel/", data)
        assert "exists already" in self.post("/new-channel/", data)
        self.post("/channels/3/delete/", {})
        self.text("/channels/3/", status=404)

    def test_one_tag_is_deleted_with_its_records(self) -> None:
        assert "Delete one tag" not in self.text("/channels/0/")
        for topic in ("json/web-1", "json/web-1/front", "json/web-1/back"):
            self.send(topic, '{"cpu":{"idle":93.1}}')
        assert "Delete one tag" in self.text("/channels/0/")
        for bad in ({}, {"tag": ""}, {"tag": "side"}, {"tag": "\0"}):
            assert "Choose one of" in self.post("/channels/0/tags/delete/", bad)
        html = self.post("/channels/0/tags/delete/", {"tag": "front"})
        assert "The tag front is deleted with its 1 record." in html
        assert set(tag_updates(self.servers)) == {"back"}
        assert {record.tag for record in newest_of_device(self.web1.pk, count=9)} == {None, "back"}


class RefusedPageTest(ConsoleTestCase):
    def test_it_shows_payload_and_reason_and_replays(self) -> None:
        self.send("json/new-1", '{"<i>":1}')
        self.send("json/web-1", b"\xff\x00")
        html = self.text("/refused/")
        assert "DEVICE_DISABLED" in html and "&lt;i&gt;" in html and "ff 00" in html
        device_update(self.new1, changes={"enabled": True, "channel": self.servers}, now=NOW)
        assert "1 are stored now" in self.post("/refused/decide/", {"action": "replay-all"})
        assert RefusedMessage.objects.count() == 1

    def test_replaying_all_keeps_to_the_filters(self) -> None:
        self.send("json/new-1", "1")
        self.send("json/new-1", "2")
        device_update(self.new1, changes={"enabled": True, "channel": self.servers}, now=NOW)
        self.post("/refused/decide/", {"action": "replay-all", "reason": "BAD_NUMBER"})
        self.post("/refused/decide/", {"action": "replay-all", "device": "web-1"})
        assert RefusedMessage.objects.count() == 2
        self.post("/refused/decide/", {"action": "replay-all", "device": "new-1"})
        assert RefusedMessage.objects.count() == 0

    def test_it_deletes_what_is_ticked_and_asks_for_a_tick(self) -> None:
        self.send("json/web-1", "{")
        assert "Tick at least one" in self.post("/refused/decide/", {"action": "delete"})
        row = RefusedMessage.objects.get()
        self.post("/refused/decide/", {"action": "delete", "message": [str(row.pk)]})
        assert not RefusedMessage.objects.exists()

    def test_nonsense_is_no_error(self) -> None:
        for query in ("?before=zzz", "?before=99999999999999999999", "?reason=<x>", "?reason=%00"):
            self.text("/refused/" + query)
        self.text("/refused/?device=unknown", status=404)
        self.post("/refused/decide/", {"action": "delete", "message": ["zzz", "99999999999999999999"]})

    def test_refused_connections_are_for_staff_where_several_accounts_share_the_broker(self) -> None:
        RefusedSignIn.objects.create(client_id="", address="192.0.2.7", reason="not authorised", at=NOW)
        assert "192.0.2.7" not in self.text("/refused/")
        self.alice.is_staff = True
        self.alice.save()
        assert "192.0.2.7" in self.text("/refused/")

    def test_payloads_are_shown_as_text_or_hexadecimal(self) -> None:
        assert payload_text(b'{"a": 1}') == '{"a": 1}'
        assert payload_text(b"\x00\x01") == "00 01"
        assert payload_text("\u202eevil".encode()) == "e2 80 ae 65 76 69 6c"
        assert payload_text(b"x" * 1000).endswith("…")
        assert payload_text(b"x" + "\u3042".encode() * 400).startswith("x\u3042")
        assert payload_text(b"x\xff" * 400).startswith("78 ff")


def session_make(account: Account, client_id: str, **more: object) -> Session:
    known: dict[str, object] = {
        "broker": "test",
        "ipaddress": "192.0.2.9",
        "clean_sess": True,
        "proto_ver": 4,
        "keepalive": 60,
        "connected_at": timezone.now() - timedelta(hours=3),
        "connected": True,
    }
    return Session.objects.create(account=account, client_id=client_id, **(known | more))


class CommandsTest(ConsoleTestCase):
    """The broker is played by `heard`: whether it has a subscriber, or the error it is."""

    def setUp(self) -> None:
        super().setUp()
        self.heard: bool | ServwatchError = True
        self.sent: list[Message] = []
        self.enterContext(patch("devices.commands.sender.send", self.take))

    def take(self, message: Message) -> bool:
        if isinstance(self.heard, ServwatchError):
            raise self.heard
        self.sent.append(message)
        return self.heard

    def command(self, payload: str, *, qos: str = "1", keep_s: str = "0") -> str:
        return self.post("/devices/web-1/commands/", {"payload": payload, "qos": qos, "keep_s": keep_s})

    def test_it_sends_and_lists_what_was_sent(self) -> None:
        html = self.command('{"led":\r\n "<on>"}')
        assert "the broker has it for the device" in html
        assert "&lt;on&gt;" in html and "status sent" in html and "not kept" in html
        (message,) = self.sent
        assert (message.payload, message.qos) == (b'{"led":\n "<on>"}', 1)
        assert "does not say whether" in self.command("x", qos="0")

    def test_it_says_when_nobody_was_listening(self) -> None:
        self.heard = False
        html = self.command("reboot")
        assert "Nobody was listening" in html and "status expired" in html

    def test_it_keeps_a_command_for_a_device_that_is_away(self) -> None:
        html = self.command("reboot", keep_s="3600")
        assert "The command is kept until" in html and "status queued" in html
        assert self.sent == []
        Command.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        assert "status expired" in self.text("/devices/web-1/?fragment=command-list")

    def test_what_the_broker_does_not_take_stays_in_the_form(self) -> None:
        self.heard = ServwatchError(Code.BROKER_UNAVAILABLE, "The broker is away.")
        html = self.command("reboot now")
        assert "The broker is away." in html and ">\nreboot now</textarea>" in html
        assert not Command.objects.exists()
        answer = self.client.get("/devices/web-1/commands/?range=6h")
        assert answer["Location"] == "/devices/web-1/?range=6h"

    def test_bad_input_says_so_and_sends_nothing(self) -> None:
        html = self.command("")
        assert "errorlist" in html and "autofocus" in html
        assert "errorlist" in self.command("x", qos="2")
        assert "errorlist" in self.command("x", keep_s="77")
        assert "larger than" in self.command("x" * (256 * 1024 + 1))
        assert self.sent == [] and not Command.objects.exists()

    def test_a_device_that_has_confirmed_is_shown_as_such(self) -> None:
        self.command("reboot")
        Command.objects.update(state="delivered", delivered_at=timezone.now())
        assert "status delivered" in self.text("/devices/web-1/")

    def test_it_lists_the_newest_twenty_in_as_many_queries_as_one(self) -> None:
        self.command("first")
        self.text("/devices/web-1/")
        few = self.queries("/devices/web-1/")
        for number in range(20):
            self.command(f"later-{number}")
        assert self.queries("/devices/web-1/") == few
        assert ">first<" not in self.text("/devices/web-1/") and ">later-0<" in self.text("/devices/web-1/")

    def test_a_strangers_device_gets_no_command(self) -> None:
        self.client.force_login(self.mallory, backend="allauth.account.auth_backends.AuthenticationBackend")
        answer = self.client.post("/devices/web-1/commands/", {"payload": "x", "qos": "1", "keep_s": "0"})
        assert answer.status_code == 404 and self.sent == []


class SessionsPageTest(ConsoleTestCase):
    def test_it_says_so_when_nobody_is_connected(self) -> None:
        session_make(self.stranger, "theirs")
        session_make(self.owner, "gone", connected=False)
        html = self.text("/sessions/")
        assert "Nobody is connected" in html and "theirs" not in html and "gone" not in html

    def test_it_shows_each_live_session_with_its_device(self) -> None:
        session_make(self.owner, "<c>", device_id="web-1", proto_ver=5, clean_sess=False, keepalive=0)
        session_make(self.owner, "other", proto_ver=3)
        html = self.text("/sessions/")
        assert "&lt;c&gt;" in html and 'href="/devices/web-1/"' in html and "2 sessions" in html
        assert ">durable<" in html and ">clean<" in html and ">off<" in html and ">60 s<" in html
        assert ">5<" in html and ">3.1<" in html and "3 h ago" in html

    def test_it_has_pages_that_go_on_after_any_client_id(self) -> None:
        for number in range(199):
            session_make(self.owner, f"c-{number:03d}")
        session_make(self.owner, "d &?#/\u3042")
        session_make(self.owner, "e-last")
        html = self.text("/sessions/")
        (link,) = re.findall(r'href="(\?after=[^"]+)"', html)
        assert "e-last" not in html
        rest = self.text("/sessions/" + link)
        assert "e-last" in rest and "c-198" not in rest and "201 sessions" in rest
        assert "No session comes after" in self.text("/sessions/?after=zzzz")
        self.text("/sessions/?after=%00")

    def test_it_takes_the_same_queries_for_one_and_for_sixty(self) -> None:
        session_make(self.owner, "web-1")
        self.text("/sessions/")
        few = self.queries("/sessions/")
        for number in range(60):
            session_make(self.owner, f"c-{number}")
        assert self.queries("/sessions/") == few


class AccountPageTest(ConsoleTestCase):
    def test_it_saves_settings_and_says_what_does_not_fit(self) -> None:
        data = {
            "locale": "Europe/Berlin",
            "new_devices": "approve",
            "default_channel": "7",
            "max_devices": "5",
        }
        assert "errorlist" in self.post("/account/", data)
        data |= {"api_per_second": "20", "connector_per_second": "0"}
        assert "is saved" in self.post("/account/", data)
        self.owner.refresh_from_db()
        assert (self.owner.api_per_second, self.owner.connector_per_second) == (20, 0)
        for bad in ("-1", "99999", "many"):
            assert "errorlist" in self.post("/account/", {**data, "api_per_second": bad})
        assert (self.owner.locale, self.owner.new_devices, self.owner.default_channel) == (
            "Europe/Berlin",
            "approve",
            7,
        )
        assert "is not a time zone" in self.post("/account/", {**data, "locale": "Mars/Olympus"})

    def test_the_device_token_is_shown_on_demand_only_and_can_be_replaced(self) -> None:
        assert self.device_token not in self.text("/account/")
        assert self.device_token in self.post("/account/device-token/", {"action": "show"})
        assert "the token before it" not in self.post("/account/device-token/", {"action": "replace"})
        assert device_token_reveal(self.owner) != self.device_token

    def test_a_replaced_device_token_may_count_a_little_longer_over_http(self) -> None:
        self.post("/account/device-token/", {"action": "replace", "overlap_s": "86400"})
        until = device_token_now(self.owner).previous_until
        assert until is not None and until > timezone.now() + timedelta(hours=23)
        shown = f"{until.astimezone(self.owner.zone):%Y-%m-%d %H:%M}"
        assert f"the token before it counts, too, until {shown}" in self.text("/account/")
        now = device_token_reveal(self.owner)
        assert "errorlist" in self.post("/account/device-token/", {"action": "replace", "overlap_s": "5"})
        assert device_token_reveal(self.owner) == now

    def test_an_api_token_is_rotated_at_once_or_with_an_overlap(self) -> None:
        old = ApiToken.objects.get(account=self.owner, name="reader")
        assert "Choose when" in self.post(f"/account/api-tokens/{old.pk}/rotate/", {"overlap_s": "7"})
        html = self.post(f"/account/api-tokens/{old.pk}/rotate/", {"overlap_s": "3600"})
        fresh = ApiToken.objects.exclude(pk=old.pk).get(account=self.owner, name="reader")
        (secret,) = re.findall(r'<code class="secret">([^<]+)</code>', html)
        assert api_token_find(secret, now=timezone.now()) == fresh and fresh.scopes == old.scopes
        assert secret not in self.text("/account/")
        assert api_token_find(self.read_token, now=timezone.now()) == old
        self.post(f"/account/api-tokens/{old.pk}/rotate/", {"overlap_s": "0"})
        assert api_token_find(self.read_token, now=timezone.now()) is None
        assert self.client.post(f"/account/api-tokens/{old.pk}/rotate/").status_code == 404

    def test_a_strangers_api_token_cannot_be_rotated(self) -> None:
        strange = ApiToken.objects.get(account=self.stranger)
        assert self.client.post(f"/account/api-tokens/{strange.pk}/rotate/").status_code == 404
        assert ApiToken.objects.filter(account=self.stranger).count() == 1

    def test_an_api_token_is_shown_once_and_can_be_revoked(self) -> None:
        html = self.post("/account/api-tokens/", {"name": "ci", "scopes": ["read"]})
        token = ApiToken.objects.get(name="ci")
        assert f">{token.hint}" in html
        self.post(f"/account/api-tokens/{token.pk}/revoke/", {})
        token.refresh_from_db()
        assert token.revoked_at is not None
        self.client.force_login(self.mallory, backend="allauth.account.auth_backends.AuthenticationBackend")
        assert self.client.post(f"/account/api-tokens/{token.pk}/revoke/").status_code == 404


class SignInTest(ConsoleTestCase):
    def test_a_link_signs_in_once_and_leads_to_a_clean_address(self) -> None:
        self.client.logout()
        path = "/" + sign_in_url(self.alice).split("/", 3)[3]
        answer = self.client.get(path)
        assert (answer.status_code, answer["Location"]) == (302, "/")
        self.text("/")
        self.client.logout()
        assert "has been used" in self.text(path, status=410)

    def test_the_agent_can_be_fetched_without_a_sign_in(self) -> None:
        self.client.logout()
        assert "def main" in self.text("/agent/servwatch_agent.py")

    def test_a_made_up_link_signs_nobody_in(self) -> None:
        for uid, token in (("MQ", "x-y"), ("%", ""), ("9" * 300, "x"), ("-", "-")):
            assert user_from_link(uid, token) is None


class RangesTest(ConsoleTestCase):
    def test_lengths_times_and_nonsense(self) -> None:
        now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        zone = self.owner.zone
        six = range_parse(length="6h", start="", end="", zone=zone, now=now)
        assert (six.end - six.start).total_seconds() == 6 * 3600
        fixed = range_parse(length="", start="2026-11-23 09:00", end="2026-11-23 10:00", zone=zone, now=now)
        assert fixed.start == datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
        for length, start, end in (
            ("soon", "", ""),
            ("0h", "", ""),
            ("99999w", "", ""),
            ("", "x", ""),
            ("", "", "1"),
        ):
            found = range_parse(length=length, start=start, end=end, zone=zone, now=now)
            assert found.problem and found.text == "1h"
        assert json.dumps(six.query) == '"range=6h"'
