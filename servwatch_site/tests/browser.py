"""A real browser and the real ASGI server, on the test database."""

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
from playwright.sync_api import Page, sync_playwright

from servwatch_site.tests.broker import free_port
from servwatch_site.tests.listening import ROOT, test_database_url
from servwatch_site.tests.waiting import wait_until

Result = TypeVar("Result")

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class WebProcess:
    """uvicorn with the application, as `manage.py run` starts it; `with WebProcess() as web:`, then `web.url`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "DATABASE_URL": test_database_url(),
            "SERVWATCH_HTTP_PORT": str(self.port),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "servwatch_site.asgi:application",
            "--port",
            str(self.port),
        ]
        self._process = subprocess.Popen(
            [*command, "--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "2"],
            cwd=ROOT,
            env=self._environment,
        )
        wait_until(self._answers, what="the web process")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=15)
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Browser:
    """Chromium in a thread of its own: Playwright's loop there does not forbid the test its database.

    `browser.do(lambda page: page.goto(...))` returns what the function returns. What a page logs as an error,
    a blocked script among it, is collected in `errors`.
    """

    def __init__(self, *, width: int = 1280, colour_scheme: str = "light") -> None:
        self._program = shutil.which("chromium") or shutil.which("chromium-browser")
        if self._program is None:
            pytest.skip("no Chromium on this machine; on Debian and Ubuntu: apt-get install chromium")
        self._options: dict[str, Any] = {
            "viewport": {"width": width, "height": 900},
            "color_scheme": colour_scheme,
        }
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="browser")
        self._page: Page | None = None
        self._close: list[Callable[[], Any]] = []
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        self._thread.submit(self._open).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for close in reversed(self._close):
            self._thread.submit(close).result()
        self._thread.shutdown()

    def do(self, work: Callable[[Page], Result]) -> Result:
        def with_page() -> Result:
            assert self._page is not None, "the browser is not open"
            return work(self._page)

        return self._thread.submit(with_page).result()

    def _open(self) -> None:
        playwright = sync_playwright().start()
        browser = playwright.chromium.launch(executable_path=self._program, args=list(QUIET))
        self._close = [playwright.stop, browser.close]
        self._page = browser.new_context(**self._options).new_page()
        self._page.set_default_timeout(15_000)
        self._page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self._page.on("pageerror", lambda error: self.errors.append(str(error)))
