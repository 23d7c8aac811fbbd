"""`manage.py worker`: runs the jobs, until told to stop."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from procrastinate.contrib.django import app
from procrastinate.contrib.django.django_connector import DjangoConnector

from streams import upkeep


class Command(BaseCommand):
    help = "Run the background jobs: days ahead, retention, purges."

    def handle(self, *args: Any, **options: Any) -> None:
        upkeep.days_maintain(now=timezone.now())  # at once: tomorrow must exist before it begins
        if not isinstance(app.connector, DjangoConnector):
            raise CommandError("The job queue is not on Django's database.")
        with app.replace_connector(app.connector.get_worker_connector()) as worker:
            worker.run_worker(concurrency=4, delete_jobs="successful", shutdown_graceful_timeout=5)
        self.stdout.write("Worker stopped.")
