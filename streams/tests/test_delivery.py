from functools import partial
from importlib.metadata import version
from zoneinfo import ZoneInfo

import gmqtt.mqtt.handler
import pytest
from django.db import connection

from servwatch_site.tests.street import StreetTestCase
from streams.connectors.mqtt import delivery_digest
from streams.connectors.mqtt_client import BadPacket, Packet, packets_read, publish_parse
from streams.delivery import Deliveries, Walk, deliveries_discard, deliveries_load
from streams.payload import parse
from streams.plan import Early, Incoming
from streams.topics import Kind
from streams.writer import DELIVERIES_KEPT, DELIVERIES_KEPT_ALWAYS, DELIVERIES_KEPT_MINUTES, Batch

LOG = Deliveries.of([(7, 70), (8, 80), (9, 90), (10, 100)])


def test_it_knows_committed_deliveries_that_come_again_in_order() -> None:
    walk = Walk(LOG)
    assert walk.was_committed(packet_id=9, digest=90, dup=True)
    assert walk.was_committed(packet_id=10, digest=100, dup=True)
    assert not walk.was_committed(packet_id=11, digest=110, dup=True)
    assert walk.over


def test_the_first_that_does_not_match_ends_the_walk() -> None:
    walk = Walk(LOG)
    assert not walk.was_committed(packet_id=11, digest=110, dup=True)
    assert not walk.was_committed(packet_id=9, digest=90, dup=True)


def test_an_equal_id_with_another_payload_is_a_new_message() -> None:
    assert not Walk(LOG).was_committed(packet_id=9, digest=91, dup=True)


def test_a_message_without_dup_is_new_even_with_an_old_id_and_payload() -> None:
    assert not Walk(LOG).was_committed(packet_id=9, digest=90, dup=False)


def test_it_never_goes_back() -> None:
    walk = Walk(LOG)
    assert walk.was_committed(packet_id=9, digest=90, dup=True)
    assert not walk.was_committed(packet_id=8, digest=80, dup=True)


def test_a_wrapped_id_matches_its_later_place() -> None:
    walk = Walk(Deliveries.of([(1, 10), (2, 20), (1, 10)]))
    assert walk.was_committed(packet_id=2, digest=20, dup=True)
    assert walk.was_committed(packet_id=1, digest=10, dup=True)


def test_an_empty_log_knows_nothing() -> None:
    assert Walk(Deliveries()).over


def packet(topic: bytes, payload: bytes, *, packet_id: bytes = b"", properties: bytes = b"") -> bytes:
    return len(topic).to_bytes(2, "big") + topic + packet_id + properties + payload


def test_it_reads_publish_packets_of_both_versions() -> None:
    body = packet(b"T/json/web-1", b"{}", packet_id=b"\x01\x02")
    assert publish_parse(0x3A, body, version=4) == Packet("T/json/web-1", b"{}", 258, 1, True, False)
    body = packet(b"T/web-1", b"v=1")
    assert publish_parse(0x31, body, version=4) == Packet("T/web-1", b"v=1", 0, 0, False, True)
    body = packet(b"T/web-1", b"v=1", packet_id=b"\x00\x05", properties=b"\x02\x01\x00")
    assert publish_parse(0x32, body, version=5) == Packet("T/web-1", b"v=1", 5, 1, False, False)


@pytest.mark.parametrize("body", [b"", b"\x00\x09abc", b"\x00\x01a\x00"])
def test_it_refuses_what_is_no_publish_packet(body: bytes) -> None:
    with pytest.raises(BadPacket):
        publish_parse(0x32, body, version=4)


def noted(others: list[int], header: int, _body: bytes) -> None:
    others.append(header)


def framed(header: int, body: bytes) -> bytes:
    assert len(body) < 128 * 128
    size = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
    return bytes([header]) + size + body


@pytest.mark.parametrize("version", [4, 5])
def test_it_reads_a_stream_of_packets_wherever_it_is_cut(version: int) -> None:
    properties = b"\x00" if version == 5 else b""
    stream = b"".join(
        framed(0x32, packet(b"T/json/web-1", b"x" * size, packet_id=b"\x00\x05", properties=properties))
        for size in (0, 3, 200)
    )
    stream += framed(0xD0, b"") + framed(0x30, packet(b"T/w", b"v=1", properties=properties))
    for cut in range(len(stream) + 1):
        others: list[int] = []
        found, size = packets_read(stream[:cut], version=version, other=partial(noted, others))
        rest, all_of_it = packets_read(stream[size:], version=version, other=partial(noted, others))
        assert size + all_of_it == len(stream)
        assert [len(one.payload) for one in found + rest] == [0, 3, 200, 3]
        assert others == [0xD0]


