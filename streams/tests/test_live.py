import json
from contextlib import closing
from itertools import takewhile

import psycopg
import pytest
from django.db import connection

from events.models import Notification
from events.tests.alerts import alert_add
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import CommittedTestCase
from streams.database import connection_parameters
from streams.live import LIVE_NOTIFY, PAYLOAD_MAX_BYTES, Watched, _touched, alerts_tell, live_payload


def test_it_names_what_changed_once_each_and_in_order() -> None:
    assert live_payload([2, 1, 2], [7], [30, 4]) == '{"a":[1,2],"c":[7],"d":[4,30]}'


def test_it_names_only_accounts_when_the_rest_would_not_fit() -> None:
    payload = live_payload([1], [2], range(10**9, 10**9 + 1000))
    assert payload == '{"a":[1]}'


def test_it_fills_the_room_there_is() -> None:
    payload = live_payload([1], [], range(1000, 2400))
    assert json.loads(payload)["d"] == list(range(1000, 2400))
    assert len(payload) <= PAYLOAD_MAX_BYTES < 8000


class TestWatched:
    def watched(self) -> Watched:
        watched = Watched()
        for group, account_key in (("account.1", 1), ("device.5", 1), ("channel.3", 1), ("device.6", 2)):
            watched.add(group, account_key=account_key)
        return watched

    def test_it_finds_the_groups_that_are_watched_and_touched(self) -> None:
        touched = self.watched().touched({"a": [1], "c": [3, 4], "d": [6, 7]})
        assert sorted(touched) == ["account.1", "channel.3", "device.6"]

    def test_it_takes_a_payload_of_accounts_alone_for_everything_of_them(self) -> None:
        assert sorted(self.watched().touched({"a": [1]})) == ["account.1", "channel.3", "device.5"]

    def test_it_forgets_a_group_with_its_last_socket(self) -> None:
        watched = self.watched()
        watched.add("device.5", account_key=1)
        watched.discard("device.5")
        assert watched.touched({"a": [], "c": [], "d": [5]}) == ["device.5"]
        watched.discard("device.5")
        assert watched.touched({"a": [], "c": [], "d": [5]}) == []
        watched.discard("device.5")
        assert "device.5" not in watched.all()


@pytest.mark.parametrize("payload", ["", "[", "7", "[1]", '{"a":3}', '{"a":[[1]]}'])
def test_it_outlives_a_message_that_is_not_ours(payload: str, caplog: pytest.LogCaptureFixture) -> None:
    assert _touched(payload) == []
    assert "could not be read" in caplog.text


class AlertsTellTest(CommittedTestCase):
    def told(self) -> list[str]:
        """What a listening process hears when the step runs."""
        with psycopg.connect(**connection_parameters(), autocommit=True) as listener:
            listener.execute(f"LISTEN {LIVE_NOTIFY}")
            assert alerts_tell(now=NOW) == 0
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, 'end')", [LIVE_NOTIFY])
            with closing(listener.notifies(timeout=30)) as heard:  # an open one keeps the connection locked
                return list(takewhile(lambda payload: payload != "end", (notify.payload for notify in heard)))

    def test_it_wakes_the_accounts_whose_alerts_are_not_settled_yet(self) -> None:
        assert self.told() == []
        for _ in range(2):
            Notification.objects.create(alert=alert_add(self.owner, self.servers, self.web1), kind="firing")
        assert self.told() == [f'{{"a":[{self.owner.pk}]}}']
        Notification.objects.update(settled_at=NOW)
        assert self.told() == []
