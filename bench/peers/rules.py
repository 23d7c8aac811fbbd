"""Threshold rules for Servwatch, as operators make them, on the channel of all devices."""

import json
import subprocess
import sys

from bench.peers.data import ALARM_LEVEL, PATHS
from bench.stack import ROOT, Stack

NEVER = 1e15  # above every number of the data
_CREATE = """
import django, json, sys
django.setup()
from events.services import rule_create
from servwatch_site.first_run import first_account
account, _ = first_account()
channel = account.channels.get(number=0)
for rule in json.load(sys.stdin):
    rule_create(account, changes={"channel": channel, **rule})
"""


def rules_create(stack: Stack, *, count: int) -> None:
    """Each watches one of the ten numbers; the first fires at the alarm level, the others are only evaluated."""
    rules = [
        {
            "description": f"bench {number}",
            "source": PATHS[number % len(PATHS)],
            "operator": ">",
            "threshold": str(ALARM_LEVEL if number == 0 else NEVER),
        }
        for number in range(count)
    ]
    made = subprocess.run(
        [sys.executable, "-c", _CREATE],
        input=json.dumps(rules),
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise RuntimeError(f"the rules could not be made: {made.stderr[-2000:]}")
