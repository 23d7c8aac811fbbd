"""Jobs of the events room; the worker runs them."""

from django.db import close_old_connections
from django.utils import timezone
from procrastinate.contrib.django import app

from events import services


@app.periodic(cron="* * * * *")
@app.task(queueing_lock="events.alerts_end")
def alerts_end(timestamp: int) -> None:
    """What no batch ends, since no batch comes: alerts of devices and channels that are gone."""
    close_old_connections()
    try:
        services.alerts_end(now=timezone.now())
    finally:
        close_old_connections()
