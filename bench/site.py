"""A database and web processes of their own for measurements over HTTP; no broker, no listener."""

import json
import os
import subprocess
import time
import urllib.request
from dataclasses import dataclass

import psutil
import psycopg

from bench.stack import Stack, free_port

_ACCOUNT = """
import django, json, sys
django.setup()
from servwatch_site.first_run import first_account
from tokens.selectors import device_token_reveal
from tokens.services import account_update, api_token_issue
account, _ = first_account()
account_update(account, api_per_second=0, connector_per_second=0)
print(json.dumps({
    "key": account.pk,
    "channel_key": account.channels.get(number=0).pk,
    "device_token": device_token_reveal(account),
    "api_token": api_token_issue(account, name="bench", scopes=["admin"])[1],
}))
"""
_LIMITS = """
import django
django.setup()
from tokens.models import Account
from tokens.services import account_update
account_update(Account.objects.get(), api_per_second={limit}, connector_per_second={limit})
"""
COUNTED = 32_767  # requests a second: so many that nobody is refused, and each is counted


@dataclass
class Web:
    """One uvicorn process, with bench/bare.py's views beside the product's."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def memory_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    @property
    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


class Site(Stack):
    """`with Site() as site: site.web()`; the account has channel 0 and no limits."""

    def __init__(self, *, database_url: str = "") -> None:
        super().__init__(mqtt_port=free_port(), database_url=database_url)

    def _start(self) -> None:
        if self.postgres is not None:
            self.postgres.start()
        self._python("manage.py", "migrate", "--verbosity", "0")
        self.account = json.loads(self._python("-c", _ACCOUNT))

    def web(self, *, middleware: bool = True) -> Web:
        """A web process as `manage.py run` starts it; without middleware it serves only the bare views."""
        port = free_port()
        more = {
            "DJANGO_SETTINGS_MODULE": "bench.site_settings",
            "BENCH_MIDDLEWARE": "all" if middleware else "none",
            "SERVWATCH_HTTP_PORT": str(port),
        }
        usual, self.environment = self.environment, {**self.environment, **more}
        try:
            process = self.spawn(
                f"web-{port}",
                *("-m", "uvicorn", "servwatch_site.asgi:application", "--port", str(port)),
                *("--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "2"),
            )
        finally:
            self.environment = usual
        deadline = time.monotonic() + 60
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.path / f"web-{port}.log").read_text(encoding="utf-8")
                raise RuntimeError(f"the web process does not answer:\n{log[-2000:]}")
            time.sleep(0.1)
        return Web(port, process)

    def limits(self, limit: int) -> None:
        """Requests a second for tokens and devices; 0 is no limit, and nothing is counted."""
        self._python("-c", _LIMITS.format(limit=limit))

    def django(self) -> None:
        """Make this process one of the installation: afterwards its selectors can be called."""
        os.environ.update(self.environment)
        import django

        django.setup()

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.database_url, autocommit=autocommit)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/bare/api", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
