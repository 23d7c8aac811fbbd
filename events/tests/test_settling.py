"""From notifications to deliveries: who is told what and when. The clock is the test's."""

from datetime import datetime, timedelta
from threading import Thread
from typing import Any

from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from events.damping import FLAPPING_FIRINGS
from events.maintenance import maintenance_create, maintenance_delete, maintenance_update
from events.models import Alert, Delivery, DeliveryItem, Flapping, Maintenance, Notification, Notifier, Rule
from events.services import alert_acknowledge, alert_snooze, alerts_acknowledge, alerts_snooze
from events.settling import settle_due
from events.tests.alerts import alert_add
from servwatch_site.tests.cast import NOW, BaseTestCase
from servwatch_site.tests.street import CommittedTestCase
from tokens.crypto import encrypt
from tokens.models import Account


class Telling(BaseTestCase):
    """A rule that tells a webhook at once and an e-mail address in groups."""

    def setUp(self) -> None:
        super().setUp()
        self.web = self.notifier("webhook")
        self.mail = self.notifier("email", group_s=15)
        self.rule = Rule.objects.create(
            account=self.owner, channel=self.servers, source="cpu", operator=">", threshold="90", enabled=True
        )
        self.rule.notifiers.add(self.web, self.mail)

    def notifier(self, kind: str, *, group_s: int = 0) -> Notifier:
        return Notifier.objects.create(
            account=self.owner, kind=kind, name=kind, ciphertext=encrypt("{}"), group_s=group_s
        )

    def at(self, seconds: float) -> datetime:
        return NOW + timedelta(seconds=seconds)

    def fire(self, *, at_s: float = 0, **fields: Any) -> Alert:
        at = self.at(at_s)
        times = {"since": at, "fired_at": at, "last_at": at}
        alert = alert_add(self.owner, self.servers, self.web1, rule=self.rule, **times | fields)
        Notification.objects.create(alert=alert, kind="firing")
        return alert

    def resolve(self, alert: Alert, *, at_s: float = 0) -> None:
        Alert.objects.filter(pk=alert.pk).update(resolved_at=self.at(at_s), resolution="recovered")
        Notification.objects.create(alert=alert, kind="resolved")

    def tell_nobody(self) -> None:
        """The rule names nobody, and the account has no address that it would imply."""
        self.rule.notifiers.clear()
        Account.objects.filter(pk=self.owner.pk).update(email1="", email2="")

    def settle(self, seconds: float) -> int:
        return settle_due(now=self.at(seconds))

    def said(self, notifier: Notifier) -> list[list[str]]:
        """The kinds in each delivery to this notifier, in order."""
        return [
            list(delivery.items.order_by("notification").values_list("notification__kind", flat=True))
            for delivery in Delivery.objects.filter(notifier=notifier).order_by("pk")
        ]

    def outcomes(self) -> list[tuple[str, str]]:
        return list(Notification.objects.order_by("pk").values_list("kind", "outcome"))

    def window(self, begins_s: float, ends_s: float, **fields: Any) -> Maintenance:
        times = {"starts_at": self.at(begins_s), "ends_at": self.at(ends_s)}
        return maintenance_create(self.owner, changes=times | fields, by="Alice", now=NOW)


class PlainTest(Telling):
    def test_each_notifier_is_told_of_beginning_and_end(self) -> None:
        alert = self.fire()
        assert self.settle(1) == 1
        delivery = Delivery.objects.get(notifier=self.web)
        assert (delivery.account_id, delivery.rule_id) == (self.owner.pk, self.rule.pk)
        assert (delivery.next_at, delivery.expires_at) == (self.at(1), self.at(1) + timedelta(hours=24))
        assert Delivery.objects.get(notifier=self.mail).next_at == self.at(16)
        alert.refresh_from_db()
        assert alert.notified_at == self.at(1)
        self.resolve(alert, at_s=20)
        assert self.settle(21) == 1
        assert self.said(self.web) == [["firing"], ["resolved"]]
        assert self.said(self.mail) == [["firing"], ["resolved"]]
        assert self.outcomes() == [("firing", "sent"), ("resolved", "sent")]
        assert self.settle(22) == 0

    def test_what_was_over_before_anybody_looked_is_told_in_full_but_not_to_a_group(self) -> None:
        alert = self.fire()
        self.resolve(alert)
        assert self.settle(1) == 2
        assert self.said(self.web) == [["firing"], ["resolved"]]
        assert self.said(self.mail) == []

    def test_nobody_to_tell(self) -> None:
        self.tell_nobody()
        alert = self.fire()
        self.settle(1)
        self.resolve(alert)
        self.settle(2)
        assert self.outcomes() == [("firing", "nobody"), ("resolved", "nobody")]
        alert.refresh_from_db()
        assert alert.notified_at is None

    def test_a_disabled_or_deleted_notifier_is_told_nothing(self) -> None:
        alert = self.fire()
        self.settle(1)
        Notifier.objects.filter(pk=self.web.pk).update(enabled=False)
        Notifier.objects.filter(pk=self.mail.pk).update(deleted_at=NOW)
        self.resolve(alert)
        self.settle(20)
        assert self.outcomes()[1] == ("resolved", "nobody")

    def test_the_end_is_told_to_those_who_were_told_of_the_beginning(self) -> None:
        alert = self.fire()
        self.settle(1)
        late = self.notifier("slack")
        self.rule.notifiers.set([late])
        self.resolve(alert)
        self.settle(20)
        assert self.said(late) == []
        assert self.said(self.web) == [["firing"], ["resolved"]]

    def test_many_settle_in_few_queries(self) -> None:
        asked = []
        for count in (3, 60):
            for number in range(count):
                self.fire(key=f"disk:{count}:{number}")
            with CaptureQueriesContext(connection) as queries:
                assert self.settle(count) == count
            asked.append(len(queries))
        assert asked[0] == asked[1] < 20


