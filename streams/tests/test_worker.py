"""`manage.py worker` as a process of its own, whose database goes away and comes back."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from django.db import connection
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob, ProcrastinateWorker

from servwatch_site.tests import listening
from servwatch_site.tests.street import CommittedTestCase
from servwatch_site.tests.waiting import wait_until
from streams.database import connection_parameters

ROOT = Path(__file__).resolve().parents[2]


def leave_job(name: str = "replay_wanted", *, in_s: int = 0) -> int:
    """A job that finds nothing to do; its number."""
    lock = f"test-{uuid4()}"
    task = app.configure_task(f"streams.tasks.{name}", queueing_lock=lock, schedule_in={"seconds": in_s})
    return task.defer(timestamp=0)


def is_done(job_id: int) -> bool:
    """The worker deletes what has succeeded."""
    return not ProcrastinateJob.objects.filter(pk=job_id).exists()


@contextmanager
def database_away() -> Iterator[None]:
    """All connections but ours are cut, and new ones refused."""
    name = connection.settings_dict["NAME"]
    with psycopg.connect(**{**connection_parameters(), "dbname": "postgres"}, autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            server.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name IN ('servwatch-worker', 'servwatch-outbox')",
                [name],
            )
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


class WorkerTest(CommittedTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.enterContext(tempfile.TemporaryFile())
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": listening.test_database_url()},
            stderr=self.log,
        )
        self.addCleanup(self._end)
        job = leave_job()
        wait_until(lambda: is_done(job), what="the first job")

    def test_it_goes_on_by_itself_when_the_database_is_back(self) -> None:
        with database_away():
            wait_until(lambda: "waits for the database" in self.said(), what="the worker's word")
        job = leave_job()
        wait_until(lambda: is_done(job), what="a job after the outage")
        assert self.process.poll() is None
        assert "goes on" in self.said()
        assert "Traceback" not in self.said()

    def test_a_job_that_loses_its_connection_is_told_in_a_line(self) -> None:
        with psycopg.connect(**connection_parameters()) as other:
            other.execute("LOCK TABLE streams_refusedmessage")  # where the job will wait
            leave_job()
            wait_until(self.cut_waiting, what="the job that waits")
            wait_until(lambda: "ended with status: Error" in self.said(), what="the worker's word")
        (line,) = [line for line in self.said().splitlines() if "replay_wanted" in line and "Error" in line]
        assert ": OperationalError: " in line
        assert "Traceback" not in self.said()
        job = leave_job()
        wait_until(lambda: is_done(job), what="a job after it")

    def cut_waiting(self) -> bool:
        """Cut who waits for the lock, which is the job; whether it did."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE NOT granted AND relation = 'streams_refusedmessage'::regclass"
            )
            return bool(cursor.fetchall())

    def test_it_ends_when_told_and_leaves_nothing_behind(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=15) == 0
        assert not ProcrastinateWorker.objects.exists()

    def test_a_job_that_a_killed_worker_had_begun_is_done_by_the_next(self) -> None:
        begun = leave_job(in_s=3600)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", [begun])
        leave_job("jobs_resume")
        wait_until(lambda: is_done(begun), what="the job that was begun")

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=15)
