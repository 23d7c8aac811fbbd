"""Rules for measurements: a hundred of them on one channel, of which none fires on the usual message and all are held
against what it says.

Every rule is about a key path that the load's messages have: thresholds spread over eleven paths, some for one device
only, a few that one message in a thousand meets, so that alerts really begin and end.
"""

from bench.stack import Stack, run_python

_CREATE = """
import django
django.setup()
from channels.models import Channel
from events.services import rule_create
channel = Channel.objects.get(number=0)
paths = {paths!r}
for number in range({count}):
    source, threshold = paths[number % len(paths)]
    rule_create(channel.account, changes=dict(
        channel=channel, source=source, operator=">", threshold=str(threshold + number), description=f"rule {{number}}",
        notify_type="http", post_url="http://127.0.0.1:9/", enabled=True,
    ))
"""
# Above what bench/history.py's VALUE says.
PATHS = (
    ("cpu:user", 90),
    ("cpu:system", 90),
    ("cpu:idle", 100),
    ("load1", 8),
    ("load5", 8),
    ("mem:used", 16_000_000_000),
    ("mem:free", 32_000_000_000),
    ("net:rx", 100_000_000),
    ("net:tx", 100_000_000),
    ("disk", 95),
    ("alarm", 90),
)


def rules_create(stack: Stack, count: int) -> None:
    """`count` enabled rules of channel 0, in turns over the key paths of the load."""
    if count:
        run_python(stack.environment, "-c", _CREATE.format(paths=PATHS, count=count))