class GroupTest(Telling):
    def test_what_comes_within_the_group_s_time_is_one_message(self) -> None:
        for number in range(200):
            self.fire(key=f"disk:{number}")
        self.settle(1)
        for number in range(3):
            self.fire(key=f"late:{number}")
        self.settle(10)
        assert [len(items) for items in self.said(self.mail)] == [203]
        assert len(self.said(self.web)) == 203
        assert Delivery.objects.get(notifier=self.mail).next_at == self.at(16)
        self.fire(key="next")
        self.settle(16)
        assert [len(items) for items in self.said(self.mail)] == [203, 1]

    def test_what_ends_while_it_gathers_is_taken_out(self) -> None:
        first, second = self.fire(key="a"), self.fire(key="b")
        self.settle(1)
        self.resolve(first)
        self.settle(2)
        assert self.said(self.mail) == [["firing"]]
        assert self.said(self.web) == [["firing"], ["firing"], ["resolved"]]
        self.resolve(second)
        self.settle(3)
        assert self.said(self.mail) == []
        assert [outcome for _, outcome in self.outcomes()] == ["sent"] * 4

    def test_a_group_alone_that_was_overtaken_has_told_nobody(self) -> None:
        self.rule.notifiers.set([self.mail])
        alert = self.fire()
        self.settle(1)
        self.resolve(alert)
        self.settle(2)
        assert self.outcomes() == [("firing", "overtaken"), ("resolved", "overtaken")]
        assert Delivery.objects.count() == 0

    def test_what_was_sent_ends_in_a_group_of_its_own(self) -> None:
        alerts = [self.fire(key=f"disk:{number}") for number in range(3)]
        self.settle(1)
        Delivery.objects.update(attempt_count=1)
        for alert in alerts:
            self.resolve(alert)
        self.settle(2)
        assert self.said(self.mail) == [["firing"] * 3, ["resolved"] * 3]

    def test_two_rules_do_not_share_a_message(self) -> None:
        self.fire()
        other = Rule.objects.create(account=self.owner, channel=self.servers, source="load", enabled=True)
        other.notifiers.add(self.mail)
        alert = alert_add(self.owner, self.servers, self.web1, rule=other)
        Notification.objects.create(alert=alert, kind="firing")
        self.settle(1)
        assert self.said(self.mail) == [["firing"], ["firing"]]


