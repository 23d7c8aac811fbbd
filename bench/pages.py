"""Console pages in a real browser: how soon the first chart of a device page is drawn, and what the pages weigh.

    .venv/bin/python -m bench.pages --devices 5000 --repeat 5

A fleet of so many devices, each with its latest values; one of them has a day of records every ten seconds. Each load
has a fresh profile, so that nothing is cached. Bytes are those that travelled (compressed), of all requests of the page
until the chart is there and half a second later; other hosts asked are counted, there must be none. "First byte" is
the median over plain HTTP of the same page. The server has answered before: it is warm, the browser is cold.
"""

import argparse
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from bench.history import VALUE, devices_create
from bench.http_load import load, request_bytes
from bench.site import Site, Web
from bench.stack import run_python

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PAGES = (("device page, first chart", "/devices/load-0/", "canvas"), ("fleet page", "/", "table"))
RECORD_EVERY = timedelta(seconds=10)


@dataclass
class Loaded:
    """One load of a page: seconds from the click, bytes, requests, and hosts that are not ours."""

    seen_s: float
    size: int = 0
    requests: int = 0
    foreign: set[str] = field(default_factory=set)


def run(*, devices: int, repeat: int) -> bool:
    with Site() as site:
        first = devices_create(site, devices)
        site.django()
        _fill(site, first, devices)
        run_python(site.environment, "manage.py", "collectstatic", "--verbosity", "0", "--noinput")
        web, cookie = site.web(), session_cookie()
        first_bytes = {path: first_byte_ms(web, path, cookie) for _, path, _ in PAGES}
        ours = True
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=list(ARGUMENTS)
            )
            for name, path, sign in PAGES:
                loads = [_load(browser, web, path, sign, cookie) for _ in range(repeat)]
                seen = statistics.median(found.seen_s for found in loads)
                print(
                    f"{name} ({devices} devices): first byte {first_bytes[path]:.0f} ms, "
                    f"seen after {1000 * seen:.0f} ms "
                    f"(median of {repeat}), {loads[-1].size / 1000:.0f} kB in {loads[-1].requests} requests",
                    flush=True,
                )
                ours = ours and not any(found.foreign for found in loads)
            browser.close()
        print("no other host was asked" if ours else "OTHER HOSTS WERE ASKED")
        return ours


def session_cookie() -> str:
    """A session of the installation's only person, as signing in makes it."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from tokens.models import User

    user = User.objects.get()
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "allauth.account.auth_backends.AuthenticationBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return str(session.session_key)


def first_byte_ms(web: Web, path: str, cookie: str) -> float:
    page = request_bytes(path, headers={"Cookie": f"sessionid={cookie}"})
    found = load(web.port, lambda _number: page, connections=1, most=12).require(200)
    return statistics.median(found.latencies_ms[2:])


def _fill(site: Site, first: int, devices: int) -> None:
    """Latest values of all devices, and a day of records of the first, through the writer."""
    from streams.payload import Measurement, parse
    from streams.pipeline import Street
    from streams.plan import RestWrite
    from streams.topics import Kind
    from streams.writer import Writer

    street, now = Street(Writer(name="pages")), datetime.now(UTC)
    account, channel = site.account["key"], site.account["channel_key"]

    def measured(number: int, at: datetime) -> Measurement:
        (found,) = parse(Kind.JSON, (VALUE % number).encode(), tag=None, zone=UTC)
        assert isinstance(found, Measurement)  # noqa: S101 - the payload is ours
        return found._replace(at=at)

    rows = [(first + number, measured(number, now)) for number in range(1, devices)]
    rows += [(first, measured(number, now - number * RECORD_EVERY)) for number in range(8_640)]
    for start in range(0, len(rows), 5_000):
        street.process([RestWrite(account, channel, rows[start : start + 5_000], now)])
    street.writer.close()


def _load(browser: Browser, web: Web, path: str, sign: str, cookie: str) -> Loaded:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    address = f"http://127.0.0.1:{web.port}"
    context.add_cookies([{"name": "sessionid", "value": cookie, "url": address}])
    page: Page = context.new_page()
    found = Loaded(0.0)
    client = context.new_cdp_session(page)
    client.send("Network.enable")

    def sent(event: dict[str, Any]) -> None:
        found.requests += 1
        host = urlsplit(event["request"]["url"]).hostname
        if host not in (None, "127.0.0.1"):
            found.foreign.add(host)

    def finished(event: dict[str, Any]) -> None:
        found.size += int(event["encodedDataLength"])

    client.on("Network.requestWillBeSent", sent)
    client.on("Network.loadingFinished", finished)
    began = time.perf_counter()
    page.goto(address + path, wait_until="commit")
    page.wait_for_selector(sign, state="visible")
    found.seen_s = time.perf_counter() - began
    page.wait_for_timeout(500)
    context.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=5_000)
    parser.add_argument("--repeat", type=int, default=5)
    return 0 if run(**vars(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
