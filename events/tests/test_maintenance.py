"""Writing maintenance windows."""

from datetime import timedelta
from typing import Any

from events.maintenance import maintenance_create, maintenance_delete, maintenance_update
from events.models import Maintenance, Notification
from events.tests.alerts import alert_add
from servwatch_site.errors import ServwatchError
from servwatch_site.tests.cast import NOW, BaseTestCase

HOUR = timedelta(hours=1)
WHOLE: dict[str, Any] = {"starts_at": NOW, "ends_at": NOW + HOUR}


class MaintenanceTest(BaseTestCase):
    def make(self, **fields: Any) -> Maintenance:
        return maintenance_create(self.owner, changes=WHOLE | fields, by="Alice", now=NOW)

    def test_it_keeps_who_and_what(self) -> None:
        window = self.make(name="Patches", channel=self.servers, repeat="weekly", weekdays=[6, 5, 6])
        window.refresh_from_db()
        assert (window.name, window.created_by, window.weekdays) == ("Patches", "Alice", [5, 6])
        assert window.created_at is not None

    def test_without_a_beginning_it_begins_now(self) -> None:
        window = maintenance_create(self.owner, changes={"ends_at": NOW + HOUR}, by="Alice", now=NOW)
        assert window.starts_at == NOW

    def test_it_refuses_what_makes_no_sense(self) -> None:
        for fields, wrong in (
            ({"ends_at": NOW}, "ends_at"),
            ({"ends_at": None}, "ends_at"),
            ({"ends_at": NOW + 25 * HOUR, "repeat": "daily"}, "ends_at"),
            ({"ends_at": NOW + 8 * 24 * HOUR, "repeat": "weekly"}, "ends_at"),
            ({"ends_at": NOW + 400 * 24 * HOUR}, "ends_at"),
            ({"weekdays": [7], "repeat": "weekly"}, "weekdays"),
            ({"until": NOW, "repeat": "daily"}, "until"),
        ):
            with self.assertRaises(ServwatchError) as caught:
                self.make(**fields)
            assert set(caught.exception.fields or {}) == {wrong}, fields
        assert Maintenance.objects.count() == 0

    def test_weekdays_belong_to_weekly_windows(self) -> None:
        window = self.make(repeat="daily", weekdays=[1])
        assert window.weekdays == []

    def test_changing_or_deleting_it_lets_go_of_the_account_s_notifications_only(self) -> None:
        window = self.make()
        held = []
        for account in (self.owner, self.stranger):
            alert = alert_add(account, self.servers, self.web1)
            held.append(Notification.objects.create(alert=alert, kind="firing", held_until=NOW + HOUR))
        now = NOW + timedelta(minutes=1)
        maintenance_update(window, changes={"name": "x"}, now=now)
        for notification in held:
            notification.refresh_from_db()
        assert [notification.held_until for notification in held] == [now, NOW + HOUR]
        maintenance_delete(window, now=now)
        assert Maintenance.objects.count() == 0