class MaintenanceTest(Telling):
    def test_nobody_is_told_during_it_and_what_still_fires_is_told_at_its_end(self) -> None:
        self.window(0, 3_600)
        lasting, passing = self.fire(key="a"), self.fire(key="b")
        assert self.settle(1) == 0
        self.resolve(passing, at_s=60)
        assert self.settle(61) == 2
        assert self.settle(3_599) == 0
        assert self.settle(3_600) == 1
        assert self.said(self.web) == [["firing"]]
        assert DeliveryItem.objects.filter(alert=passing).count() == 0
        lasting.refresh_from_db()
        assert lasting.notified_at == self.at(3_600)
        assert [outcome for _, outcome in self.outcomes()] == ["sent", "overtaken", "overtaken"]

    def test_an_end_of_what_was_told_before_waits_for_the_window_s_end(self) -> None:
        alert = self.fire()
        self.settle(1)
        self.window(10, 100)
        self.resolve(alert, at_s=20)
        assert self.settle(21) == 0
        assert self.settle(100) == 1
        assert self.said(self.web) == [["firing"], ["resolved"]]

    def test_a_window_is_about_a_channel_a_device_a_tag_or_everything(self) -> None:
        for fields in (
            {"channel": self.backups},
            {"device": self.new1},
            {"tag": "rack"},
            {"channel": self.servers, "tag": "rack"},
        ):
            window = self.window(0, 100, **fields)
            self.fire(key=f"other {fields}")
            assert self.settle(1) == 1, fields
            maintenance_delete(window, now=NOW)
        for fields in ({}, {"channel": self.servers}, {"device": self.web1}):
            window = self.window(0, 100, **fields)
            self.fire(tag="rack", key=f"key {fields}")
            assert self.settle(1) == 0, fields
            maintenance_delete(window, now=self.at(2))
            assert self.settle(2) == 1, fields

    def test_another_account_s_window_changes_nothing(self) -> None:
        maintenance_create(
            self.stranger, changes={"starts_at": NOW, "ends_at": self.at(100)}, by="Mallory", now=NOW
        )
        self.fire()
        assert self.settle(1) == 1

    def test_of_two_windows_the_later_end_counts(self) -> None:
        self.window(0, 100)
        self.window(0, 200)
        self.fire()
        assert [self.settle(seconds) for seconds in (1, 100, 199, 200)] == [0, 0, 0, 1]

    def test_a_window_that_is_shortened_or_lengthened_holds_as_it_says_now(self) -> None:
        window = self.window(0, 100)
        self.fire()
        assert self.settle(1) == 0
        maintenance_update(window, changes={"ends_at": self.at(300)}, now=self.at(2))
        assert self.settle(150) == 0
        maintenance_update(window, changes={"ends_at": self.at(160)}, now=self.at(155))
        assert self.settle(159) == 0
        assert self.settle(160) == 1

    def test_repeats_pause_during_it(self) -> None:
        Rule.objects.filter(pk=self.rule.pk).update(repeat_s=60)
        self.fire()
        self.settle(0)
        self.window(30, 300)
        assert [self.settle(seconds) for seconds in (90, 150, 299)] == [0, 0, 0]
        assert self.settle(300) == 1
        assert self.said(self.web) == [["firing"], ["repeat"]]


class SnoozeTest(Telling):
    def test_it_wakes_once_at_the_end(self) -> None:
        alert = self.fire()
        self.settle(1)
        alert_snooze(alert, until=self.at(600), by="Alice", now=self.at(2))
        assert [self.settle(seconds) for seconds in (3, 599, 600, 601)] == [0, 0, 1, 0]
        assert self.said(self.web) == [["firing"], ["awake"]]

    def test_what_was_snoozed_before_it_was_told_is_told_at_the_end(self) -> None:
        alert = self.fire()
        alert_snooze(alert, until=self.at(600), by="Alice", now=NOW)
        assert self.settle(1) == 1
        assert self.outcomes() == [("firing", "snoozed")]
        self.settle(600)
        assert self.said(self.web) == [["awake"]]

    def test_an_end_during_a_snooze_is_told_if_the_beginning_was(self) -> None:
        told, untold = self.fire(key="a"), self.fire(key="b")
        alert_snooze(untold, until=self.at(600), by="Alice", now=NOW)
        self.settle(1)
        alert_snooze(told, until=self.at(600), by="Alice", now=self.at(2))
        self.resolve(told)
        self.resolve(untold)
        self.settle(20)
        assert self.said(self.web) == [["firing"], ["resolved"]]
        assert self.settle(600) == 0

    def test_no_repeats_during_it(self) -> None:
        Rule.objects.filter(pk=self.rule.pk).update(repeat_s=60)
        alert = self.fire()
        self.settle(0)
        alert_snooze(alert, until=self.at(600), by="Alice", now=NOW)
        assert self.settle(599) == 0
        self.settle(600)
        assert self.settle(659) == 0
        self.settle(660)
        assert self.said(self.web) == [["firing"], ["awake"], ["repeat"]]

    def test_waking_within_maintenance_waits_for_its_end(self) -> None:
        alert = self.fire()
        self.settle(1)
        alert_snooze(alert, until=self.at(100), by="Alice", now=self.at(2))
        self.window(50, 200)
        assert self.settle(150) == 0
        assert self.settle(200) == 1
        assert self.said(self.web) == [["firing"], ["awake"]]


class RepeatTest(Telling):
    def setUp(self) -> None:
        super().setUp()
        Rule.objects.filter(pk=self.rule.pk).update(repeat_s=60)

    def test_it_is_told_again_and_again_until_it_is_acknowledged(self) -> None:
        alert = self.fire()
        self.settle(0)
        assert [self.settle(seconds) for seconds in (59, 60, 119, 120)] == [0, 1, 0, 1]
        alert_acknowledge(alert, by="Alice", now=self.at(130))
        assert self.settle(1_000) == 0
        assert self.said(self.web) == [["firing"], ["repeat"], ["repeat"]]

    def test_not_of_what_is_over_or_of_a_rule_without_receivers(self) -> None:
        alert = self.fire()
        self.settle(0)
        self.tell_nobody()
        assert self.settle(60) == 0
        self.resolve(alert)
        self.settle(61)
        assert self.settle(200) == 0
        assert self.outcomes() == [("firing", "sent"), ("resolved", "sent")]


