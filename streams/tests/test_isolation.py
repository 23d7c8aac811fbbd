"""A second account can neither read, guess, subscribe to nor publish into the first one's anything."""

import json
import re
from datetime import timedelta
from typing import Any

from django.test import Client, override_settings
from django.utils import timezone

from channels.models import Channel, Latest
from devices.command_sender import sender
from devices.models import Command, Device
from devices.services import device_update
from events.models import Alert, Comment, Delivery, Maintenance, Notifier, Rule, SigningSecret
from events.notifiers_store import notifier_create, notifier_test
from events.signing import signing_secret_now
from events.tests.alerts import alert_add
from servwatch_site import urls_v2
from servwatch_site.docs import docs_page, openapi_json
from servwatch_site.tests.api import ApiTestCase, read
from servwatch_site.tests.broker import MqttClient
from servwatch_site.tests.listening import ListeningTestCase
from servwatch_site.tests.waiting import wait_until
from streams.intake import intake
from streams.tests.test_pipeline import records
from tokens.models import Account, ApiToken, DeviceToken
from tokens.selectors import device_token_reveal
from tokens.services import account_update

METHODS = ("GET", "POST", "PUT", "DELETE")
SECRET = "alice-only-4711"
TOKEN_FIELDS = (
    "pk",
    "name",
    "digest",
    "scopes",
    "expires_at",
    "revoked_at",
)  # not last_used_at: we use it, too


