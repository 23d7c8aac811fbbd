"""Pages of alerts, events, notifiers, deliveries and maintenance: for the owner, a stranger, and without scripts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from django.db.models import JSONField, Value
from django.utils import timezone

from console.lengths import duration_words, length_split, length_words
from console.rule_words import rule_words
from console.snoozes import snooze_end
from console.tests.test_pages import ConsoleTestCase
from devices.services import device_update
from events.models import (
    Alert,
    Attempt,
    Comment,
    Delivery,
    DeliveryItem,
    Maintenance,
    Notification,
    Notifier,
    Rule,
)
from events.notifiers_store import notifier_create
from events.services import alert_comment, rule_create
from events.tests.alerts import alert_add
from servwatch_site.tests.cast import NOW
from streams.backtest import Backtest, backtest

PAGES = (
    "/alerts/",
    "/alerts/?state=all",
    "/alerts/?fragment=alerts",
    "/alerts/?fragment=open-alerts",
    "/events/",
    "/events/new/",
    "/events/keys/",
    "/notifiers/",
    "/notifiers/new/webhook/",
    "/notifiers/new/email/",
    "/notifiers/signing-secret/",
    "/deliveries/",
    "/maintenance/",
)


class EventPagesTestCase(ConsoleTestCase):
    def rule(self, **more: Any) -> Rule:
        changes = {"channel": self.servers, "source": "cpu:total", "operator": ">", "threshold": "90"}
        return rule_create(self.owner, changes=changes | more)

    def alert(self, **more: Any) -> Alert:
        """An open one of web-1 that fired ten minutes ago."""
        at = timezone.now() - timedelta(minutes=10)
        given: dict[str, Any] = {"key": "cpu:total", "fired_at": at, "since": at, "last_at": at}
        return alert_add(self.owner, self.servers, self.web1, **given | more)

    def webhook(self) -> Notifier:
        settings = {"url": "https://ops.example.org/hooks/very-secret-path-4711"}
        return notifier_create(self.owner, kind="webhook", settings=settings, name="Operations")

    def delivery(self, alert: Alert, notifier: Notifier, **more: Any) -> Delivery:
        """One with a failed and a good attempt."""
        kinds = Notification.Kind
        told = Notification.objects.create(alert=alert, kind=kinds.FIRING, settled_at=NOW, outcome="sent")
        sent = Delivery.objects.create(
            account=self.owner, notifier=notifier, rule=alert.rule, expires_at=NOW, attempt_count=2, **more
        )
        DeliveryItem.objects.create(delivery=sent, notification=told, alert=alert)
        Attempt.objects.create(delivery=sent, at=NOW, ok=False, latency_ms=31, status_code=503, answer="busy")
        Attempt.objects.create(delivery=sent, at=NOW, ok=True, latency_ms=17, status_code=204)
        return sent


class EveryEventPageTest(EventPagesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.found = self.alert()
        self.sent = self.delivery(self.found, self.webhook(), status="delivered")
        self.window = Maintenance.objects.create(
            account=self.owner, name="Patch day", starts_at=NOW, ends_at=NOW + timedelta(days=3650)
        )
        self.own = (
            f"/alerts/{self.found.pk}/",
            f"/alerts/{self.found.pk}/?fragment=alert",
            f"/alerts/{self.found.pk}/chart.json?key=cpu:total",
            f"/events/{self.found.rule_id}/",
            f"/notifiers/{self.sent.notifier_id}/",
            f"/deliveries/{self.sent.pk}/",
            f"/maintenance/{self.window.pk}/",
        )

    def test_every_page_opens(self) -> None:
        for path in (*PAGES, *self.own):
            self.text(path)

    def test_every_page_opens_in_japanese(self) -> None:
        self.client.cookies["django_language"] = "ja"
        for path in (*PAGES, *self.own):
            self.text(path)
        html = self.text("/alerts/")
        assert "アラート" in html and "確認" in html

    def test_every_page_asks_for_a_sign_in_and_leads_back_to_where_a_mail_led(self) -> None:
        self.client.logout()
        for path in (*PAGES, *self.own):
            assert self.client.get(path).status_code == 302, path
        self.alice.set_password("a long and winding password")
        self.alice.save()
        page = f"/alerts/{self.found.pk}/"
        login = self.client.get(page)["Location"]
        assert f"next={page}" in login
        answer = self.client.post(
            login, {"login": "alice@example.org", "password": "a long and winding password", "next": page}
        )
        assert (answer.status_code, answer["Location"]) == (302, page)

    def test_a_strangers_pages_do_not_exist(self) -> None:
        self.client.force_login(self.mallory, backend="allauth.account.auth_backends.AuthenticationBackend")
        for path in self.own:
            self.text(path, status=404)
        for path in (
            f"/alerts/{self.found.pk}/act/",
            f"/events/{self.found.rule_id}/switch/",
            f"/events/{self.found.rule_id}/delete/",
            f"/notifiers/{self.sent.notifier_id}/test/",
            f"/notifiers/{self.sent.notifier_id}/delete/",
            f"/deliveries/{self.sent.pk}/resend/",
            f"/maintenance/{self.window.pk}/",
            f"/maintenance/{self.window.pk}/end/",
            f"/maintenance/{self.window.pk}/delete/",
        ):
            assert self.client.post(path, {"action": "acknowledge"}).status_code == 404, path
        self.client.post("/alerts/decide/", {"action": "acknowledge", "alert": [self.found.pk]})
        self.found.refresh_from_db()
        assert self.found.acknowledged_at is None
        for path in PAGES:
            html = self.text(path)
            assert "web-1" not in html and "Operations" not in html and "Patch day" not in html

    def test_no_page_shows_the_secret_part_of_an_address(self) -> None:
        for path in (*PAGES, *self.own):
            assert "very-secret-path" not in self.text(path), path
        html = self.text(f"/notifiers/{self.sent.notifier_id}/")
        assert "https://ops.example.org/…4711" in html

    def test_pages_allow_no_inline_script_or_style(self) -> None:
        for path in (*PAGES, *self.own):
            html = self.text(path)
            assert " style=" not in html and " onclick=" not in html and "<script>" not in html, path

    def test_nonsense_in_the_address_is_no_error(self) -> None:
        for path in ("/alerts/", "/deliveries/", "/events/new/", "/events/keys/"):
            for name in ("state", "severity", "age", "device", "channel", "event", "sort", "page", "status"):
                for value in ("zzz", "-1", "%00", "99999999999999999999", "%F0%9F%98%80"):
                    self.text(f"{path}?{name}={value}")


class AlertListTest(EventPagesTestCase):
    def test_it_says_what_fires_where_since_when_and_its_value_now_against_the_threshold(self) -> None:
        device_update(self.web1, changes={"channel": self.servers}, now=timezone.now())
        found = self.alert(severity="critical")
        alert_comment(found, text="on my way", by="bob", now=timezone.now())
        self.send("json/web-1", '{"cpu":{"total":97.5}}')
        html = self.text("/alerts/")
        for text in (
            "critical",
            "cpu total",
            "web-1",
            "10 min ago",
            "97.5",
            "&gt; 90",
            "firing",
            "on my way",
        ):
            assert text in html, text

    def test_the_worst_come_first_and_open_ones_before_those_that_ended(self) -> None:
        for severity in ("info", "critical", "warning"):
            self.alert(severity=severity, key=f"open-{severity}")
        self.alert(severity="critical", key="ended", resolved_at=NOW, resolution="recovered")
        html = self.text("/alerts/?state=all")
        places = [html.index(f">{key}<") for key in ("open-critical", "open-warning", "open-info", "ended")]
        assert places == sorted(places)
        assert "ended" not in self.text("/alerts/?fragment=alerts")

    def test_filters_narrow_it(self) -> None:
        self.alert(key="fresh")
        old = timezone.now() - timedelta(days=3)
        self.alert(key="ancient", severity="critical", fired_at=old, since=old)
        self.alert(key="elsewhere", device_key=self.new1.pk)
        for query, shown, hidden in (
            ("severity=critical", "ancient", "fresh"),
            ("age=24h", "fresh", "ancient"),
            ("device=new-1", "elsewhere", "fresh"),
            ("state=resolved", "No alert fits", "fresh"),
            ("sort=device", "fresh", "nothing of it"),
        ):
            html = self.text(f"/alerts/?fragment=alerts&{query}")
            assert shown in html and hidden not in html, query

    def test_a_line_is_acknowledged_by_its_own_button(self) -> None:
        found, other = self.alert(), self.alert()
        html = self.post("/alerts/decide/?severity=warning", {"one": f"acknowledge:{found.pk}"})
        assert "1 alert is acknowledged" in html
        found.refresh_from_db()
        other.refresh_from_db()
        assert found.acknowledged_by == "alice@example.org" and other.acknowledged_at is None

    def test_several_that_are_ticked_are_acknowledged_or_snoozed_together(self) -> None:
        keys = [self.alert().pk for _ in range(3)]
        assert "3 alerts are acknowledged" in self.post(
            "/alerts/decide/", {"alert": keys, "action": "acknowledge"}
        )
        data = {"alert": keys, "action": "snooze", "snooze": "4h"}
        assert "3 alerts are snoozed" in self.post("/alerts/decide/", data)
        hours = {
            round((found.snoozed_until - timezone.now()) / timedelta(hours=1))
            for found in Alert.objects.all()
            if found.snoozed_until
        }
        assert hours == {4}
        assert self.post("/alerts/decide/", {"one": f"wake:{keys[0]}"})
        assert Alert.objects.filter(snoozed_until=None).count() == 1

    def test_one_that_ended_meanwhile_is_told_and_changes_nothing(self) -> None:
        found = self.alert(resolved_at=NOW, resolution="recovered")
        assert "was resolved meanwhile" in self.post("/alerts/decide/", {"one": f"acknowledge:{found.pk}"})

    def test_nothing_ticked_and_nonsense_are_told(self) -> None:
        found = self.alert()
        assert "Tick at least one alert" in self.post("/alerts/decide/", {"action": "acknowledge"})
        for data in (
            {"one": f"explode:{found.pk}"},
            {"alert": found.pk, "action": "snooze", "snooze": "zzz"},
        ):
            assert "Choose what to do" in self.post("/alerts/decide/", data)

    def test_the_number_of_open_alerts_is_in_the_navigation_of_every_page(self) -> None:
        assert 'class="count' not in self.text("/channels/")
        self.alert(severity="warning")
        self.alert(severity="critical")
        assert '<span class="count critical">2' in self.text("/channels/")

    def test_it_asks_no_more_of_the_database_when_it_grows(self) -> None:
        self.alert()
        few = self.queries("/alerts/")
        for number in range(20):
            found = self.alert(key=f"key-{number}")
            alert_comment(found, text="x", by="bob", now=timezone.now())
        assert self.queries("/alerts/") == few

    def test_open_alerts_stand_on_the_fleet_page_and_the_devices_page(self) -> None:
        self.alert(severity="critical")
        assert 'class="count critical" href="/alerts/?device=web-1"' in self.text("/")
        assert "Open alerts" in self.text("/devices/web-1/?fragment=now")

    def test_a_silent_device_is_told_as_such(self) -> None:
        nothing = Value(None, JSONField())
        self.alert(cause="silence", key="", operator="", threshold="", value=nothing, last_value=nothing)
        html = self.text("/alerts/")
        assert "No data" in html and "last came" in html


class AlertPageTest(EventPagesTestCase):
    def test_it_shows_the_history_with_deliveries_and_their_results(self) -> None:
        found = self.alert(
            resolved_at=timezone.now(),
            resolution="recovered",
            acknowledged_at=timezone.now(),
            acknowledged_by="bob",
        )
        alert_comment(found, text="fan was stuck", by="carol", now=timezone.now())
        self.delivery(found, self.webhook(), status="delivered")
        html = self.text(f"/alerts/{found.pk}/")
        for text in (
            "It fired",
            "Acknowledged by bob",
            "fan was stuck",
            "Operations",
            "204 · 17 ms",
            "It ended: recovered",
        ):
            assert text in html, text

    def test_it_is_acknowledged_taken_back_snoozed_woken_and_commented_on(self) -> None:
        found = self.alert()
        page = f"/alerts/{found.pk}/act/"
        assert "Acknowledged by alice@example.org" in self.post(
            page, {"action": "acknowledge", "comment": "mine"}
        )
        assert Comment.objects.get().text == "mine"
        assert "acknowledgement is taken back" in self.post(page, {"action": "unacknowledge"})
        assert "snoozed" in self.post(page, {"action": "snooze-morning"})
        assert "snooze is ended" in self.post(page, {"action": "wake"})
        assert "The comment is added" in self.post(page, {"action": "", "comment": "done"})
        assert "Write a comment" in self.post(page, {"action": ""})

    def test_a_get_of_its_actions_leads_to_it(self) -> None:
        found = self.alert()
        assert self.client.get(f"/alerts/{found.pk}/act/")["Location"] == f"/alerts/{found.pk}/"
        assert self.client.get("/alerts/decide/?device=web-1")["Location"] == "/alerts/?device=web-1"

    def test_its_chart_has_the_threshold_and_the_period(self) -> None:
        rule = self.rule()
        found = self.alert(rule=rule)
        chart = self.client.get(f"/alerts/{found.pk}/chart.json?key=cpu:total&range=1h").json()
        assert [(one["key"], one["value"], one["operator"]) for one in chart["thresholds"]] == [
            ("cpu:total", 90.0, ">")
        ]
        assert [(one["start"], one["end"]) for one in chart["periods"]] == [
            (found.fired_at.timestamp(), None)
        ]
        for path in ("/devices/web-1/chart.json", "/channels/0/chart.json"):
            other = self.client.get(f"{path}?key=cpu:total&key=mem&range=1h").json()
            assert (len(other["thresholds"]), len(other["periods"])) == (1, 1), path


class EventFormTest(EventPagesTestCase):
    def filled(self, **more: Any) -> dict[str, Any]:
        """What the form sends for: cpu:total > 90 for 5 min, clear at 85, or nothing for 10 min."""
        return {
            "source": "cpu:total",
            "channel": self.servers.pk,
            "operator": ">",
            "threshold": "90",
            "for_n": "5",
            "for_unit": "min",
            "clear_threshold": "85",
            "absent": "after",
            "absent_n": "10",
            "absent_unit": "min",
            "severity": "critical",
            "repeat_n": "1",
            "repeat_unit": "h",
            "description": "CPU is busy",
            "enabled": "on",
            "action": "save",
        } | more

    def test_it_makes_a_rule_from_the_sentence(self) -> None:
        self.post("/events/new/", self.filled(device="web-1", tag="rack"))
        rule = Rule.objects.get()
        assert (rule.source, rule.operator, rule.threshold, rule.clear_threshold) == (
            "cpu:total",
            ">",
            "90",
            "85",
        )
        assert (rule.for_s, rule.absent_s, rule.repeat_s, rule.severity) == (300, 600, 3600, "critical")
        assert (rule.device, rule.tag, rule.enabled, rule.notify_type) == (self.web1, "rack", True, "email")
        assert rule_words(rule) == "cpu:total > 90 for 5 min, clear at 85, or when nothing comes for 10 min"

    def test_the_form_of_a_rule_says_the_same_again(self) -> None:
        self.post("/events/new/", self.filled())
        rule = Rule.objects.get()
        html = self.text(f"/events/{rule.pk}/")
        self.post(f"/events/{rule.pk}/", self.filled(threshold="95"))
        rule.refresh_from_db()
        assert (rule.threshold, rule.for_s, rule.absent_s) == ("95", 300, 600)
        assert 'value="85"' in html and "CPU is busy" in html

    def test_what_is_missing_or_wrong_is_told_beside_its_field(self) -> None:
        html = self.post("/events/new/", self.filled(threshold="", clear_threshold="99", device="nobody"))
        assert "not complete yet" in html and "Device" in html
        html = self.post("/events/new/", self.filled(clear_threshold="99"))
        assert "Clear at" in html and "quiet side" in html
        assert Rule.objects.count() == 0

    def test_a_strangers_channel_cannot_be_named(self) -> None:
        self.client.force_login(self.mallory, backend="allauth.account.auth_backends.AuthenticationBackend")
        self.post("/events/new/", self.filled())
        assert Rule.objects.count() == 0

    def test_it_is_switched_off_and_on_in_the_list_and_deleted(self) -> None:
        rule = self.rule(description="Busy")
        assert 'aria-checked="true"' in self.text("/events/")
        assert "is off" in self.post(f"/events/{rule.pk}/switch/", {"enabled": "0"})
        assert "is on" in self.post(f"/events/{rule.pk}/switch/", {"enabled": "1"})
        assert "is deleted" in self.post(f"/events/{rule.pk}/delete/", {})
        self.text(f"/events/{rule.pk}/", status=404)

    def test_the_list_counts_open_alerts(self) -> None:
        rule = self.rule()
        self.alert(rule=rule)
        assert f'class="count warning" href="/alerts/?event={rule.pk}">1<' in self.text("/events/")

    def test_suggestions_are_the_streams_of_the_chosen_channel(self) -> None:
        self.send("json/web-1", '{"cpu":{"total":12.5}}')
        assert 'value="cpu:total"' in self.text(f"/events/keys/?channel={self.servers.pk}")
        assert "cpu:total" not in self.text(f"/events/keys/?channel={self.backups.pk}")

    def test_a_back_test_is_shown_without_saving_anything(self) -> None:
        for age_s, value in ((400, 50), (300, 95), (200, 99), (100, 50)):
            at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
            self.send("json/web-1", f'{{"at":"{at}","value":{{"cpu":{{"total":{value}}}}}}}')
        tried = self.filled(for_n="", absent="never", action="backtest")
        html = self.post("/events/new/", tried)
        assert "It would have fired 1 time in 30 days" in html and "Try on past data" in html
        fragment = self.client.post("/events/new/", tried, headers={"X-Requested-With": "fetch"})
        html = fragment.content.decode()
        assert (
            "<html" not in html
            and "It would have fired 1 time" in html
            and "/devices/web-1/chart.json" in html
        )
        assert Rule.objects.count() == 0
        html = self.post("/events/new/", self.filled(threshold="", action="backtest"))
        assert "not complete yet" in html

    def test_a_back_test_that_was_cut_offers_to_look_at_everything(self) -> None:
        self.send("json/web-1", '{"cpu":{"total":12.5}}')
        patience_s: list[float] = []

        def cut(*arguments: Any, **more: Any) -> Backtest:
            patience_s.append(more["patience_s"])
            return replace(backtest(*arguments, **more | {"patience_s": 10}), is_cut=True)

        with patch("console.backtests.backtest", cut):
            html = self.post("/events/new/", self.filled(action="backtest"))
            assert "Look at everything" in html
            html = self.post("/events/new/", self.filled(action="backtest-in-full"))
        assert "It would not have fired in what was looked at." in html and "Look at everything" not in html
        assert "Every measurement was used" not in html
        assert patience_s == [0.8, 10]

    def test_a_back_test_that_looked_at_nothing_says_neither_yes_nor_no(self) -> None:
        self.send("json/web-1", '{"cpu":{"total":12.5}}')

        def nothing(*arguments: Any, **more: Any) -> Backtest:
            return replace(backtest(*arguments, **more), is_cut=True, devices_looked=0)

        with patch("console.backtests.backtest", nothing):
            html = self.post("/events/new/", self.filled(action="backtest"))
        assert "The time was not enough to say whether it would have fired." in html
        assert "It would not have fired" not in html


class NotifierPagesTest(EventPagesTestCase):
    def test_one_is_made_changed_and_deleted(self) -> None:
        data = {
            "name": "Operations",
            "setting-url": "https://ops.example.org/hooks/very-secret-4711",
            "enabled": "on",
        }
        assert "is created" in self.post("/notifiers/new/webhook/", data)
        found = Notifier.objects.get()
        shown = "https://ops.example.org/…4711"
        assert "is saved" in self.post(
            f"/notifiers/{found.pk}/", data | {"name": "Ops", "setting-url": shown}
        )
        found.refresh_from_db()
        assert (found.name, found.reveal()["url"]) == ("Ops", data["setting-url"])
        assert "is deleted" in self.post(f"/notifiers/{found.pk}/delete/", {})
        self.text(f"/notifiers/{found.pk}/", status=404)

    def test_what_does_not_fit_is_told_beside_its_field(self) -> None:
        html = self.post("/notifiers/new/webhook/", {"name": "x", "setting-url": "ftp://x", "enabled": "on"})
        assert "http:// or https://" in html and Notifier.objects.count() == 0

    def test_an_unknown_kind_is_a_404(self) -> None:
        self.text("/notifiers/new/pigeon/", status=404)

    def test_a_test_leads_to_the_page_of_its_delivery(self) -> None:
        found = self.webhook()
        answer = self.client.post(f"/notifiers/{found.pk}/test/")
        sent = Delivery.objects.get()
        assert sent.is_test and answer["Location"] == f"/deliveries/{sent.pk}/"
        assert "a test" in self.text(f"/deliveries/{sent.pk}/")

    def test_the_signing_secret_is_shown_on_demand_and_rotated(self) -> None:
        assert "whsec_" not in self.text("/notifiers/signing-secret/")
        shown = self.client.post("/notifiers/signing-secret/", {"action": "show"})
        assert "whsec_" in shown.content.decode() and "no-store" in shown["Cache-Control"]
        assert "The one before signs beside it" in self.post(
            "/notifiers/signing-secret/", {"action": "rotate"}
        )

    def test_the_list_says_how_each_is_doing(self) -> None:
        found = self.webhook()
        assert "not used yet" in self.text("/notifiers/")
        soon = timezone.now() + timedelta(minutes=5)
        Notifier.objects.filter(pk=found.pk).update(
            failures=3, retry_at=soon, last_error="connection refused"
        )
        html = self.text("/notifiers/")
        assert "fails" in html and "connection refused" in html


class DeliveryLogTest(EventPagesTestCase):
    def test_it_shows_status_receiver_alert_attempts_latency_and_answer(self) -> None:
        self.delivery(self.alert(), self.webhook(), status="pending")
        html = self.text("/deliveries/")
        for text in ("waiting", "Operations", "cpu:total", "17 ms", "204"):
            assert text in html, text

    def test_filters_by_status_and_notifier(self) -> None:
        ops = self.webhook()
        self.delivery(self.alert(), ops, status="delivered")
        assert "Nothing was sent" in self.text("/deliveries/?status=expired")
        assert "17 ms" in self.text(f"/deliveries/?status=delivered&notifier={ops.pk}")

    def test_one_is_sent_again(self) -> None:
        sent = self.delivery(self.alert(), self.webhook(), status="delivered")
        assert "being sent again" in self.post(f"/deliveries/{sent.pk}/resend/", {})
        sent.refresh_from_db()
        assert sent.status == "pending"

    def test_it_asks_no_more_of_the_database_when_it_grows(self) -> None:
        ops = self.webhook()
        self.delivery(self.alert(), ops)
        few = self.queries("/deliveries/")
        for _ in range(10):
            self.delivery(self.alert(), ops)
        assert self.queries("/deliveries/") == few


class MaintenancePagesTest(EventPagesTestCase):
    def local(self, hours: float) -> str:
        """The time so many hours from now as somebody of the account would type it."""
        return f"{(timezone.now() + timedelta(hours=hours)).astimezone(self.owner.zone):%Y-%m-%d %H:%M}"

    def test_one_is_made_in_the_accounts_time_zone_ended_and_deleted(self) -> None:
        times = {"starts_at": self.local(-1), "ends_at": self.local(5)}
        assert "is created" in self.post(
            "/maintenance/", times | {"name": "Patch day", "device": "web-1", "repeat": "once"}
        )
        window = Maintenance.objects.get()
        assert timedelta(minutes=60) <= timezone.now() - window.starts_at < timedelta(minutes=62)
        assert (window.device, window.created_by) == (self.web1, "alice@example.org")
        assert "Patch day" in self.text("/maintenance/")
        assert "is over" in self.post(f"/maintenance/{window.pk}/end/", {})
        assert "is deleted" in self.post(f"/maintenance/{window.pk}/delete/", {})
        assert Maintenance.objects.count() == 0

    def test_one_is_edited_and_what_it_held_is_looked_at_again(self) -> None:
        now = timezone.now().replace(second=17, microsecond=5)
        window = Maintenance.objects.create(
            account=self.owner,
            name="Patch day",
            device=self.web1,
            starts_at=now - timedelta(hours=1),
            ends_at=now + timedelta(hours=5),
        )
        held = Notification.objects.create(alert=self.alert(), kind="firing", held_until=window.ends_at)
        html = self.text(f"/maintenance/{window.pk}/")
        form = {name: self.local(hours) for name, hours in (("starts_at", -1), ("ends_at", 5))}
        starts_at = window.starts_at.astimezone(self.owner.zone)
        form["starts_at"] = f"{starts_at:%Y-%m-%d %H:%M}"
        assert 'value="Patch day"' in html and 'value="web-1"' in html and form["starts_at"] in html
        changed = form | {
            "name": "Patches",
            "ends_at": self.local(2),
            "repeat": "once",
            "channel": self.servers.pk,
        }
        assert "The maintenance is saved." in self.post(f"/maintenance/{window.pk}/", changed)
        before = window.starts_at
        window.refresh_from_db()
        assert (window.name, window.device, window.channel) == ("Patches", None, self.servers)
        assert window.starts_at == before  # to the microsecond: it was not touched
        assert timedelta(minutes=118) <= window.ends_at - now <= timedelta(minutes=121)
        held.refresh_from_db()
        assert held.held_until is not None and held.held_until < window.ends_at

    def test_an_edit_that_does_not_fit_is_told_and_changes_nothing(self) -> None:
        now = timezone.now()
        window = Maintenance.objects.create(
            account=self.owner, name="Patch day", starts_at=now, ends_at=now + timedelta(hours=5)
        )
        wrong = {"name": "X", "starts_at": self.local(3), "ends_at": self.local(1), "repeat": "once"}
        html = self.post(f"/maintenance/{window.pk}/", wrong)
        assert "must be after the beginning" in html and 'value="X"' in html
        assert Maintenance.objects.get().name == "Patch day"

    def test_a_weekly_one_says_its_days_and_is_not_ended_but_deleted(self) -> None:
        times = {"starts_at": self.local(-1), "ends_at": self.local(5)}
        self.post("/maintenance/", times | {"repeat": "weekly", "weekdays": [str(day) for day in range(7)]})
        html = self.text("/maintenance/")
        assert "every week: Monday, Tuesday" in html and "End it now" not in html

    def test_what_does_not_fit_is_told(self) -> None:
        html = self.post(
            "/maintenance/", {"starts_at": "tomorrow", "ends_at": "", "repeat": "once", "device": "nobody"}
        )
        assert "not a time" in html and Maintenance.objects.count() == 0

    def test_a_device_is_put_into_it_from_its_page(self) -> None:
        self.post("/maintenance/quick/", {"device": "web-1", "length": "4h"})
        window = Maintenance.objects.get()
        assert (window.device, window.ends_at - window.starts_at) == (self.web1, timedelta(hours=4))
        self.post("/maintenance/quick/", {"channel": "0", "length": "until", "until": self.local(3)})
        assert Maintenance.objects.filter(channel=self.servers).count() == 1
        assert "Write when it ends" in self.post(
            "/maintenance/quick/", {"device": "web-1", "length": "until", "until": "x"}
        )
        assert (
            self.client.post("/maintenance/quick/", {"device": "nobody", "length": "1h"}).status_code == 404
        )


def test_lengths_are_said_exactly_or_about() -> None:
    assert [length_split(seconds) for seconds in (0, 90, 300, 7200, 86400)] == [
        (0, "min"),
        (90, "s"),
        (5, "min"),
        (2, "h"),
        (1, "d"),
    ]
    assert length_words(300) == "5 min"
    assert [duration_words(seconds) for seconds in (0, 45, 90, 7800, 90_000)] == [
        "0 s",
        "45 s",
        "1 min 30 s",
        "2 h 10 min",
        "1 day 1 h",
    ]


def test_a_snooze_until_tomorrow_ends_at_nine_in_the_accounts_zone() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    late = datetime(2026, 11, 25, 16, 0, tzinfo=UTC)  # 01:00 on the 26th there
    assert snooze_end("morning", now=late, zone=tokyo) == datetime(2026, 11, 27, 0, 0, tzinfo=UTC)
    assert snooze_end("1h", now=late, zone=tokyo) == late + timedelta(hours=1)
    assert snooze_end("zzz", now=late, zone=tokyo) is None
