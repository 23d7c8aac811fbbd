"""Jobs of the tokens room; the worker runs them."""

from django.db import close_old_connections
from procrastinate.contrib.django import app

from tokens import counters


@app.periodic(cron="*/5 * * * *")
@app.task(queueing_lock="tokens.counters_expire")
def counters_expire(timestamp: int) -> None:
    close_old_connections()
    try:
        counters.counters_expire()
    finally:
        close_old_connections()