class IsolationTest(ListeningTestCase):
    call: Any = ApiTestCase.call

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(override_settings(MQTT_URL=f"mqtt://127.0.0.1:{self.broker.port}"))
        self.addCleanup(sender.close)
        self.addCleanup(intake().close)
        account_update(self.stranger, new_devices="open", default_channel=0)
        their_token = device_token_reveal(self.stranger)
        self.theirs = MqttClient(self.broker.port, user=self.stranger.user_id, password=their_token)
        self.their_device_token = their_token
        device_update(self.web1, changes={"description": SECRET, "channel": self.servers}, now=timezone.now())
        with self.device(client_id="alice-client") as device:
            device.deliver(f"{self.device_token}/json/web-1/{SECRET}", json.dumps({SECRET: SECRET}))
        wait_until(lambda: len(records()) == 1, what="the owner's record")
        self.command = Command.objects.create(
            device=self.web1,
            payload=SECRET.encode(),
            qos=1,
            state=Command.State.QUEUED,
            created_at=timezone.now(),
            expires_at=timezone.now() + timedelta(hours=1),
        )
        self.alert = alert_add(self.owner, self.servers, self.web1, key=SECRET, value=SECRET)
        self.notifier = notifier_create(
            self.owner, kind="webhook", name=SECRET, settings={"url": f"https://x.example.org/{SECRET}"}
        )
        self.delivery = notifier_test(self.notifier, now=timezone.now())
        signing_secret_now(self.owner, now=timezone.now())
        now = timezone.now()
        self.window = Maintenance.objects.create(
            account=self.owner, name=SECRET, starts_at=now, ends_at=now + timedelta(hours=1)
        )
        self.token = ApiToken.objects.get(account=self.owner, name="test")

    def paths(self) -> list[str]:
        """Every route below /v2, with the owner's ids."""
        samples = {
            "device_id": "web-1",
            "channel_id": "0",
            "token_id": str(self.token.pk),
            "command_id": str(self.command.pk),
            "event_id": str(self.alert.rule_id),
            "alert_id": str(self.alert.pk),
            "notifier_id": str(self.notifier.pk),
            "delivery_id": str(self.delivery.pk),
            "maintenance_id": str(self.window.pk),
        }
        found = []
        for route in urls_v2.urlpatterns:
            if route.callback in (docs_page, openapi_json):
                continue
            text = str(route.pattern).removeprefix("^").removesuffix(r"/?\Z")
            if text:
                found.append("/v2/" + re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda match: samples[match[1]], text))
        return found

    def owners_things(self) -> list[Any]:
        """Everything of the owner that somebody could change."""
        return [
            list(Account.objects.filter(pk=self.owner.pk).values()),
            list(Device.objects.filter(account=self.owner).order_by("pk").values()),
            list(Channel.objects.filter(account=self.owner).order_by("pk").values()),
            list(DeviceToken.objects.filter(account=self.owner).values()),
            list(ApiToken.objects.filter(account=self.owner).order_by("pk").values(*TOKEN_FIELDS)),
            list(Command.objects.filter(device__account=self.owner).values()),
            list(Rule.objects.filter(account=self.owner).values()),
            list(Alert.objects.filter(account=self.owner).values()),
            list(Comment.objects.filter(alert__account=self.owner).values()),
            list(Notifier.objects.filter(account=self.owner).values()),
            list(Delivery.objects.filter(account=self.owner).values()),
            list(SigningSecret.objects.filter(account=self.owner).values()),
            list(Maintenance.objects.filter(account=self.owner).values()),
            list(Latest.objects.filter(channel_key=self.servers.pk).values()),
            [row for row in records() if row[1] == self.servers.pk],
        ]

    def test_a_stranger_walks_every_route_and_topic_in_vain(self) -> None:
        before = self.owners_things()
        self.walk_the_routes()
        self.walk_the_connector()
        self.walk_the_topics()
        assert self.owners_things() == before

    def walk_the_routes(self) -> None:
        """With the owner's ids and a stranger's token; ids the stranger has too are the stranger's own."""
        assert len(self.paths()) >= 12
        bodies: tuple[dict[str, Any], ...] = (
            {},
            {"value": 1},
            {"payload": "x"},
            {"name": "x"},
            {"mapped_ch": 0, "description": "x"},
            {"acknowledged": True, "snooze_s": 60, "comment": "x"},
        )
        for path in self.paths():
            exists_for_owner = self.call("GET", path, X_ENDTIME="last").status_code in (200, 405)
            assert exists_for_owner, path
            for method in METHODS:
                for body in bodies if method in ("POST", "PUT") else ({},):
                    answer = self.call(
                        method,
                        path,
                        body,
                        token=self.strange_token,
                        X_ENDTIME="2030-01-01 00:00",
                        X_STARTTIME="2000-01-01 00:00",
                    )
                    text = read(answer).decode()
                    assert SECRET not in text and self.device_token not in text, (method, path)
                    assert self.owner.user_id not in text and "alice" not in text.lower(), (method, path)
            answer = self.call("GET", path + "?q=alice&device=web-1&deleted=true", token=self.strange_token)
            assert SECRET not in read(answer).decode()
        # What names an object of the owner's answers like what does not exist at all.
        for path, code in (
            ("/v2/device/new-1", "NO_DEVICE"),
            ("/v2/channel/7", "NO_CHANNEL"),
            ("/v2/stream/7", "NO_CHANNEL"),
            (f"/v2/event/{self.alert.rule_id}", "NO_EVENT"),
            (f"/v2/alert/{self.alert.pk}", "NOT_FOUND"),
            (f"/v2/notifier/{self.notifier.pk}", "NOT_FOUND"),
            (f"/v2/delivery/{self.delivery.pk}", "NOT_FOUND"),
            (f"/v2/maintenance/{self.window.pk}", "NOT_FOUND"),
        ):
            mine = self.call("GET", path, token=self.strange_token, X_ENDTIME="last")
            none = self.call("GET", path[:-1] + "99", token=self.strange_token, X_ENDTIME="last")
            assert (mine.status_code, none.status_code) == (404, 404)
            assert json.loads(mine.content)["error"] == json.loads(none.content)["error"] == code

    def walk_the_connector(self) -> None:
        """The stranger's device token with the owner's device id reaches a device of the stranger's own."""
        for path in ("/post_v2/", "/post_v1/", "/post/"):
            for token in (self.their_device_token, self.strange_token, self.api_token, ""):
                Client().generic(
                    "POST",
                    path,
                    b"v=1" if path != "/post_v2/" else b"1",
                    headers={"X-DEVICETOKEN": token, "X-DEVICEID": "web-1"},
                )

    def walk_the_topics(self) -> None:
        token = self.device_token
        heard = [
            f"{token}/#",
            f"{token}/+/web-1",
            "#",
            "+/#",
            "+/+",
            "+/json/#",
            "+/web-1/subscribe",
            "$SYS/#",
        ]
        heard += [f"$share/any/{token}/#", "$share/servwatch/+/json/#", "$SYS/broker/log/#"]
        sent = [f"{token}/json/web-1", f"{token}/binary/web-1", f"{token}/state/web-1", f"{token}/web-1"]
        sent += [f"{token}/web-1/subscribe", f"{token}/ack/web-1", f"{token}/json/fresh", "$SYS/broker/log/N"]
        with self.theirs, self.device(client_id="web-1") as device:
            for topic in heard:
                self.theirs.subscribe(topic)
            device.subscribe(f"{token}/web-1/subscribe")
            for topic in sent:
                payload = str(self.command.pk) if "/ack/" in topic else "v=1"
                self.theirs.deliver(topic, payload, qos=1)
            # What comes after these on the same connections has come, so nothing of them is still on its way.
            device.deliver(f"{token}/json/new-1", "1")
            self.theirs.deliver(f"{self.their_device_token}/json/mark", '{"n": 1}')
            wait_until(
                lambda: Device.objects.filter(account=self.stranger, device_id="mark").exists(),
                what="the mark",
            )
            own = {topic for topic, _payload in self.theirs.received}
            assert {topic for topic in own if not topic.startswith(self.their_device_token)} == set()
            assert device.received == []
