"""Jobs of the devices room; the worker runs them."""

from django.db import close_old_connections
from django.utils import timezone
from procrastinate.contrib.django import app

from devices import commands


@app.periodic(cron="* * * * *")
@app.task(queueing_lock="devices.commands_send")
def commands_send(timestamp: int) -> None:
    """What a wake-up missed; usually a command goes out as soon as its device subscribes."""
    close_old_connections()
    try:
        commands.commands_due_send(now=timezone.now())
        commands.commands_forget(now=timezone.now())
    finally:
        close_old_connections()
