"""An event as a person makes it, the alert it raises, and what is done about it, in a real browser."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Page

from events.models import Alert, Rule
from servwatch_site.tests.browser import Browser, WebProcess
from servwatch_site.tests.listening import ListeningTestCase
from servwatch_site.tests.waiting import wait_until
from streams.charts import Source, chart

PASSWORD = "a long and winding password"


class EventBrowserTest(ListeningTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.web = self.enterContext(WebProcess())
        self.alice.set_password(PASSWORD)
        self.alice.save()

    def publish(self, value: Any, *, age_s: int = 0) -> None:
        at = datetime.now(UTC) - timedelta(seconds=age_s)
        with self.device() as device:
            envelope = {"at": at.isoformat(), "value": value}
            device.deliver(f"{self.device_token}/json/web-1", json.dumps(envelope))

    def wait_stored(self, count: int) -> None:
        now = datetime.now(UTC)

        def stored() -> bool:
            found = chart(Source.device(self.web1.pk), ["cpu:total"], start=now - timedelta(hours=1), end=now)
            return len(found.times) >= count

        wait_until(stored, what=f"{count} records")

    def open(self, page: Page) -> None:
        """Signs in where the link of a mail would have led."""
        page.goto(f"{self.web.url}/events/new/")
        page.get_by_label("Email").fill("alice@example.org")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="New event").wait_for()

    @staticmethod
    def fill(page: Page) -> None:
        page.locator("[name=source]").fill("cpu:total")
        page.locator("[name=threshold]").fill("90")
        page.locator("[name=severity]").select_option("critical")
        page.locator("[name=description]").fill("CPU is busy")
        page.get_by_role("button", name="Try on past data").click()
        page.get_by_text("It would have fired 1 time in 30 days").wait_for()
        page.locator("#backtest .u-over").wait_for()

    @staticmethod
    def acknowledge_by_keyboard(page: Page) -> None:
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.dataset.alert")
        page.keyboard.press("a")
        page.get_by_text("1 alert is acknowledged.").wait_for()

    def test_from_the_form_with_its_back_test_to_an_alert_that_is_acknowledged_and_resolved(self) -> None:
        for age_s, value in ((1800, 50), (1700, 95), (1600, 50)):
            self.publish({"cpu": {"total": value}}, age_s=age_s)
        self.wait_stored(3)
        with Browser() as browser:
            browser.do(self.open)
            browser.do(self.fill)
            assert Rule.objects.count() == 0
            browser.do(lambda page: page.get_by_role("button", name="Create").click())
            browser.do(lambda page: page.get_by_text("The event is created.").wait_for())
            browser.do(lambda page: page.get_by_role("link", name="Alerts").first.click())
            browser.do(lambda page: page.get_by_text("Nothing is wrong").wait_for())
            browser.do(lambda page: page.locator("#live.on").wait_for())
            self.publish({"cpu": {"total": 97.5}})
            browser.do(lambda page: page.locator("tr[data-alert]", has_text="CPU is busy").wait_for())
            browser.do(lambda page: page.locator("#open-alerts .count.critical", has_text="1").wait_for())
            browser.do(self.acknowledge_by_keyboard)
            assert Alert.objects.get().acknowledged_by == "alice@example.org"
            browser.do(lambda page: page.locator("#live.on").wait_for())
            self.publish({"cpu": {"total": 12.5}})
            browser.do(lambda page: page.get_by_text("Nothing is wrong").wait_for())
            assert Alert.objects.get().resolution == "recovered"
            assert browser.errors == []
