"""Jobs of the events room; the worker runs them."""

from django.db import close_old_connections
from django.utils import timezone
from procrastinate.contrib.django import app

from events import notifiers_store, services, stock


@app.periodic(cron="* * * * *")
@app.task(queueing_lock="events.alerts_end")
def alerts_end(timestamp: int) -> None:
    """What no batch ends, since no batch comes: alerts of devices and channels that are gone."""
    close_old_connections()
    try:
        services.alerts_end(now=timezone.now())
    finally:
        close_old_connections()


@app.periodic(cron="23 * * * *")
@app.task(queueing_lock="events.deliveries_expire_old")
def deliveries_expire_old(timestamp: int) -> None:
    """The delivery log is kept for some months."""
    close_old_connections()
    try:
        notifiers_store.deliveries_expire_old(now=timezone.now())
    finally:
        close_old_connections()


@app.periodic(cron="23 * * * *")
@app.task(queueing_lock="events.agent_rules_follow")
def agent_rules_follow(timestamp: int) -> None:
    close_old_connections()
    try:
        stock.agent_rules_follow(now=timezone.now())
    finally:
        close_old_connections()
