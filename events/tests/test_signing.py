"""Signatures of webhooks: what the documentation's verifiers make of requests that were really sent."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from events.models import SigningSecret
from events.signing import (
    OVERLAP,
    secrets_valid,
    signature,
    signing_secret_now,
    signing_secret_rotate,
)
from events.tests.outbox import OutboxTestCase
from events.tests.receiver import Received, Receiver
from servwatch_site.tests.cast import NOW, BaseTestCase

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "notifications.md"
VERIFIERS = dict(
    re.findall(r"<!-- verifier: (\w+) -->\n```\w+\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
)
# Each reads headers as JSON and the body's file from its arguments, and ends with 0 if the request is verified.
PROGRAMS: Mapping[str, tuple[str, str, str]] = {
    "python": (
        sys.executable,
        ".py",
        "\nimport json, sys\n"
        "sys.exit(0 if verified(json.loads(sys.argv[1]), open(sys.argv[2], 'rb').read()) else 1)\n",
    ),
    "javascript": (
        "node",
        ".js",
        "\nconst [headers, file] = process.argv.slice(2);\n"
        "process.exit(verified(JSON.parse(headers), require('node:fs').readFileSync(file)) ? 0 : 1);\n",
    ),
    "shell": (
        "bash",
        ".sh",
        '\nverified "$3" "$4" "$5" "$2"\n',
    ),
}


def verdict(language: str, request: Received, *, secret: str) -> bool:
    """What the verifier says. Anything but yes or no fails the test."""
    program, ending, tail = PROGRAMS[language]
    if shutil.which(program) is None or (language == "shell" and shutil.which("openssl") is None):
        pytest.skip(f"{program} is not installed here")
    headers = {name.lower(): text for name, text in request.headers.items()}
    with tempfile.TemporaryDirectory() as folder:
        source, body = Path(folder, f"verify{ending}"), Path(folder, "body")
        source.write_text(VERIFIERS[language] + tail, encoding="utf-8")
        body.write_bytes(request.body)
        three = [headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature")]
        run = subprocess.run(
            [program, str(source), json.dumps(headers), str(body), *three],
            env={**os.environ, "WEBHOOK_SECRET": secret},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode in (0, 1) and not run.stderr, run.stderr
    return run.returncode == 0


class VerifierTest(OutboxTestCase):
    """One request after the other down the real path, shown to each of the verifiers."""

    def setUp(self) -> None:
        super().setUp()
        self.receiver = self.enterContext(Receiver())
        self.hook = self.notifier(settings={"url": self.receiver.url})
        self.outgoing.now = timezone.now()
        self.secret = signing_secret_now(self.owner, now=self.outgoing.now).secret

    def sent(self) -> Received:
        self.fire(self.rule(self.hook, description="ディスク ♥ “x”"))
        assert self.outgoing.send() == 1
        return self.receiver.received[-1]

    def check(self, language: str) -> None:
        good = self.sent()
        assert verdict(language, good, secret=self.secret)
        for request in (
            changed(good, body=good.body.replace(b"95.5", b"55.5")),
            changed(good, body=good.body + b" "),
            changed(good, webhook_id="another"),
            changed(good, webhook_timestamp=str(int(good.headers["webhook-timestamp"]) + 1)),
            changed(good, webhook_signature="v1," + base64.b64encode(bytes(32)).decode()),
            changed(good, webhook_signature="v1,"),
        ):
            assert not verdict(language, request, secret=self.secret)
        assert not verdict(language, good, secret="whsec_" + base64.b64encode(bytes(32)).decode())
        self.outgoing.now -= timedelta(minutes=6)
        assert not verdict(language, self.sent(), secret=self.secret)  # an old one, rightly signed
        self.outgoing.now += timedelta(minutes=6)
        fresh = signing_secret_rotate(self.owner, now=self.outgoing.now).secret
        both = self.sent()
        assert verdict(language, both, secret=self.secret) and verdict(language, both, secret=fresh)
        signing_secret_rotate(self.owner, now=self.outgoing.now)
        later = self.sent()
        assert not verdict(language, later, secret=self.secret) and verdict(language, later, secret=fresh)

    def test_the_verifier_in_python(self) -> None:
        self.check("python")

    def test_the_verifier_in_javascript(self) -> None:
        self.check("javascript")

    def test_the_verifier_in_shell(self) -> None:
        self.check("shell")


class SecretTest(BaseTestCase):
    def test_an_account_gets_one_secret_on_first_use(self) -> None:
        assert not SigningSecret.objects.exists()
        (secret,) = secrets_valid(self.owner, now=NOW)
        assert secrets_valid(self.owner, now=NOW) == [secret]
        assert secrets_valid(self.stranger, now=NOW) != [secret]
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32

    def test_it_is_stored_encrypted(self) -> None:
        (secret,) = secrets_valid(self.owner, now=NOW)
        assert secret[6:] not in SigningSecret.objects.get().ciphertext

    def test_two_are_valid_for_a_day_and_never_three(self) -> None:
        first = signing_secret_now(self.owner, now=NOW).secret
        second = signing_secret_rotate(self.owner, now=NOW)
        assert second.previous_until == NOW + OVERLAP
        assert secrets_valid(self.owner, now=NOW) == [second.secret, first]
        assert secrets_valid(self.owner, now=NOW + OVERLAP) == [second.secret]
        third = signing_secret_rotate(self.owner, now=NOW)
        assert secrets_valid(self.owner, now=NOW) == [third.secret, second.secret]


def test_it_signs_as_the_specification_has_it() -> None:
    """The example of the Standard Webhooks specification."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    found = signature(secret, key="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def changed(request: Received, *, body: bytes | None = None, **headers: str) -> Received:
    """A copy with another body or other headers."""
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    return Received(
        request.method,
        request.path,
        {**request.headers, **given},
        request.body if body is None else body,
    )