def test_a_length_that_does_not_end_is_told() -> None:
    with pytest.raises(BadPacket):
        packets_read(b"\x32\xff\xff\xff\xff\xff", version=4)


def test_the_seam_into_gmqtt_is_where_it_was() -> None:
    assert version("gmqtt") == "0.8.0"
    handler = gmqtt.mqtt.handler.MqttPackageHandler
    assert callable(handler._handle_publish_packet)
    assert "_handler_cache" in handler.__get_handler__.__code__.co_names
    protocol = gmqtt.mqtt.protocol.MQTTProtocol
    assert callable(protocol._read_packet)
    assert "_read_packet" in protocol._read_loop.__code__.co_names


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.JSON, b'{"a": 1}'),
        (Kind.JSON, b'{"at": 1763889000, "value": {"a": 1}}'),
        (Kind.JSON, b'[{"at": 1763889000, "value": 1}]'),
        (Kind.JSON, b"not JSON"),
        (Kind.FORM, b"v=1"),
        (Kind.BINARY, b"\x00\x01"),
        (Kind.STATE, b"a=1"),
    ],
)
@pytest.mark.parametrize("tag", [None, "rack"])
def test_a_delivery_has_one_digest_however_early_it_was_read(
    kind: Kind, payload: bytes, tag: str | None
) -> None:
    zone = ZoneInfo("UTC")
    early = Early(zone, parse(kind, payload, tag=tag, zone=zone))
    message = Packet("T/json/web-1", payload, 1, 1, False, False)
    assert delivery_digest(message, early) == delivery_digest(message)
    other = message._replace(topic="T/json/web-2")
    assert delivery_digest(other, early) != delivery_digest(message)


class DeliveryLogTest(StreetTestCase):
    def test_it_reads_back_what_was_committed_in_order_of_receipt(self) -> None:
        for first in (1, 4):
            messages = [
                self.incoming("json/web-1", str(number))._replace(packet_id=number, digest=number * 10)
                for number in range(first, first + 3)
            ]
            self.street.process(messages)
        with self.writer.transaction() as cursor:
            assert list(deliveries_load(cursor, slot=0)) == [(n, n * 10) for n in range(1, 7)]
            assert list(deliveries_load(cursor, slot=1)) == []
            deliveries_discard(cursor, slot=0)
            assert list(deliveries_load(cursor, slot=0)) == []

    def test_a_redelivered_message_counts_as_duplicate_and_is_not_stored_again(self) -> None:
        message: Incoming = self.incoming("json/web-1", "5")
        self.street.process([message])
        ((outcome,),) = self.street.process(
            [message._replace(redelivered=True, received_at=self.clock.stamp())]
        )
        assert outcome.status == "duplicate"
        from devices.selectors import device_traffic
        from tokens.selectors import Traffic

        assert device_traffic(self.web1) == Traffic(received=2, stored=1, duplicate=1)

    def test_the_log_keeps_what_a_flood_may_leave_unread_in_the_broker(self) -> None:
        self._log(DELIVERIES_KEPT + 5_000)
        log = self._trimmed()
        assert len(log) == DELIVERIES_KEPT
        assert log.digests[-1] == DELIVERIES_KEPT + 5_000 - 1

    def test_the_log_keeps_no_more_than_the_newest_of_what_is_old(self) -> None:
        self._log(DELIVERIES_KEPT_ALWAYS + 10_000)
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE streams_deliverybatch SET received_at = received_at - make_interval(mins => %s)",
                [DELIVERIES_KEPT_MINUTES + 1],
            )
        assert len(self._trimmed()) == DELIVERIES_KEPT_ALWAYS

    def _log(self, count: int, *, step: int = 5_000) -> None:
        for number in range(0, count, step):
            with self.writer.transaction() as cursor:
                deliveries = [(place % 65_535 + 1, place) for place in range(number, number + step)]
                self.writer.write(cursor, Batch(deliveries=deliveries))

    def _trimmed(self) -> Deliveries:
        self.writer._batches = 499  # the next batch trims
        with self.writer.transaction() as cursor:
            cursor.execute("SELECT max(id) FROM streams_deliverybatch")
            (last,) = cursor.fetchone() or (0,)
            self.writer.write(cursor, Batch(deliveries=[(1, 1)]))
            cursor.execute("DELETE FROM streams_deliverybatch WHERE id > %s", [last])
            return deliveries_load(cursor, slot=0)
