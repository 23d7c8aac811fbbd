"""Whether there is anything to do is asked in one statement, and many notifications take as few as one."""

import random
from datetime import timedelta

from django.db import connection
from django.test.utils import CaptureQueriesContext

from events.due import Due, due_look
from events.http_client import Answer
from events.models import Alert, Delivery, Flapping, Notification, Rule
from events.sending import LEASE, Result, deliveries_claim, results_exchange
from events.settling import settle_due
from events.tests.alerts import alert_add
from events.tests.outbox import OutboxTestCase
from servwatch_site.tests.cast import NOW


class DueTest(OutboxTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.hook = self.notifier(settings={"url": "http://127.0.0.1:9/hook"})

    def waiting(self, rule: Rule, count: int) -> None:
        """So many notifications of different instances."""
        for _ in range(count):
            alert = alert_add(self.owner, self.servers, self.web1, rule=rule, key=f"k{Alert.objects.count()}")
            Notification.objects.create(alert=alert, kind="firing")

    def test_without_anything_to_do_one_statement_says_so(self) -> None:
        self.fire(self.rule(self.hook))
        Delivery.objects.update(status="delivered")
        with CaptureQueriesContext(connection) as asked:
            assert due_look(now=NOW) == Due(settle=False, send=False)
        assert len(asked) == 1

    def test_what_waits_is_seen_when_its_time_has_come(self) -> None:
        self.waiting(self.rule(self.hook), 1)
        assert due_look(now=NOW) == Due(settle=True, send=False)
        Notification.objects.update(held_until=NOW + timedelta(seconds=1))
        assert not due_look(now=NOW).settle
        assert due_look(now=NOW + timedelta(seconds=1)).settle

    def test_reminders_and_calm_are_seen(self) -> None:
        alert = self.fire(self.rule(self.hook, repeat_s=600))
        Delivery.objects.update(status="delivered")
        Alert.objects.update(notified_at=NOW)
        assert not due_look(now=NOW + timedelta(seconds=599)).settle
        assert due_look(now=NOW + timedelta(seconds=600)).settle
        Alert.objects.update(acknowledged_at=NOW, snoozed_until=NOW + timedelta(seconds=30))
        assert not due_look(now=NOW + timedelta(seconds=29)).settle
        assert due_look(now=NOW + timedelta(seconds=30)).settle
        Alert.objects.update(resolved_at=NOW)
        assert not due_look(now=NOW + timedelta(seconds=30)).settle
        Flapping.objects.create(
            rule=alert.rule,
            device_key=1,
            tag="",
            key_digest=1,
            since=NOW,
            changed_at=NOW - timedelta(minutes=15),
        )
        assert due_look(now=NOW).settle

    def test_deliveries_are_seen_unless_leased_or_their_receiver_is_left_alone(self) -> None:
        self.fire(self.rule(self.hook))
        assert due_look(now=NOW).send
        assert len(deliveries_claim(now=NOW)) == 1
        assert not due_look(now=NOW).send
        assert due_look(now=NOW + LEASE).send
        self.hook.retry_at = NOW + 2 * LEASE
        self.hook.save()
        assert not due_look(now=NOW + LEASE).send

    def test_sixteen_take_as_few_statements_as_one(self) -> None:
        rule, taken = self.rule(self.hook), []
        chance = random.Random(1)  # noqa: S311 - as Sender's
        for count in (1, 1, 16):  # the first makes the secret that signs
            self.waiting(rule, count)
            with CaptureQueriesContext(connection) as asked:
                assert settle_due(now=NOW) == count
                claims = deliveries_claim(now=NOW)
                results = [Result(one, NOW, NOW, Answer(True, 3, 200, "ok")) for one in claims]
                results_exchange(results, chance=chance, now=NOW, busy={}, room=16)
            assert len(claims) == count
            taken.append(len(asked))
        assert taken[2] == taken[1] <= 24, taken
        assert set(self.statuses()) == {"delivered"}
