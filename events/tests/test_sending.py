"""Order, retries, the circuit, the log: what becomes of deliveries whatever the receiver does."""

import itertools
import json
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from django.db import connection

from events.http_client import REDIRECTED, TOO_SLOW
from events.models import Attempt, Delivery
from events.notifiers_store import delivery_resend, notifier_delete, notifier_update
from events.sending import LEASE, deliveries_claim
from events.tests.outbox import OutboxTestCase, Outgoing
from events.tests.receiver import Received, Receiver, Reply
from servwatch_site.tests.cast import NOW
from tokens.crypto import encrypt

DEAD = "http://127.0.0.1:9/"  # nobody listens there


class WebhookTestCase(OutboxTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.receiver = self.enterContext(Receiver())
        self.hook = self.notifier(settings={"url": f"{self.receiver.url}/hook-secret-4711"})

    def got(self) -> list[tuple[int, str]]:
        """Alert and kind of everything that was taken, in its order."""
        bodies = [request.json() for request in self.receiver.received]
        return [(body["alert_id"], body["kind"]) for body in bodies]

    def down(self, status: int = 503, **reply: Any) -> None:
        self.receiver.reply = lambda _request: Reply(status, **reply)

    def up(self) -> None:
        self.receiver.received.clear()
        self.receiver.reply = lambda _request: Reply()


class DeliverTest(WebhookTestCase):
    def test_what_was_queued_is_sent_once(self) -> None:
        alert = self.fire(self.rule(self.hook))
        assert (self.outgoing.send(), self.outgoing.send()) == (1, 0)
        assert self.got() == [(alert.pk, "firing")]
        delivery = Delivery.objects.get()
        assert (delivery.status, delivery.attempt_count, delivery.delivered_at) == ("delivered", 1, NOW)
        attempt = Attempt.objects.get()
        assert (attempt.ok, attempt.status_code, attempt.answer, attempt.at) == (True, 200, "ok", NOW)

    def test_of_one_alert_everything_comes_in_order(self) -> None:
        rule = self.rule(self.hook)
        alerts = [
            self.fire(rule, "firing", "repeat", "repeat", "resolved", resolved_at=NOW) for _ in range(5)
        ]
        self.outgoing.send()
        for alert in alerts:
            kinds = [kind for key, kind in self.got() if key == alert.pk]
            assert kinds == ["firing", "repeat", "repeat", "resolved"]

    def test_nothing_of_an_alert_goes_out_before_what_came_first(self) -> None:
        self.down(400)
        stuck = self.fire(self.rule(self.hook), "firing", "resolved", resolved_at=NOW)
        other = self.fire(self.rule(self.hook))
        self.outgoing.send()
        assert sorted(self.got()) == [(stuck.pk, "firing"), (other.pk, "firing")]

    def test_a_disabled_notifier_is_sent_nothing_and_goes_on_later(self) -> None:
        rule = self.rule(self.hook)
        self.fire(rule)
        notifier_update(self.hook, now=NOW, enabled=False)
        assert self.outgoing.send() == 0
        notifier_update(self.hook, now=NOW, enabled=True)
        assert self.outgoing.send() == 1

    def test_what_waits_for_a_deleted_notifier_is_cancelled(self) -> None:
        self.down()
        self.fire(self.rule(self.hook))
        self.outgoing.send()
        notifier_delete(self.hook, now=NOW)
        self.later(hours=1)
        assert self.outgoing.send() == 0
        assert self.statuses() == ["cancelled"]

    def test_it_can_be_sent_again_under_its_id(self) -> None:
        self.fire(self.rule(self.hook))
        self.outgoing.send()
        delivery_resend(Delivery.objects.get(), now=self.outgoing.now)
        assert self.outgoing.send() == 1
        ids = {request.headers["webhook-id"] for request in self.receiver.received}
        assert len(self.receiver.received) == 2 and ids == {str(Delivery.objects.get().public_id)}
        assert Attempt.objects.count() == 2


class DownTest(WebhookTestCase):
    def test_after_an_hour_everything_comes_once_and_in_order_and_the_log_shows_it(self) -> None:
        rule = self.rule(self.hook)
        alerts = [self.fire(rule, "firing", "resolved", resolved_at=NOW) for _ in range(20)]
        self.down()
        while self.outgoing.now < NOW + timedelta(hours=1):
            self.outgoing.send()
            self.to_next()
        failed = Attempt.objects.count()
        assert failed == len(self.receiver.received)
        self.up()
        self.outgoing.send()
        assert self.outgoing.now < NOW + timedelta(hours=1, minutes=15)
        for alert in alerts:
            assert [kind for key, kind in self.got() if key == alert.pk] == ["firing", "resolved"]
        assert len(self.got()) == 40
        assert self.statuses() == ["delivered"] * 40
        ok = Attempt.objects.filter(ok=True)
        assert (ok.count(), Attempt.objects.filter(ok=False, status_code=503).count()) == (40, failed)
        first = Delivery.objects.order_by("pk")[0]
        assert list(first.attempts.order_by("pk").values_list("ok", flat=True))[-1]
        assert first.attempts.filter(ok=False).exists()

    def test_a_receiver_that_fails_is_left_alone_longer_and_longer(self) -> None:
        rule = self.rule(self.hook)
        for _ in range(30):
            self.fire(rule)
        self.down()
        self.outgoing.send()
        begun = len(self.receiver.received)
        times = []
        while self.outgoing.now < NOW + timedelta(hours=2):
            self.to_next()
            self.later(seconds=-1)
            assert self.outgoing.send() == 0
            self.later(seconds=1)
            assert self.outgoing.send() == 1
            times.append(self.outgoing.now)
        assert begun < 20  # what was on its way before it was known
        assert len(self.receiver.received) == begun + len(times)  # each time it was tried with one
        distances = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
        assert 20 <= (times[0] - NOW).total_seconds() <= 40
        assert all(distance <= 600 for distance in distances) and distances[-1] >= 480
        assert distances == sorted(distances[:4]) + distances[4:]
        self.hook.refresh_from_db()
        assert self.hook.last_error.startswith("503")

    def test_when_it_is_back_everything_is_due_at_once(self) -> None:
        rule = self.rule(self.hook)
        for _ in range(30):
            self.fire(rule)
        self.down()
        for _ in range(8):
            self.outgoing.send()
            self.to_next()
        self.up()
        assert self.outgoing.send() == 30
        assert self.statuses() == ["delivered"] * 30

    def test_a_dead_receiver_delays_nobody(self) -> None:
        dead, slow_is_over = self.notifier(settings={"url": DEAD}), threading.Event()
        self.addCleanup(slow_is_over.set)

        def wait(_request: Any) -> Reply:
            slow_is_over.wait(30)
            return Reply()

        slow = self.enterContext(Receiver(wait))
        frozen = self.notifier(settings={"url": slow.url})
        for _ in range(40):
            for notifier in (dead, frozen, self.hook):
                self.fire(self.rule(notifier))

        def release(_request: Any) -> Reply:
            if len(self.receiver.received) == 40:
                slow_is_over.set()  # all of the healthy one's came while the frozen one had answered nothing
            return Reply()

        self.receiver.reply = release
        self.outgoing.send()
        assert slow_is_over.is_set()
        assert len(self.receiver.received) == len(slow.received) == 40
        assert Attempt.objects.filter(delivery__notifier=dead, ok=True).count() == 0

    def test_after_a_day_it_is_given_up(self) -> None:
        self.down(404)
        alert = self.fire(self.rule(self.hook))
        self.outgoing.send()
        while "pending" in self.statuses():
            self.to_next()
            self.outgoing.send()
        assert self.statuses() == ["expired"]
        delivery = Delivery.objects.get()
        times = list(delivery.attempts.order_by("pk").values_list("at", flat=True))
        assert 50 <= len(times) == delivery.attempt_count <= 110
        assert max(times) < NOW + timedelta(hours=24)
        assert max(b - a for a, b in itertools.pairwise(times)) <= timedelta(minutes=30)
        self.up()
        self.tell(alert, "resolved")
        assert self.outgoing.send() == 1  # what is given up holds nothing back

    def test_retry_after_is_honoured(self) -> None:
        self.down(429, headers={"Retry-After": "120"})
        self.fire(self.rule(self.hook))
        self.outgoing.send()
        self.up()
        self.later(seconds=119)
        self.fire(self.rule(self.hook))
        assert self.outgoing.send() == 0  # nor is anything else sent there
        self.later(seconds=2)
        assert self.outgoing.send() == 2

    def test_retry_after_may_be_a_date(self) -> None:
        at = datetime.now(UTC) + timedelta(
            seconds=120
        )  # by the clock of the receiver, which is that of the world
        self.down(503, headers={"Retry-After": format_datetime(at, usegmt=True)})
        self.fire(self.rule(self.hook))
        self.outgoing.send()
        self.up()
        self.later(seconds=100)
        self.fire(self.rule(self.hook))
        assert self.outgoing.send() == 0
        self.later(seconds=21)
        assert self.outgoing.send() == 2

    def test_a_retry_after_that_is_over_or_no_time_at_all_asks_for_nothing(self) -> None:
        for text in ("Thu, 01 Jan 1970 00:00:00 GMT", "soon", "-5", "9" * 12):
            self.down(429, headers={"Retry-After": text})
            self.fire(self.rule(self.hook))
            self.outgoing.send()
            self.up()
            self.later(seconds=7)
            assert self.outgoing.send() == 1, text

    def test_other_errors_of_the_message_do_not_hold_the_receiver_back(self) -> None:
        self.down(400)
        for _ in range(5):
            self.fire(self.rule(self.hook))
        self.outgoing.send()
        self.hook.refresh_from_db()
        assert (self.hook.failures, self.hook.retry_at) == (0, None)
        self.up()
        self.fire(self.rule(self.hook))
        assert self.outgoing.send() == 1


class StrangeReceiverTest(WebhookTestCase):
    def attempt(self, **http: Any) -> Attempt:
        """How it goes with this receiver."""
        self.fire(self.rule(self.hook))
        Outgoing(**http).send()
        return Attempt.objects.get()

    def test_a_redirect_is_not_followed(self) -> None:
        other = self.enterContext(Receiver())
        self.down(307, headers={"Location": other.url})
        attempt = self.attempt()
        assert (attempt.ok, attempt.status_code, attempt.error) == (False, 307, REDIRECTED)
        assert other.received == []

    def test_of_a_large_answer_only_the_beginning_is_kept(self) -> None:
        self.down(200, body=b"x" * 5_000_000)
        attempt = self.attempt()
        assert (attempt.ok, attempt.answer) == (True, "x" * 500)

    def test_an_answer_that_is_no_text_is_kept_as_well_as_it_can_be(self) -> None:
        self.down(200, body=b"\xff\x00ok")
        assert self.attempt().answer == "\ufffdok"

    def test_no_answer_in_time_is_a_failure(self) -> None:
        over = threading.Event()
        self.addCleanup(over.set)

        def wait(_request: Any) -> Reply:
            over.wait(30)
            return Reply()

        self.receiver.reply = wait
        attempt = self.attempt(total_s=0.2)
        assert (attempt.ok, attempt.status_code, attempt.error) == (False, None, TOO_SLOW)

    def test_no_secret_is_told(self) -> None:
        self.receiver.reply = lambda request: Reply(
            500, f"no {self.receiver.url}{request.path} here".encode()
        )
        with self.assertNoLogs("events", "WARNING"):
            attempt = self.attempt()
        assert attempt.status_code == 500
        assert "hook-secret-4711" not in attempt.answer + attempt.error and "no …" in attempt.answer
        self.hook.refresh_from_db()
        assert "secret" not in self.hook.last_error
        attempt.delete()
        Delivery.objects.all().delete()
        for address in (
            DEAD,
            "http://nobody.invalid/",
            "http://[::1/",
            self.receiver.url.replace("http:", "https:"),
        ):
            hook = self.notifier(settings={"url": self.receiver.url})
            hook.ciphertext = _encrypted({"url": f"{address.rstrip('/')}/hook-secret-4711"})
            hook.save()
            self.fire(self.rule(hook))
            self.outgoing.send()
            (attempt,) = Attempt.objects.all()
            assert not attempt.ok and attempt.error and "secret" not in attempt.error, address
            attempt.delete()
            Delivery.objects.all().delete()


class TogetherTest(WebhookTestCase):
    def test_two_senders_at_once_send_once_and_in_order(self) -> None:
        rule = self.rule(self.hook)
        alerts = [self.fire(rule, "firing", "repeat", "resolved", resolved_at=NOW) for _ in range(30)]
        threads = [threading.Thread(target=Outgoing().send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        Outgoing().send()  # both may have stopped while the other one held what came before
        assert len(self.got()) == len(set(self.got())) == 90
        for alert in alerts:
            assert [kind for key, kind in self.got() if key == alert.pk] == ["firing", "repeat", "resolved"]

    def test_what_a_killed_sender_had_leased_is_sent_again_under_the_same_id(self) -> None:
        self.fire(self.rule(self.hook), "firing", "resolved", resolved_at=NOW)
        (claim,) = deliveries_claim(now=NOW)  # and this one is gone before it wrote anything
        assert self.outgoing.send() == 0
        self.later(seconds=LEASE.total_seconds() + 1)
        assert self.outgoing.send() == 2
        assert self.receiver.received[0].headers["webhook-id"] == claim.public_id
        assert [kind for _key, kind in self.got()] == ["firing", "resolved"]

    def test_of_a_receiver_on_trial_one_delivery_is_leased_by_all_senders(self) -> None:
        rule = self.rule(self.hook)
        for _ in range(10):
            self.fire(rule)
        self.down()
        self.outgoing.send()
        self.later(minutes=20)
        first = deliveries_claim(now=self.outgoing.now)
        second = deliveries_claim(now=self.outgoing.now)
        assert (len(first), len(second)) == (1, 0)
        assert first[0].is_trial

    def test_settings_that_cannot_be_read_hold_nobody_up(self) -> None:
        broken = self.notifier(settings={"url": DEAD})
        broken.ciphertext = "of another key"
        broken.save()
        self.fire(self.rule(broken))
        self.fire(self.rule(self.hook))
        with self.assertLogs("events.sending", "ERROR"):
            self.outgoing.send()
        assert len(self.receiver.received) == 1
        assert "could not be made" in Attempt.objects.get(ok=False).error

    def test_what_cannot_be_noted_holds_nobody_up(self) -> None:
        def vanish(request: Received) -> Reply:
            if request.json()["description"] == "gone":
                Delivery.objects.filter(rule__description="gone").delete()
                connection.close()
            return Reply()

        self.receiver.reply = vanish
        self.fire(self.rule(self.hook, description="gone"))
        self.fire(self.rule(self.hook, description="there"))
        with self.assertLogs("events.sending", "ERROR"):
            assert self.outgoing.send() == 2
        assert self.statuses() == ["delivered"]

    def test_many_go_to_one_receiver_at_a_time(self) -> None:
        everybody_is_here = threading.Barrier(8)

        def meet(_request: Any) -> Reply:
            everybody_is_here.wait(30)
            return Reply()

        self.receiver.reply = meet
        for _ in range(8):
            self.fire(self.rule(self.hook))
        assert self.outgoing.send() == 8
        assert self.statuses() == ["delivered"] * 8


def _encrypted(settings: dict[str, Any]) -> str:
    return encrypt(json.dumps(settings))
