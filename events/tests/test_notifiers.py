"""Every kind of notifier against a real receiver: address, headers and body of what arrives."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import JSONField, Value
from django.test import override_settings

from events.models import Notifier
from events.notifiers import KINDS, kind_of
from events.notifiers.shape import SettingsError
from events.notifiers_store import notifier_test
from events.services import alert_acknowledge
from events.tests.outbox import OutboxTestCase
from events.tests.receiver import MailServer, Received, Receiver
from servwatch_site.tests.cast import NOW

TOKEN = "1234567:AAF-secret_of_the_bot"


class KindTest(OutboxTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.receiver = self.enterContext(Receiver())
        self.enterContext(override_settings(BASE_URL="https://watch.example.org"))

    def sent(self, notifier: Notifier, *kinds: str, **fields: Any) -> Received:
        """What the receiver got last, of an alert with these notifications."""
        self.alert = self.fire(self.rule(notifier, description="A <disk> & fills"), *kinds, **fields)
        assert self.outgoing.send() == len(kinds or ("firing",))
        return self.receiver.received[-1]

    def link(self) -> str:
        return f"https://watch.example.org/alerts/{self.alert.pk}/"

    def test_a_webhook_has_the_payload_of_the_contract(self) -> None:
        notifier = self.notifier(settings={"url": f"{self.receiver.url}/hook/x?y=1"})
        got = self.sent(notifier, tag="rack")
        assert (got.method, got.path) == ("POST", "/hook/x?y=1")
        assert got.headers["Content-Type"] == "application/json; charset=utf-8"
        assert got.json() == {
            "event_id": self.alert.rule_id,
            "description": "A <disk> & fills",
            "mapped_ch": 0,
            "channel_name": "Servers",
            "source": "cpu",
            "status": "cpu was consistent with the threshold. Current:95.5 > Threshold:90",
            "current": 95.5,
            "threshold": "90",
            "device_id": "web-1",
            "tag": "rack",
            "severity": "warning",
            "state": "firing",
            "at": "2026-11-23T18:30:00.000+09:00",
            "alert_id": self.alert.pk,
            "kind": "firing",
        }

    def test_a_webhook_says_that_it_is_resolved(self) -> None:
        notifier = self.notifier(settings={"url": self.receiver.url})
        resolved = NOW + timedelta(seconds=61)
        got = self.sent(notifier, "firing", "resolved", resolved_at=resolved, last_value=12).json()
        assert (got["state"], got["kind"], got["current"]) == ("resolved", "resolved", 12)
        assert got["at"] == "2026-11-23T18:31:01.000+09:00"
        assert got["status"].startswith("cpu is no longer consistent with the threshold. Current:12 ")

    def test_a_silent_device_has_no_value(self) -> None:
        notifier = self.notifier(settings={"url": self.receiver.url})
        null = Value(None, JSONField())
        got = self.sent(notifier, cause="silence", key="", value=null, last_value=null, operator="").json()
        assert (got["source"], got["current"], got["status"]) == ("", None, "web-1 has been silent.")

    def test_slack_gets_an_attachment_whose_text_calls_nobody(self) -> None:
        notifier = self.notifier("slack", settings={"url": f"{self.receiver.url}/services/T0/B0/x"})
        got = self.sent(notifier)
        (attachment,) = got.json()["attachments"]
        assert got.path == "/services/T0/B0/x"
        assert attachment["title"] == "Warning: A &lt;disk&gt; &amp; fills (web-1)"
        assert attachment["title_link"] == self.link()
        assert attachment["text"] == "cpu: 95.5 (&gt; 90) · Servers · 2026-11-23 18:30:00 JST"
        assert "channel" not in got.json()

    def test_teams_gets_an_adaptive_card(self) -> None:
        notifier = self.notifier("teams", settings={"url": f"{self.receiver.url}/workflows/x"})
        (attachment,) = self.sent(notifier, severity="critical").json()["attachments"]
        card = attachment["content"]
        assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert (card["type"], card["body"][0]["style"]) == ("AdaptiveCard", "attention")
        assert card["body"][0]["items"][0]["text"] == "Critical: A <disk> & fills (web-1)"
        assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open", "url": self.link()}]

    def test_telegram_is_asked_to_send_a_message(self) -> None:
        settings = {"bot_token": TOKEN, "chat_id": -100123, "base_url": self.receiver.url}
        got = self.sent(self.notifier("telegram", settings=settings))
        assert got.path == f"/bot{TOKEN}/sendMessage"
        assert got.json()["chat_id"] == "-100123"
        assert got.json()["text"].splitlines()[0] == "Warning: A <disk> & fills (web-1)"
        assert got.json()["text"].splitlines()[-1] == self.link()

    def test_ntfy_gets_topic_priority_and_token(self) -> None:
        settings = {"topic_url": f"{self.receiver.url}/alerts-4711", "token": "tk_0123456789"}
        got = self.sent(self.notifier("ntfy", settings=settings), severity="critical")
        body = got.json()
        assert (got.path, got.headers["Authorization"]) == ("/", "Bearer tk_0123456789")
        assert (body["topic"], body["priority"], body["click"]) == ("alerts-4711", 5, self.link())
        assert body["title"] == "Critical: A <disk> & fills (web-1)"

    def test_pagerduty_is_triggered_and_resolved_under_one_key(self) -> None:
        settings = {"routing_key": "R0123456789abcdef", "base_url": self.receiver.url}
        self.sent(self.notifier("pagerduty", settings=settings), "firing", "resolved", resolved_at=NOW)
        first, last = (got.json() for got in self.receiver.received)
        assert self.receiver.received[0].path == "/v2/enqueue"
        assert first["routing_key"] == "R0123456789abcdef"
        assert (first["event_action"], last["event_action"]) == ("trigger", "resolve")
        assert first["dedup_key"] == last["dedup_key"] == f"servwatch-alert-{self.alert.pk}"
        assert first["payload"]["summary"] == "Warning: A <disk> & fills (web-1)"
        assert (first["payload"]["source"], first["payload"]["severity"]) == ("web-1", "warning")

    def test_pagerduty_hears_that_somebody_looks_after_it_and_a_webhook_does_not(self) -> None:
        settings = {"routing_key": "R0123456789abcdef", "base_url": self.receiver.url}
        pager = self.notifier("pagerduty", settings=settings)
        hook = self.notifier(settings={"url": f"{self.receiver.url}/hook"})
        alert = self.fire(self.rule(pager, hook))
        self.outgoing.send()
        alert_acknowledge(alert, by="alice", now=NOW)
        alert_acknowledge(alert, by="alice", now=NOW)
        assert self.outgoing.send() == 1
        got = self.receiver.received[-1].json()
        assert (got["event_action"], got["dedup_key"]) == ("acknowledge", f"servwatch-alert-{alert.pk}")
        assert "payload" not in got

    def test_a_mail_has_text_and_html_with_links_to_the_alert(self) -> None:
        server = self.enterContext(MailServer())
        notifier = self.notifier("email", settings={"to": "ops@example.org, boss@example.org"})
        with override_settings(**server.settings(), DEFAULT_FROM_EMAIL="Watch <watch@example.org>"):
            self.alert = self.fire(self.rule(notifier, description="A <disk> & fills"))
            assert self.outgoing.send() == 1
        (mail,) = server.mails
        plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
        assert plain is not None and html is not None
        assert mail["Subject"] == "Warning: A <disk> & fills (web-1)"
        assert server.recipients == [["ops@example.org", "boss@example.org"]]
        assert self.link() in plain.get_content() and "A <disk> & fills" in plain.get_content()
        assert f'href="{self.link()}#acknowledge"' in html.get_content()
        assert "A &lt;disk&gt; &amp; fills" in html.get_content()
        assert mail["Message-ID"] == f"<{notifier.deliveries.get().public_id}@example.org>"

    def test_a_mail_server_that_refuses_is_in_the_log(self) -> None:
        server = self.enterContext(MailServer(refuse="550 no such user"))
        notifier = self.notifier("email", settings={"to": ["ops@example.org"]})
        with override_settings(**server.settings()):
            self.fire(self.rule(notifier))
            self.outgoing.send()
        attempt = notifier.deliveries.get().attempts.get()
        assert (attempt.ok, attempt.status_code) == (False, 550)
        notifier.refresh_from_db()
        assert notifier.failures == 0

    def test_people_read_their_language(self) -> None:
        settings = {"url": self.receiver.url, "language": "ja"}
        (attachment,) = self.sent(self.notifier("slack", settings=settings)).json()["attachments"]
        assert attachment["title"].startswith("警告: ")

    def test_every_kind_can_be_tested_by_a_message_of_its_own(self) -> None:
        server = self.enterContext(MailServer())
        for kind, settings in SETTINGS.items():
            given = {name: value.replace("URL", self.receiver.url) for name, value in settings.items()}
            notifier = self.notifier(kind, settings=given)
            notifier_test(notifier, now=NOW)
        with override_settings(**server.settings()):
            assert self.outgoing.send() == len(KINDS)
        assert self.statuses() == ["delivered"] * len(KINDS)
        assert len(server.mails) == 1 and len(self.receiver.received) == len(KINDS) - 1


SETTINGS: dict[str, dict[str, str]] = {
    "email": {"to": "ops@example.org"},
    "webhook": {"url": "URL/hook-secret-4711"},
    "slack": {"url": "URL/hook-secret-4711"},
    "teams": {"url": "URL/hook-secret-4711"},
    "telegram": {"bot_token": TOKEN, "chat_id": "1", "base_url": "URL"},
    "ntfy": {"topic_url": "URL/topic-secret-4711", "token": "tk_secret-4711"},
    "pagerduty": {"routing_key": "key-secret-4711", "base_url": "URL"},
}


def test_every_kind_of_the_model_is_there() -> None:
    assert set(KINDS) == set(Notifier.Kind.values) == set(SETTINGS)
    assert all(name == kind.name for name, kind in KINDS.items())


def test_an_unknown_kind_is_told_loudly() -> None:
    with pytest.raises(LookupError, match="fax"):
        kind_of("fax")


def test_settings_show_no_secret() -> None:
    for name, settings in SETTINGS.items():
        kind = kind_of(name)
        cleaned = kind.clean(
            {key: text.replace("URL", "https://x.example.org") for key, text in settings.items()}
        )
        text = str(kind.shown(cleaned))
        for secret in ("secret", "4711/", "AAF", "topic-", "hook-"):
            assert secret not in text.replace("_bot", ""), (name, text)


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        ("webhook", {}, "url"),
        ("webhook", {"url": "ftp://example.org"}, "url"),
        ("webhook", {"url": "https://"}, "url"),
        ("webhook", {"url": "https://x.example.org/\nHost: y"}, "url"),
        ("webhook", {"url": 5}, "url"),
        ("webhook", {"url": "https://x.example.org", "colour": "red"}, "colour"),
        ("email", {"to": []}, "to"),
        ("email", {"to": "nobody"}, "to"),
        ("email", {"to": [1]}, "to"),
        ("email", {"to": "a@example.org\r\nBcc: b@example.org"}, "to"),
        ("slack", {"url": "https://x.example.org", "language": "xx"}, "language"),
        ("telegram", {"bot_token": "a/../b", "chat_id": "1"}, "bot_token"),
        ("telegram", {"bot_token": TOKEN, "chat_id": True}, "chat_id"),
        ("ntfy", {"topic_url": "https://ntfy.sh/"}, "topic_url"),
        ("ntfy", {"topic_url": "https://ntfy.sh/x", "priority": "9"}, "priority"),
        ("ntfy", {"topic_url": "https://ntfy.sh/x", "token": "a b"}, "token"),
        ("pagerduty", {"routing_key": ""}, "routing_key"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(kind: str, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        kind_of(kind).clean(settings)
    assert set(refusal.value.fields) == {field}


def test_what_is_sent_as_it_was_shown_stays() -> None:
    kind = kind_of("ntfy")
    old = kind.clean({"topic_url": "https://ntfy.sh/topic-secret-4711", "token": "tk_secret-4711"})
    assert kind.clean(kind.shown(old), old=old) == old
    assert kind.clean({"token": "", "priority": "4"}, old=old) == {**old, "token": "", "priority": "4"}
