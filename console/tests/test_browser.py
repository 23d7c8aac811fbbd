"""The whole way, as a person walks it: sign in, open a device, see a published value arrive."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Page

from servwatch_site.tests.browser import Browser, WebProcess
from servwatch_site.tests.listening import ListeningTestCase
from servwatch_site.tests.waiting import wait_until
from streams.charts import Source, chart
from tokens.services import account_update

PASSWORD = "a long and winding password"


def chart_points(page: Page) -> int:
    """How many points the first chart's table shows; opens the table once."""
    table = page.locator(".chart details").first
    if table.get_attribute("open") is None:
        table.locator("summary").click()
    return page.locator(".chart").first.locator(".table tbody tr").count()


class BrowserTest(ListeningTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.web = self.enterContext(WebProcess())
        self.alice.set_password(PASSWORD)
        self.alice.save()

    def sign_in(self, page: Page) -> None:
        page.goto(f"{self.web.url}/")
        page.get_by_label("Email").fill("alice@example.org")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Fleet").wait_for()

    def publish(self, value: Any, *, age_s: int = 0) -> None:
        at = datetime.now(UTC) - timedelta(seconds=age_s)
        with self.device() as device:
            envelope = {"at": at.isoformat(), "value": value}
            device.deliver(f"{self.device_token}/json/web-1", json.dumps(envelope))

    def wait_stored(self, count: int) -> None:
        now = datetime.now(UTC)

        def stored() -> bool:
            source = Source.device(self.web1.pk)
            return len(chart(source, ["cpu:idle"], start=now - timedelta(hours=1), end=now).times) >= count

        wait_until(stored, what=f"{count} records")

    def test_from_sign_in_to_a_chart_that_changes_when_a_message_is_published(self) -> None:
        for age_s in (120, 60):
            self.publish({"cpu": {"idle": 90}}, age_s=age_s)
        self.wait_stored(2)
        with Browser() as browser:
            browser.do(self.sign_in)
            browser.do(lambda page: page.get_by_role("link", name="web-1").first.click())
            browser.do(lambda page: page.locator(".u-over").first.wait_for())
            browser.do(lambda page: page.locator("#live.on").wait_for())
            wait_until(lambda: browser.do(chart_points) == 2, what="two points in the chart")
            self.publish({"cpu": {"idle": 42.5}})
            published = time.monotonic()
            browser.do(lambda page: page.locator(".tile .value", has_text="42.5").wait_for())
            tile_s = time.monotonic() - published
            wait_until(lambda: browser.do(chart_points) == 3, what="the third point in the chart")
            print(f"on the open page after {tile_s:.2f} s")
            assert browser.errors == []

    def test_a_new_device_appears_on_the_open_fleet_page(self) -> None:
        account_update(self.owner, default_channel=0)
        with Browser(width=390, colour_scheme="dark") as browser:
            browser.do(self.sign_in)
            browser.do(lambda page: page.locator("#live.on").wait_for())
            with self.device() as device:
                device.deliver(f"{self.device_token}/json/db-9", '{"cpu":{"total":12}}')
            browser.do(lambda page: page.get_by_role("link", name="db-9").wait_for())
            wide = browser.do(lambda page: page.evaluate("document.documentElement.scrollWidth"))
            assert wide <= 390
            assert browser.errors == []

    def test_the_page_says_so_when_the_web_process_is_away_and_comes_back_by_itself(self) -> None:
        with Browser() as browser:
            browser.do(self.sign_in)
            browser.do(lambda page: page.locator("#live.on").wait_for())
            self.web.stop()
            browser.do(lambda page: page.locator("#live.off").wait_for())
            self.web.start()
            browser.do(lambda page: page.locator("#live.on").wait_for())
