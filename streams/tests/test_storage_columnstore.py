from datetime import UTC, datetime, timedelta

from django.test import override_settings

from channels.services import channel_delete, channel_update
from devices.services import device_create, device_delete, device_update
from servwatch_site.tests.cast import NOW
from streams import purges, retention, upkeep
from streams.plan import Incoming
from streams.selectors import RecordFilter
from streams.tests.columnstore import ColumnstoreTestCase, record_chunks, scalar
from streams.tests.test_pipeline import records
from tokens.selectors import account_traffic

A_DAY = timedelta(days=1)


class CompressedDaysTest(ColumnstoreTestCase):
    """Late data into compressed days, and deletes out of them."""

    def setUp(self) -> None:
        super().setUp()
        self.today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
        self.old = self.today - 10 * A_DAY

    def message(self, device: str, at: datetime, value: int) -> Incoming:
        return self.incoming(f"json/{device}", f'{{"at": "{at.isoformat()}", "value": {value}}}')

    def send_at(self, at: datetime, value: int, *, device: str = "web-1") -> str:
        ((outcome,),) = self.street.process([self.message(device, at, value)])
        return outcome.status

    def counted(self, *messages: Incoming) -> tuple[int, int]:
        """How many of them were stored, and how many known already."""
        before = account_traffic(self.owner.pk)
        self.street.process(messages)
        after = account_traffic(self.owner.pk)
        return after.stored - before.stored, after.duplicate - before.duplicate

    def values(self) -> list[int]:
        return [row[5] for row in records()]

    def test_late_data_is_stored_and_duplicates_are_known_in_a_compressed_day(self) -> None:
        assert self.send_at(self.old, 1) == "stored"
        (chunk,) = self.compress()
        again, late = self.message("web-1", self.old, 1), self.message("web-1", self.old + A_DAY / 24, 2)
        assert self.counted(again, late) == (1, 1)
        assert self.counted(again, late) == (0, 2)
        assert self.values() == [1, 2]
        assert self.compress() == record_chunks() and chunk.low <= self.old < chunk.high
        assert self.counted(again, late) == (0, 2)

    def test_a_day_full_of_duplicates_stays_compressed(self) -> None:
        messages = [self.message("web-1", self.old + timedelta(seconds=n), n) for n in range(3_000)]
        assert self.counted(*messages) == (3_000, 0)
        (chunk,) = self.compress()
        assert self.counted(*messages) == (0, 3_000)
        assert scalar(f"SELECT pg_relation_size('{chunk.name}')") == 0  # nothing was unpacked
        assert scalar("SELECT count(*) FROM streams_record") == 3_000

    def test_a_device_mapped_elsewhere_since_is_still_known_by_its_records(self) -> None:
        assert self.send_at(self.old, 1) == "stored"
        self.compress()
        device_update(self.web1, changes={"channel": self.backups}, now=NOW)
        assert self.counted(self.message("web-1", self.old, 1)) == (0, 1)

    def test_a_deleted_channels_records_go_without_unpacking_the_day(self) -> None:
        device_create(self.owner, "store-1", now=NOW, changes={"enabled": True, "channel": self.backups})
        self.send_at(self.old, 1)
        self.send_at(self.old, 2, device="store-1")
        self.compress()
        channel_delete(self.servers, now=NOW)
        assert retention.channels_purge(now=datetime.now(UTC)) == {self.servers.pk: 1}
        assert self.values() == [2]
        assert self.compress() == []

    def test_a_deleted_devices_records_go_from_compressed_days(self) -> None:
        device_create(self.owner, "web-2", now=NOW, changes={"enabled": True, "channel": self.servers})
        self.send_at(self.old, 1)
        self.send_at(self.old, 2, device="web-2")
        self.compress()
        device_delete(self.web1, now=NOW, with_records=True)
        assert retention.devices_purge(now=datetime.now(UTC)) == {self.web1.pk: 1}
        assert self.values() == [2]

    def test_a_shorter_retention_reaches_into_compressed_days(self) -> None:
        for age, value in ((40, 1), (35, 2), (5, 3)):
            self.send_at(self.today - age * A_DAY, value)
        self.compress()
        channel_update(self.servers, changes={"retention_days": 37})
        assert retention.records_expire(now=datetime.now(UTC)) == 1
        channel_update(self.servers, changes={"retention_days": 7})
        assert retention.records_expire(now=datetime.now(UTC)) == 1
        assert self.values() == [3]

    def test_asked_for_records_are_removed_from_compressed_days(self) -> None:
        for value in range(4):
            self.send_at(self.old + value * A_DAY / 24, value)
        self.compress()
        narrow = RecordFilter(self.servers.pk, self.old + A_DAY / 24, self.old + A_DAY / 8)
        assert purges.records_delete(narrow) == 2
        assert self.values() == [0, 3]

    def test_more_rows_than_a_transaction_may_unpack_by_default_are_deleted(self) -> None:
        scalar(
            "WITH made AS (INSERT INTO streams_record (device_key, channel_key, at, digest, form, value)"
            f" SELECT {self.web1.pk}, {self.servers.pk}, '{self.old}'::timestamptz + n * interval '10 ms', n, 0, '1'"
            " FROM generate_series(1, 120000) AS n RETURNING 1) SELECT count(*) FROM made"
        )
        self.compress()
        device_delete(self.web1, now=NOW, with_records=True)
        assert retention.devices_purge(now=datetime.now(UTC)) == {self.web1.pk: 120_000}

    def test_whole_compressed_days_are_dropped(self) -> None:
        self.send_at(self.today - 80 * A_DAY, 1)
        self.send_at(self.old, 2)
        self.compress()
        for channel in (self.servers, self.backups):
            channel_update(channel, changes={"retention_days": 30})
        assert len(upkeep.days_maintain(now=datetime.now(UTC))) == 1
        assert self.values() == [2]
        assert self.send_at(self.today - 80 * A_DAY, 1) == "refused"


class UpkeepTest(ColumnstoreTestCase):
    def send_aged(self, *days: int) -> None:
        for age in days:
            at = (datetime.now(UTC) - timedelta(days=age)).isoformat()
            assert self.send("json/web-1", f'{{"at": "{at}", "value": {age}}}').status == "stored"

    def compressed(self) -> list[bool]:
        return [chunk.compressed for chunk in record_chunks()]

    def test_the_worker_switches_the_columnstore_on_and_compresses_what_the_policy_left(self) -> None:
        self.send_aged(20, 4, 1)
        said = list(upkeep.columnstore_maintain(now=datetime.now(UTC)))
        assert said[0] == "streams_record: columnstore switched on"
        assert self.compressed() == [True, False, False]  # four days ago is the policy's for another day
        assert list(upkeep.columnstore_maintain(now=datetime.now(UTC))) == []

    def test_it_follows_a_changed_setting(self) -> None:
        list(upkeep.columnstore_maintain(now=datetime.now(UTC)))
        with override_settings(COLUMNSTORE_AFTER_DAYS=9):
            assert list(upkeep.columnstore_maintain(now=datetime.now(UTC))) == [
                "streams_record: days are compressed 9 days after their end"
            ]
        after = (
            "SELECT config ->> 'compress_after' FROM timescaledb_information.jobs"
            " WHERE proc_name = 'policy_compression'"
        )
        assert scalar(after) == "9 days"
