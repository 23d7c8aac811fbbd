import json
from datetime import UTC, datetime, timedelta

import pytest

from channels.models import Latest
from devices.selectors import device_traffic, refusals_by_reason
from devices.services import device_create, device_update
from servwatch_site.errors import Code, ServwatchError
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import StreetTestCase
from streams.models import RefusedMessage
from streams.refused import (
    Replayed,
    refused_delete,
    refused_get_for_account,
    refused_list,
    refused_replay,
    replay_wanted,
)
from streams.tests.test_pipeline import records
from tokens.selectors import Traffic, account_traffic
from tokens.services import account_update


class ReplayTest(StreetTestCase):
    def enable_new1(self) -> None:
        device_update(self.new1, changes={"enabled": True, "channel": self.servers}, now=NOW)

    def test_it_stores_what_can_be_stored_now_with_its_first_time_of_receipt(self) -> None:
        message = self.incoming("json/new-1", '{"a": 1}')
        self.street.process([message])
        self.enable_new1()
        assert refused_replay(self.owner, ids=None, now=datetime.now(UTC)) == Replayed(stored=1)
        assert [(row[0], row[2], row[5]) for row in records()] == [
            (self.new1.pk, message.received_at, {"a": 1})
        ]
        assert Latest.objects.get().value == {"a": 1}
        assert not RefusedMessage.objects.exists()

    def test_it_moves_the_count_from_refused_to_stored(self) -> None:
        self.send("json/new-1", "1")
        self.send("json/new-1", "{")
        self.enable_new1()
        refused_replay(self.owner, ids=None, now=datetime.now(UTC))
        assert device_traffic(self.new1) == Traffic(received=2, stored=1, refused=1)
        assert account_traffic(self.owner.pk) == Traffic(received=2, stored=1, refused=1)
        assert refusals_by_reason(self.owner.pk)["DEVICE_DISABLED"] == 0

    def test_it_keeps_what_would_be_refused_again(self) -> None:
        self.send("json/new-1", "1")
        self.send("json/web-1", "{")
        assert refused_replay(self.owner, ids=None, now=datetime.now(UTC)) == Replayed(still_refused=2)
        assert RefusedMessage.objects.count() == 2

    def test_it_replays_only_the_chosen_ones(self) -> None:
        for number in range(3):
            self.send("json/new-1", str(number))
        self.enable_new1()
        chosen = refused_list(self.owner)[0]
        assert refused_replay(self.owner, ids=[chosen.pk], now=datetime.now(UTC)) == Replayed(stored=1)
        assert [row[5] for row in records()] == [2]

    def test_a_device_created_after_its_messages_were_refused_gets_them(self) -> None:
        account_update(self.owner, new_devices="closed")
        self.send("json/late-1", "1")
        late = device_create(
            self.owner, "late-1", now=NOW, changes={"enabled": True, "channel": self.servers}
        )
        assert refused_replay(self.owner, ids=None, now=datetime.now(UTC)) == Replayed(stored=1)
        assert device_traffic(late) == Traffic(received=1, stored=1)
        assert account_traffic(self.owner.pk) == Traffic(received=1, stored=1)

    def test_a_replayed_backfill_is_a_duplicate_when_it_came_again_meanwhile(self) -> None:
        payload = json.dumps({"at": datetime.now(UTC).isoformat(), "value": 1})
        self.send("json/new-1", payload)
        self.enable_new1()
        self.send("json/new-1", payload)
        assert refused_replay(self.owner, ids=None, now=datetime.now(UTC)) == Replayed(duplicate=1)
        assert len(records()) == 1

    def test_elements_of_an_array_are_replayed_each(self) -> None:
        at = datetime.now(UTC)
        array = [{"at": (at - timedelta(minutes=n)).isoformat(), "value": n, "tag": "t"} for n in range(3)]
        self.street.process([self.incoming("json/new-1", json.dumps(array))])
        self.enable_new1()
        assert refused_replay(self.owner, ids=None, now=at) == Replayed(stored=3)
        assert [(row[3], row[5]) for row in records()] == [("t", 2), ("t", 1), ("t", 0)]

    def test_the_tick_replays_once_the_device_is_mapped(self) -> None:
        self.send("json/new-1", "1")
        device_update(self.new1, changes={"replay_when_mapped": True}, now=NOW)
        assert replay_wanted(now=datetime.now(UTC)) == Replayed()
        self.enable_new1()
        self.new1.refresh_from_db()
        assert replay_wanted(now=datetime.now(UTC)) == Replayed(stored=1)


class RefusedListTest(StreetTestCase):
    def test_it_lists_the_newest_first_by_reason_and_device_and_page(self) -> None:
        self.send("json/web-1", "{")
        self.send("json/new-1", "1")
        self.send("json/new-1", "2")
        assert [bytes(row.payload) for row in refused_list(self.owner)] == [b"2", b"1", b"{"]
        assert [bytes(row.payload) for row in refused_list(self.owner, reason="BAD_JSON_FORMAT")] == [b"{"]
        assert len(refused_list(self.owner, device_key=self.new1.pk)) == 2
        second = refused_list(self.owner)[1]
        assert len(refused_list(self.owner, before_id=second.pk)) == 1

    def test_a_stranger_sees_and_touches_nothing(self) -> None:
        self.send("json/new-1", "1")
        row = refused_list(self.owner)[0]
        assert refused_list(self.stranger) == []
        assert refused_delete(self.stranger, ids=[row.pk]) == 0
        with pytest.raises(ServwatchError) as caught:
            refused_get_for_account(self.stranger, row.pk)
        assert caught.value.code == Code.NOT_FOUND
        assert refused_replay(self.stranger, ids=[row.pk], now=NOW) == Replayed()
        assert refused_get_for_account(self.owner, row.pk) == row

    def test_deleting_leaves_the_count(self) -> None:
        self.send("json/new-1", "1")
        assert refused_delete(self.owner, ids=[row.pk for row in refused_list(self.owner)]) == 1
        assert account_traffic(self.owner.pk) == Traffic(received=1, refused=1)
