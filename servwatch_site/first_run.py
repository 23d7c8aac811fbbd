"""The first start: an account, a channel, somebody who can sign in, and a file that scripts can begin with."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from zoneinfo import available_timezones

from django.db import transaction
from django.utils import timezone

from channels.services import channel_create
from console.sign_in import sign_in_url
from tokens.models import Account, User
from tokens.selectors import api_token_find, device_token_reveal
from tokens.services import account_create, api_token_issue, user_create

FILE_NAME = "first-run.json"
FIRST_EMAIL = "operator@localhost"
FIRST_CHANNEL = 0


@dataclass(frozen=True)
class FirstRun:
    """What a newcomer or a script needs. `sign_in_url` works once and is not in the file."""

    base_url: str
    mqtt_host: str
    mqtt_port: int
    user_id: str
    device_token: str
    api_token: str
    sign_in_url: str


def prepare(*, base_url: str, mqtt_host: str, mqtt_port: int, data_dir: Path) -> FirstRun:
    """Make the first account if there is none, and write the file anew; keeps the API token that is in it."""
    account, user = first_account()
    file = data_dir / FILE_NAME
    found = FirstRun(
        base_url=base_url,
        mqtt_host=mqtt_host,
        mqtt_port=mqtt_port,
        user_id=account.user_id,
        device_token=device_token_reveal(account),
        api_token=_api_token(account, file),
        sign_in_url=sign_in_url(user),
    )
    kept = {name: value for name, value in asdict(found).items() if name != "sign_in_url"}
    _write_private(file, json.dumps(kept, indent=2) + "\n")
    return found


@transaction.atomic
def first_account() -> tuple[Account, User]:
    """The oldest account and somebody who signs in to it; made on the first start, with channel 0 "Servers"."""
    account = Account.objects.order_by("user_id").first()
    if account is None:
        account = account_create(locale=machine_zone(), default_channel=FIRST_CHANNEL)
        channel_create(account, FIRST_CHANNEL, name="Servers")
    user = User.objects.filter(account=account, is_active=True).order_by("pk").first()
    return account, user or user_create(email=FIRST_EMAIL, account=account)


def machine_zone() -> str:
    """This machine's time zone by name, UTC where it has none."""
    try:
        name = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    except OSError:
        return "UTC"
    name = os.environ.get("TZ", "") or name
    return name if name in available_timezones() else "UTC"


def _api_token(account: Account, file: Path) -> str:
    """The token of the last run while it is valid and this account's, else a new one."""
    try:
        kept = str(json.loads(file.read_text(encoding="utf-8"))["api_token"])
    except (OSError, ValueError, KeyError, TypeError):
        kept = ""
    token = api_token_find(kept, now=timezone.now()) if kept else None
    if token is not None and token.account_id == account.pk:
        return kept
    return api_token_issue(account, name="first run", scopes=["read", "write", "admin"])[1]


def _write_private(file: Path, text: str) -> None:
    """Whole or not at all, readable by its owner only."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    draft.replace(file)
