import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import psycopg
from django.db import connection

from channels.models import Latest, Stream, Tag
from channels.services import channel_delete
from devices.models import Device, DeviceTraffic, RefusalCount, UnknownDevice
from devices.selectors import device_now, device_traffic, refusals_by_reason
from devices.services import device_create, device_delete, device_update
from servwatch_site.errors import Code
from servwatch_site.tests.cast import NOW
from servwatch_site.tests.street import StreetTestCase
from streams import structures
from streams.models import RefusedMessage
from streams.plan import Incoming
from streams.writer import Writer
from tokens.selectors import Traffic, account_traffic
from tokens.services import account_update, device_token_issue


def records() -> list[tuple[Any, ...]]:
    """Every record: device key, channel key, time, tag, form, value."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT device_key, channel_key, at, tag, form, value FROM streams_record ORDER BY at")
        return [
            (*row[:5], json.loads(row[5]) if isinstance(row[5], str) else row[5]) for row in cursor.fetchall()
        ]


@contextmanager
def answer_lost(writer: Writer, *, heard: bool = True) -> Iterator[None]:
    """The connection dies at COMMIT: after the database has carried it out, or before it has `heard` of it."""
    usual = writer.transaction

    @contextmanager
    def transaction() -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        with usual() as cursor:
            yield cursor
            if not heard:
                cursor.connection.close()
        writer.close()
        raise psycopg.OperationalError("the answer is lost")

    with patch.object(writer, "transaction", transaction):
        yield


class StoringTest(StreetTestCase):
    def test_it_stores_a_message_of_a_mapped_device_at_its_time_of_receipt(self) -> None:
        message = self.incoming("json/web-1", '{"cpu": {"idle": 93.1}}')
        ((outcome,),) = self.street.process([message])
        assert outcome.status == "stored"
        assert records() == [
            (self.web1.pk, self.servers.pk, message.received_at, None, 0, {"cpu": {"idle": 93.1}})
        ]

    def test_it_keeps_latest_values_streams_with_units_and_tags(self) -> None:
        self.send("json/web-1/rack", '{"mem": {"used_bytes": 5}, "up": true}')
        assert Latest.objects.get().value == {"mem": {"used_bytes": 5}, "up": True}
        assert list(Stream.objects.order_by("key").values_list("key", "unit", "type")) == [
            ("mem:used_bytes", "B", "number"),
            ("up", "", "boolean"),
        ]
        assert Tag.objects.get().name == "rack"

    def test_a_second_type_makes_a_stream_mixed_and_drops_nothing(self) -> None:
        for value in ('{"a": 1}', '{"a": 1.5}', '{"a": "one"}'):
            assert self.send("json/web-1", value).status == "stored"
        assert Stream.objects.get().type == "mixed"
        assert len(records()) == 3

    def test_latest_is_by_time_of_measurement_not_of_receipt(self) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        late = now - timedelta(hours=5)
        self.send("json/web-1", json.dumps({"at": now.isoformat(), "value": {"n": "new"}}))
        self.send("json/web-1", json.dumps({"at": late.isoformat(), "value": {"n": "late"}}))
        assert Latest.objects.get().value == {"n": "new"}
        assert [row[5]["n"] for row in records()] == ["late", "new"]

    def test_messages_with_other_keys_each_keep_their_latest(self) -> None:
        self.send("json/web-1", '{"cpu": 1}')
        self.send("json/web-1", '{"disk": 2}')
        assert {tuple(row.value) for row in Latest.objects.all()} == {("cpu",), ("disk",)}

    def test_equal_device_time_tag_and_payload_is_a_duplicate(self) -> None:
        payload = json.dumps({"at": datetime.now(UTC).isoformat(), "value": {"a": 1}})
        self.send("json/web-1", payload)
        self.send("json/web-1", payload)
        batch = [self.incoming("json/web-1", payload)] * 2
        self.street.process(batch)
        assert len(records()) == 1
        assert device_traffic(self.web1) == Traffic(received=4, stored=1, duplicate=3)

    def test_two_payloads_of_the_same_moment_are_both_kept(self) -> None:
        at = datetime.now(UTC).isoformat()
        for number in (1, 2):
            self.send("json/web-1", json.dumps({"at": at, "value": {"a": number}}))
        assert len(records()) == 2

    def test_it_stores_all_forms(self) -> None:
        self.send("web-1", "v=11.1&v2=47.9")
        self.send("binary/web-1/raw", b"\x00\xff")
        self.send("json/web-1", "7.5")
        assert [(row[4], row[5]) for row in records()] == [
            (1, {"value": 11.1, "value2": 47.9}),
            (2, "00ff"),
            (0, 7.5),
        ]

    def test_a_state_message_becomes_the_devices_state_and_no_record(self) -> None:
        assert self.send("state/web-1", "fw=1.2&temp=41").status == "stored"
        self.web1.refresh_from_db()
        assert self.web1.state is not None
        assert self.web1.state["fw"] == 1.2
        assert self.web1.state["temp"] == 41
        assert "last_update" in self.web1.state
        assert records() == []
        assert device_traffic(self.web1) == Traffic(received=1, stored=1)

    def test_big_integers_stay_exact(self) -> None:
        self.send("json/web-1", '{"n": 123456789012345678901234567890}')
        with connection.cursor() as cursor:
            cursor.execute("SELECT value->>'n' FROM streams_record")
            assert cursor.fetchone() == ("123456789012345678901234567890",)

    def test_it_learns_the_usual_interval_and_tells_online(self) -> None:
        self.send("json/web-1", "1")
        self.send("json/web-1", "2")
        now = datetime.now(UTC)
        assert device_now(self.web1, now=now).online
        assert not device_now(self.web1, now=now + timedelta(minutes=10)).online

    def test_the_first_distance_counts_in_full(self) -> None:
        began = datetime.now(UTC)
        for number in range(3):
            at = began + timedelta(seconds=30 * number)
            self.street.process([self.incoming("json/web-1", str(number))._replace(received_at=at)])
        assert DeviceTraffic.objects.get(device_key=self.web1.pk).usual_interval_s == 30


class BadInputTest(StreetTestCase):
    def test_a_key_longer_than_an_index_entry_is_refused_and_spares_its_neighbours(self) -> None:
        good = self.incoming("json/web-1", '{"a": 1}')
        long_key = self.incoming("json/web-1", json.dumps({"\u6e2c" * 999: 1}, ensure_ascii=False))
        outcomes = self.street.process([good, long_key, self.incoming("json/web-1", '{"a": 2}')])
        assert [outcome.status for (outcome,) in outcomes] == ["stored", "refused", "stored"]
        assert outcomes[1][0].reason is Code.TOO_MANY_KEYS

    def test_what_passes_a_limit_of_the_database_is_refused_not_tried_for_ever(self) -> None:
        long_key = self.incoming(
            "json/web-1", json.dumps({"".join(map(chr, range(0x4E00, 0x4E00 + 950))): 1}, ensure_ascii=False)
        )
        with patch.object(structures, "MAX_KEY_BYTES", 10_000):
            ((outcome,), (good,)) = self.street.process([long_key, self.incoming("json/web-1", "1")])
        assert (outcome.status, outcome.reason) == ("refused", Code.STORAGE_REFUSED)
        assert good.status == "stored"

    def test_bad_messages_are_kept_with_their_reason_and_cost_their_neighbours_nothing(self) -> None:
        bad = {
            b"{": Code.BAD_JSON_FORMAT,
            b'{"a":"\xff"}': Code.BAD_JSON_FORMAT,
            b'{"a":NaN}': Code.BAD_NUMBER,
            b'{"a":1e400}': Code.BAD_NUMBER,
            b'{"a":1e-20000}': Code.BAD_NUMBER,
            b'{"a":[1e130000]}': Code.BAD_NUMBER,
            b'{"a":' + b"7" * 300 + b"}": Code.BAD_NUMBER,
            b'{"a":"\\u0000"}': Code.BAD_TEXT,
            b'{"a":"\\udc00"}': Code.BAD_TEXT,
            b'{"a":' * 20 + b"1" + b"}" * 20: Code.TOO_DEEP,
            b'{"at":"?","value":1}': Code.BAD_TIME,
            b'{"at":4102444800,"value":1}': Code.TIME_OUT_OF_RANGE,
            b'{"at":946684800,"value":1}': Code.TIME_OUT_OF_RANGE,
            b"x" * (256 * 1024 + 1): Code.PAYLOAD_TOO_LARGE,
        }
        batch: list[Incoming] = []
        for number, payload in enumerate(bad):
            batch += [
                self.incoming("json/web-1", f'{{"good": {number}}}'),
                self.incoming("json/web-1", payload),
            ]
        outcomes = [outcome for (outcome,) in self.street.process(batch)]
        assert [outcome.status for outcome in outcomes[::2]] == ["stored"] * len(bad)
        assert [outcome.reason for outcome in outcomes[1::2]] == list(bad.values())
        assert [row[5]["good"] for row in records()] == list(range(len(bad)))
        kept = {bytes(row.payload): row.reason for row in RefusedMessage.objects.all()}
        assert kept == {payload: str(code) for payload, code in bad.items()}
        assert device_traffic(self.web1) == Traffic(received=2 * len(bad), stored=len(bad), refused=len(bad))

    def test_one_bad_element_of_an_array_is_kept_alone(self) -> None:
        at = datetime.now(UTC).isoformat()
        array = [{"at": at, "value": {"n": 1}}, {"at": "?", "value": {"n": 2}}, {"at": at, "value": {"n": 3}}]
        (outcomes,) = self.street.process([self.incoming("json/web-1", json.dumps(array))])
        assert [outcome.status for outcome in outcomes] == ["stored", "refused", "stored"]
        assert json.loads(bytes(RefusedMessage.objects.get().payload)) == array[1]

    def test_unusable_topics_are_kept_and_counted_for_the_account(self) -> None:
        assert self.send("json/web-1/a/b", "1").reason == Code.BAD_TOPIC
        assert self.send("json/0", "1").reason == Code.DEVICE_ID_ZERO
        assert self.send("json", "1").reason == Code.BAD_TOPIC
        assert self.send("json/böse", "1").reason == Code.BAD_TOPIC
        assert account_traffic(self.owner.pk) == Traffic(received=4, refused=4)
        assert not Device.objects.exclude(pk__in=[self.web1.pk, self.new1.pk]).exists()

    def test_a_token_of_nobody_is_kept_for_nobody(self) -> None:
        assert self.send("json/web-1", "1", token="x" * 32).reason == Code.UNKNOWN_TOKEN
        assert RefusedMessage.objects.get().account_key == 0
        assert account_traffic(0) == Traffic(received=1, refused=1)

    def test_a_message_that_only_the_database_refuses_is_found_among_good_ones(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE streams_record ADD CONSTRAINT no_13 CHECK (value <> '13'::jsonb)")
        try:
            outcomes = self.street.process([self.incoming("json/web-1", str(number)) for number in range(20)])
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE streams_record DROP CONSTRAINT no_13")
        assert [outcome.reason for (outcome,) in outcomes if outcome.status == "refused"] == [
            Code.STORAGE_REFUSED
        ]
        assert [row[5] for row in records()] == [number for number in range(20) if number != 13]
        assert device_traffic(self.web1) == Traffic(received=20, stored=19, refused=1)

    def test_beyond_its_cap_an_account_only_counts_what_is_refused(self) -> None:
        account_update(self.owner, kept_refused_rows=3)
        self.street.process([self.incoming("json/web-1", "{")] * 5)
        assert RefusedMessage.objects.count() == 3
        assert refusals_by_reason(self.owner.pk) == {"BAD_JSON_FORMAT": 5}


class FirstContactTest(StreetTestCase):
    def test_open_with_a_default_channel_stores_the_first_message(self) -> None:
        account_update(self.owner, new_devices="open", default_channel=0)
        outcome = self.send("json/db-1", "1")
        assert (outcome.status, outcome.new_device) == ("stored", True)
        device = Device.objects.get(device_id="db-1")
        assert device.enabled and device.activate_at is not None and device.channel == self.servers
        assert not self.send("json/db-1", "2").new_device

    def test_open_without_a_channel_keeps_the_message(self) -> None:
        outcome = self.send("json/db-1", "1")
        assert (outcome.reason, outcome.new_device) == (Code.NO_MAPPED_CH, True)
        device = Device.objects.get(device_id="db-1")
        assert device.enabled and device.channel is None
        assert RefusedMessage.objects.get().device_key == device.pk

    def test_approve_lists_the_device_as_pending(self) -> None:
        account_update(self.owner, new_devices="approve", default_channel=0)
        assert self.send("json/db-1", "1").reason == Code.DEVICE_DISABLED
        device = Device.objects.get(device_id="db-1")
        assert device.pending and not device.enabled and device.activate_at is None

    def test_closed_makes_nothing_and_lists_the_id(self) -> None:
        account_update(self.owner, new_devices="closed")
        self.street.process([self.incoming("json/db-1", "1"), self.incoming("state/db-1", "a=1")])
        assert not Device.objects.filter(device_id="db-1").exists()
        knocked = UnknownDevice.objects.get()
        assert (knocked.device_id, knocked.attempts, knocked.reason) == ("db-1", 2, "DEVICE_UNKNOWN")
        assert account_traffic(self.owner.pk) == Traffic(received=2, refused=2)

    def test_the_limit_is_exact_and_what_is_over_it_is_kept(self) -> None:
        account_update(self.owner, max_devices=4)
        batch = [self.incoming(f"json/db-{number}", "1") for number in range(5)]
        outcomes = [outcome for (outcome,) in self.street.process(batch)]
        assert [outcome.reason for outcome in outcomes].count(Code.MAX_DEVICE_REACH) == 3
        assert Device.objects.filter(account=self.owner).count() == 4

    def test_first_contact_never_enables_a_disabled_device(self) -> None:
        assert self.send("json/new-1", "1").reason == Code.DEVICE_DISABLED
        self.new1.refresh_from_db()
        assert not self.new1.enabled

    def test_a_deleted_device_that_still_sends_is_a_new_one(self) -> None:
        account_update(self.owner, default_channel=0)
        self.send("json/web-1", "1")
        device_delete(self.web1, now=NOW)
        outcome = self.send("json/web-1", "2")
        assert outcome.new_device
        newcomer = Device.objects.get(device_id="web-1", deleted_at=None)
        assert newcomer.pk != self.web1.pk
        assert [row[0] for row in records()] == [self.web1.pk, newcomer.pk]

    def test_a_stranger_with_the_same_id_gets_a_device_of_their_own(self) -> None:
        from tokens.selectors import device_token_reveal

        self.send("json/web-1", "1", token=device_token_reveal(self.stranger))
        assert Device.objects.filter(device_id="web-1").count() == 2
        assert records() == []


class ChangesTest(StreetTestCase):
    def test_a_change_of_mapping_holds_from_the_next_batch(self) -> None:
        self.send("json/web-1", "1")
        device_update(self.web1, changes={"channel": self.backups}, now=NOW)
        self.send("json/web-1", "2")
        device_update(self.web1, changes={"enabled": False}, now=NOW)
        assert self.send("json/web-1", "3").reason == Code.DEVICE_DISABLED
        assert [row[1] for row in records()] == [self.servers.pk, self.backups.pk]

    def test_a_change_between_plan_and_commit_is_not_missed(self) -> None:
        self.send("json/web-1", "1")
        ensure = self.writer.days_ensure

        def disable_then_ensure(rows: Any) -> None:
            self.writer.days_ensure = ensure  # type: ignore[method-assign]
            device_update(self.web1, changes={"enabled": False}, now=NOW)
            ensure(rows)

        self.writer.days_ensure = disable_then_ensure  # type: ignore[method-assign]
        assert self.send("json/web-1", "2").reason == Code.DEVICE_DISABLED
        assert len(records()) == 1

    def test_a_deleted_channel_leaves_its_devices_unmapped(self) -> None:
        self.send("json/web-1", "1")
        channel_delete(self.servers, now=NOW)
        assert self.send("json/web-1", "2").reason == Code.NO_MAPPED_CH

    def test_a_device_made_by_hand_meanwhile_is_found(self) -> None:
        account_update(self.owner, new_devices="closed")
        self.send("json/db-1", "1")
        device_create(self.owner, "db-1", now=NOW, changes={"enabled": True, "channel": self.servers})
        assert self.send("json/db-1", "2").status == "stored"

    def test_messages_accepted_under_the_replaced_token_are_stored(self) -> None:
        old = self.device_token
        device_token_issue(self.owner)
        assert self.send("json/web-1", "1", token=old).status == "stored"

    def test_a_dropped_day_is_made_again(self) -> None:
        now = datetime.now(UTC)
        day = (now - timedelta(days=20)).replace(hour=12)
        self.send("json/web-1", json.dumps({"at": day.isoformat(), "value": 1}))
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s)", [f"streams_record_{day:%Y%m%d}"])
            partition = cursor.fetchone()[0]
            if partition is not None:  # a hypertable makes and drops its chunks itself
                cursor.execute(f"DROP TABLE {partition}")
        later = (day + timedelta(seconds=1)).isoformat()
        assert self.send("json/web-1", json.dumps({"at": later, "value": 2})).status == "stored"


class CommittingTest(StreetTestCase):
    def test_a_lost_connection_raises_and_the_same_batch_can_be_tried_again(self) -> None:
        self.send("json/web-1", "1")
        message = self.incoming("json/web-1", "2")
        pid = self.writer.connection.info.backend_pid
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        with self.assertRaises(psycopg.OperationalError):
            self.street.process([message])
        self.street.process([message])
        assert [row[5] for row in records()] == [1, 2]
        assert device_traffic(self.web1) == Traffic(received=2, stored=2)

    def test_a_batch_whose_commit_was_not_answered_is_not_written_again(self) -> None:
        self.send("json/web-1", "0")  # so that the day is there
        batch = [self.incoming("json/web-1", "1"), self.incoming("json/web-1", "{")]
        with answer_lost(self.writer), self.assertRaises(psycopg.OperationalError):
            self.street.process(batch)
        (stored,), (refused,) = self.street.process(batch)
        assert (stored.status, refused.status) == ("stored", "refused")
        assert RefusedMessage.objects.count() == 1
        assert device_traffic(self.web1) == Traffic(received=3, stored=2, refused=1)

    def test_a_batch_whose_commit_did_not_reach_the_database_is_written(self) -> None:
        self.send("json/web-1", "0")  # so that the day is there
        batch = [self.incoming("json/web-1", "{")]
        with answer_lost(self.writer, heard=False), self.assertRaises(psycopg.OperationalError):
            self.street.process(batch)
        self.street.process(batch)
        assert RefusedMessage.objects.count() == 1
        assert device_traffic(self.web1) == Traffic(received=2, stored=1, refused=1)

    def test_it_knows_what_became_of_a_transaction_and_waits_for_an_open_one(self) -> None:
        from streams.database import connect

        with connect(name="test-other") as other:
            numbers = []
            for end in ("COMMIT", "ROLLBACK"):
                other.execute("BEGIN")
                numbers.append(self.writer.transaction_number(other.cursor()))
                with self.assertRaises(psycopg.OperationalError):
                    self.writer.has_committed(numbers[-1])
                other.execute(end)
        assert [self.writer.has_committed(number) for number in numbers] == [True, False]
        assert not self.writer.has_committed(str(int(numbers[-1]) + 1_000_000))

    def test_of_a_batch_in_doubt_only_the_rest_is_written_and_all_are_answered_in_order(self) -> None:
        self.send("json/web-1", "0")  # so that the day is there
        first, second, third = (self.incoming("json/web-1", payload) for payload in ("1", "{", "3"))
        with answer_lost(self.writer), self.assertRaises(psycopg.OperationalError):
            self.street.process([second])
        outcomes = self.street.process([first, second, third])
        assert [outcome.status for (outcome,) in outcomes] == ["stored", "refused", "stored"]
        assert device_traffic(self.web1) == Traffic(received=4, stored=3, refused=1)

    def test_it_tells_the_open_pages_after_the_commit(self) -> None:
        from streams.database import connect

        with connect(name="test-listen") as listening:
            listening.execute("LISTEN servwatch_live")
            self.send("json/web-1", "1")
            (told,) = listening.notifies(timeout=5, stop_after=1)
        assert json.loads(told.payload) == {"a": [self.owner.pk], "c": [self.servers.pk], "d": [self.web1.pk]}

    def test_two_writers_with_the_same_devices_in_opposite_order_both_commit(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from streams.pipeline import Street
        from streams.writer import Writer

        ids = [f"pair-{number}" for number in range(40)]
        account_update(self.owner, default_channel=0)
        streets = [Street(Writer(name=f"test-{number}")) for number in range(2)]
        with ThreadPoolExecutor(2) as pool:
            for _ in range(10):
                batches = [
                    [self.incoming(f"json/{device_id}", str(number)) for device_id in order]
                    for number, order in enumerate((ids, ids[::-1]))
                ]
                for outcomes in pool.map(
                    lambda pair: pair[0].process(pair[1]), zip(streets, batches, strict=True)
                ):
                    assert all(outcome.status == "stored" for (outcome,) in outcomes)
        for street in streets:
            street.writer.close()
        assert len(records()) == 2 * 10 * 40
        assert account_traffic(self.owner.pk) == Traffic(received=800, stored=800)
        assert RefusalCount.objects.count() == 0
