"""Records at rest, refused messages, and what the listener must remember to tell redelivery apart."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Record(models.Model):
    """One stored message. The table is made by streams/storage.py: a hypertable, or daily partitions.

    The key is what makes a record the same again: device, time, and a 64-bit digest of tag and payload.
    `form` says how it came (streams/payload.py); records keep both keys, which are never reused.
    """

    pk = models.CompositePrimaryKey("device_key", "at", "digest")
    device_key = models.BigIntegerField()
    channel_key = models.BigIntegerField()
    at = models.DateTimeField()
    digest = models.BigIntegerField()
    tag = models.CharField(max_length=64, null=True)  # noqa: DJ001 - NULL is "no tag"; an empty tag does not exist
    form = models.SmallIntegerField()
    value = models.JSONField()

    class Meta:
        managed = False
        db_table = "streams_record"

    def __str__(self) -> str:
        return f"{self.device_key} at {self.at:%F %T}"


class RefusedMessage(models.Model):
    """A message that could not be stored, kept with its payload and reason to be read and replayed."""

    account_key = models.BigIntegerField()  # 0: its token belongs to nobody
    device_key = models.BigIntegerField(default=0)  # 0: no device is known for it
    device_id = models.CharField(max_length=64, blank=True)
    source = models.CharField(max_length=8)  # mqtt or http
    kind = models.CharField(max_length=8)  # json, binary, state, form, or other
    tag = models.CharField(max_length=64, blank=True)
    payload = models.BinaryField()
    reason = models.CharField(max_length=32)
    detail = models.CharField(max_length=256)
    received_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["account_key", "-received_at", "-id"], name="streams_refused_account"),
            models.Index(fields=["device_key", "-received_at"], name="streams_refused_device"),
            models.Index(fields=["received_at"], name="streams_refused_age"),
        ]

    def __str__(self) -> str:
        return f"{self.reason} {self.device_id}"


class DeliveryBatch(models.Model):
    """Deliveries of one committed batch, in order of receipt: packet ids beside digests of topic and payload.

    After a broken connection the broker sends again what it has no acknowledgement for; what stands here was
    already committed. Only the newest batches of a slot are kept.
    """

    slot = models.SmallIntegerField()
    packet_ids = ArrayField(models.IntegerField())
    digests = ArrayField(models.BigIntegerField())
    received_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["slot", "-id"], name="streams_delivery_slot")]

    def __str__(self) -> str:
        return f"slot {self.slot}: {len(self.packet_ids)} deliveries"


class KeptAnswer(models.Model):
    """The answer to a request that came with an Idempotency-Key, kept for a day to be given again.

    Written in the transaction of the request's data. Keys and requests are kept as digests of 32 bytes.
    """

    pk = models.CompositePrimaryKey("account_key", "key_digest")
    account_key = models.BigIntegerField()
    key_digest = models.BinaryField(max_length=32)
    request_digest = models.BinaryField(max_length=32)
    status = models.SmallIntegerField()
    body = models.BinaryField()
    created_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.account_key}: {self.status}"


class RollupMark(models.Model):
    """How far roll-ups have come; one row, which the worker makes.

    Up to `rolled_until` they are complete but for what stands in RollupDue; NULL while the first is being made.
    A record older than `late_from` that is written must be noted as due. Once every transaction up to `barrier`
    has ended, none is left that does not know of `late_from`; NULL when that number was not drawn yet.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    late_from = models.DateTimeField()
    rolled_until = models.DateTimeField(null=True)
    barrier = models.BigIntegerField(null=True)

    def __str__(self) -> str:
        return f"rolled up until {self.rolled_until}"


class RollupDue(models.Model):
    """Minutes of a device in a channel whose roll-ups must be made anew, because records came late or went.

    Written in the transaction of those records, one row for each hour; only the worker takes rows away. A device
    key of 0 means every device of the channel.
    """

    device_key = models.BigIntegerField()
    channel_key = models.BigIntegerField()
    low = models.DateTimeField()
    high = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["channel_key"], name="streams_due_channel"),
            models.Index(fields=["device_key"], name="streams_due_device"),
        ]

    def __str__(self) -> str:
        return f"{self.device_key} in {self.channel_key}: {self.low:%F %T} to {self.high:%F %T}"


class ListenerSlot(models.Model):
    """One of the listeners' slots (streams/slots.py), and what its listener last told of itself.

    `parts`, `before` and `epoch` say how the devices are dealt out; `session_at` since when the broker has the slot's
    session; `turn` counts the listeners that served it. The second half is written every second by the process that
    serves the slot; totals count from that process's start. `lag_s` is None while nothing is known. `live_since`: since
    when it has reported without a gap that it is connected and hardly behind.
    """

    slot = models.SmallIntegerField(primary_key=True)
    parts = models.SmallIntegerField(db_default=1)
    before = models.SmallIntegerField(db_default=1)
    epoch = models.IntegerField(db_default=0)
    session_at = models.DateTimeField(null=True)
    leaving = models.BooleanField(db_default=False)
    turn = models.IntegerField(db_default=0)

    served_by = models.CharField(max_length=128, db_default="")
    reported_at = models.DateTimeField(null=True)
    connected = models.BooleanField(db_default=False)
    lag_s = models.FloatField(null=True)
    live_since = models.DateTimeField(null=True)
    queued = models.IntegerField(db_default=0)
    committed = models.BigIntegerField(db_default=0)
    batch_sizes = ArrayField(models.BigIntegerField(), db_default=[])
    batch_durations = ArrayField(models.BigIntegerField(), db_default=[])
    batch_seconds = models.FloatField(db_default=0)

    def __str__(self) -> str:
        return f"slot {self.slot}"


class IngestWay(models.Model):
    """A way on which messages come in, `mqtt` or `http` (streams/ingest_progress.py).

    `live_until`: all that came before is stored, as the worker last found. `reported_at` and `live_since` are told by
    the web processes, of `http` alone: when one of them last did, and since when without a gap.
    """

    name = models.CharField(max_length=8, primary_key=True)
    live_until = models.DateTimeField(null=True)
    reported_at = models.DateTimeField(null=True)
    live_since = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class IngestPause(models.Model):
    """A time in which messages of a way may have waited: it is nobody's silence."""

    way = models.ForeignKey(IngestWay, on_delete=models.CASCADE, related_name="pauses")
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.way_id}: {self.began_at:%F %T} to {self.ended_at:%F %T}"


class BrokerLoad(models.Model):
    """What the broker last said of its queues; one row. None where it does not say."""

    messages = models.BigIntegerField(null=True)
    message_bytes = models.BigIntegerField(null=True)
    retained = models.BigIntegerField(null=True)
    dropped = models.BigIntegerField(null=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.messages} messages at {self.at:%F %T}"
