"""Jobs of the streams room; the worker runs them. Each only says when, the work is elsewhere."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import close_old_connections
from django.utils import timezone
from procrastinate import JobContext
from procrastinate.contrib.django import app
from procrastinate.exceptions import UniqueViolation
from procrastinate.jobs import Status

from streams import refused, retention, rollups, trends, upkeep

logger = logging.getLogger(__name__)


@app.periodic(cron="*/10 * * * *")
@app.task(queueing_lock="streams.days_maintain")
def days_maintain(timestamp: int) -> None:
    with _fresh_connection() as now:
        upkeep.days_maintain(now=now)


@app.periodic(cron="37 * * * *")
@app.task(queueing_lock="streams.columnstore_maintain")
def columnstore_maintain(timestamp: int) -> None:
    with _fresh_connection() as now:
        for sentence in upkeep.columnstore_maintain(now=now):
            logger.info("%s.", sentence)


@app.periodic(cron="7 * * * *")
@app.task(queueing_lock="streams.expire")
def expire(timestamp: int) -> None:
    with _fresh_connection() as now:
        retention.records_expire(now=now)
        retention.refused_expire(now=now)
        retention.answers_expire(now=now)


@app.periodic(cron="*/2 * * * *")
@app.task(queueing_lock="streams.channels_purge")
def channels_purge(timestamp: int) -> None:
    with _fresh_connection() as now:
        retention.channels_purge(now=now)


@app.periodic(cron="* * * * *")
@app.task(queueing_lock="streams.devices_purge")
def devices_purge(timestamp: int) -> None:
    with _fresh_connection() as now:
        retention.devices_purge(now=now)


@app.periodic(cron="* * * * *")
@app.task(queueing_lock="streams.replay_wanted")
def replay_wanted(timestamp: int) -> None:
    with _fresh_connection() as now:
        refused.replay_wanted(now=now)


@app.periodic(cron="* * * * * 15")  # a quarter into the minute the one before is surely complete
@app.task(queueing_lock="streams.rollups_make", pass_context=True)
def rollups_make(context: JobContext, timestamp: int) -> None:
    rollups.rollups_make(now=timezone.now, stop=context.should_abort)


@app.periodic(cron="*/5 * * * * 40")  # what the roll-ups of the minute before hold is seen at once
@app.task(queueing_lock="streams.trends_check")
def trends_check(timestamp: int) -> None:
    with _fresh_connection() as now:
        trends.trends_check(now=now)


@app.periodic(cron="* * * * *")
@app.task(queueing_lock="streams.jobs_resume")
async def jobs_resume(timestamp: int) -> None:
    """What a killed worker had begun is begun again; every job can be repeated."""
    for job in await app.job_manager.get_stalled_jobs():
        try:
            await app.job_manager.retry_job(job)
        except UniqueViolation:  # the same is waiting already
            await app.job_manager.finish_job(job, status=Status.ABORTED, delete_job=True)


@contextmanager
def _fresh_connection() -> Iterator[datetime]:
    """Jobs run in threads that stay; none may inherit a connection that died between two jobs."""
    close_old_connections()
    try:
        yield timezone.now()
    finally:
        close_old_connections()