class FlappingTest(Telling):
    def flap(self, count: int, *, begin_s: float = 0, every_s: float = 60) -> Alert:
        """So many firings, each but the last over after half the distance; settled as they come."""
        for number in range(count):
            at_s = begin_s + number * every_s
            alert = self.fire(at_s=at_s)
            self.settle(at_s)
            if number < count - 1:
                self.resolve(alert, at_s=at_s + every_s / 2)
                self.settle(at_s + every_s / 2)
        return alert

    def test_it_is_said_once_at_the_fourth_firing_and_then_there_is_quiet(self) -> None:
        self.flap(FLAPPING_FIRINGS + 3)
        assert self.said(self.web) == [["firing"], ["resolved"]] * 3 + [["flapping"]]
        assert Alert.objects.count() == FLAPPING_FIRINGS + 3
        assert Flapping.objects.get().changed_at == self.at(360)

    def test_not_when_the_firings_are_far_apart(self) -> None:
        self.flap(6, every_s=700)
        assert Flapping.objects.count() == 0
        assert ["flapping"] not in self.said(self.web)

    def test_another_key_path_or_device_is_another_matter(self) -> None:
        for number in range(6):
            self.fire(key=f"disk:{number}")
            self.settle(number)
        assert Flapping.objects.count() == 0

    def test_when_it_is_calm_again_it_is_said_that_it_fires(self) -> None:
        self.flap(4)
        assert self.settle(180 + 899) == 0
        assert self.settle(180 + 900) == 1
        assert self.said(self.web)[-1] == ["calm"]
        assert Flapping.objects.count() == 0

    def test_or_that_it_is_over_to_those_who_were_told(self) -> None:
        alert = self.flap(4)
        self.resolve(alert, at_s=200)
        self.settle(200)
        late = self.notifier("slack")
        self.rule.notifiers.add(late)
        assert self.settle(200 + 900) == 1
        assert self.said(self.web)[-2:] == [["flapping"], ["calm"]]
        assert self.said(late) == []
        self.fire(at_s=10_000)
        self.settle(10_000)
        assert self.said(late) == [["firing"]]

    def test_each_change_begins_the_quiet_anew(self) -> None:
        self.flap(4)
        alert = self.fire(at_s=900)
        self.settle(900)
        assert self.settle(1_799) == 0
        self.resolve(alert, at_s=1_799)
        self.settle(1_799)
        assert self.settle(1_800) == 0
        assert self.settle(2_699) == 1

    def test_no_repeats_while_it_flaps(self) -> None:
        Rule.objects.filter(pk=self.rule.pk).update(repeat_s=60)
        self.flap(4)
        assert [self.settle(seconds) for seconds in (260, 500)] == [0, 0]


class ManyTest(Telling):
    def test_all_of_a_group_are_acknowledged_or_snoozed_at_once(self) -> None:
        open_ = [self.fire(key=f"disk:{number}") for number in range(3)]
        over = self.fire(key="over")
        self.resolve(over)
        theirs = alert_add(self.stranger, self.servers, self.web1)
        alert_acknowledge(open_[0], by="Bob", now=NOW)
        keys = [alert.pk for alert in (*open_, over, theirs)]
        assert alerts_acknowledge(self.owner, keys, by="Alice", now=self.at(1)) == 3
        assert list(Alert.objects.order_by("pk").values_list("acknowledged_by", flat=True)) == [
            "Bob",
            "Alice",
            "Alice",
            "",
            "",
        ]
        assert alerts_snooze(self.owner, keys, until=self.at(60), by="Alice", now=self.at(2)) == 3
        assert Alert.objects.filter(snoozed_by="Alice", snoozed_at=self.at(2)).count() == 3
        assert alerts_snooze(self.owner, keys, until=None, by="Alice", now=self.at(3)) == 3
        assert Alert.objects.filter(snoozed_until=None, snoozed_at=None, snoozed_by="").count() == 5


class TwoWorkersTest(CommittedTestCase):
    def test_while_one_settles_the_other_does_nothing(self) -> None:
        alert = alert_add(self.owner, self.servers, self.web1)
        Notification.objects.create(alert=alert, kind="firing")
        found: list[int] = []

        def other() -> None:
            found.append(settle_due(now=NOW))
            connections.close_all()

        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(5161, 1)")
            thread = Thread(target=other)
            thread.start()
            thread.join(timeout=20)
        assert found == [0]
        assert settle_due(now=NOW) == 1
        assert settle_due(now=NOW) == 0
