"""`/metrics` in the text format of Prometheus, all of it from the database: every web process answers the same.

Open to this machine; from elsewhere with the token of SERVWATCH_METRICS_TOKEN. Nothing in it is secret or names an
account.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import datetime
from hmac import compare_digest

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from devices.selectors import devices_of_all, refusals_of_all
from events.selectors import alerts_open_of_all
from events.selectors_deliveries import deliveries_outstanding
from streams.lag import BATCH_SECONDS, BATCH_SIZES
from streams.selectors_system import SlotNow, database_now, listeners_now, record_days, worker_now
from tokens.rate_limits import client_address
from tokens.selectors import traffic_of_all


@never_cache
@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    if not _may_read(request):
        return HttpResponse(
            "Send the token of SERVWATCH_METRICS_TOKEN as a bearer token.\n",
            status=401,
            content_type="text/plain; charset=utf-8",
            headers={"WWW-Authenticate": "Bearer"},
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Installation(now=timezone.now()))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _may_read(request: HttpRequest) -> bool:
    """The token, or a caller on this machine; but nobody whom an unknown proxy on this machine speaks for."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    token = settings.METRICS_TOKEN
    if token and kind.lower() == "bearer" and compare_digest(given.strip().encode(), token.encode()):
        return True
    if not settings.BEHIND_PROXY and {"X-Forwarded-For", "Forwarded", "X-Real-Ip"} & set(request.headers):
        return False
    try:
        address = ipaddress.ip_address(client_address(request))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class _Installation(Collector):
    def __init__(self, *, now: datetime) -> None:
        self._now = now

    def collect(self) -> Iterator[Metric]:
        yield from _traffic()
        yield from _devices(self._now)
        yield from _deliveries(self._now)
        yield from _listeners(self._now)
        yield from _stores(self._now)


def _gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    """Nothing where the value is not known."""
    if value is not None:
        yield GaugeMetricFamily(f"servwatch_{name}", text, value=value)


def _traffic() -> Iterator[Metric]:
    traffic = traffic_of_all()
    for name, value in (
        ("received", traffic.received),
        ("stored", traffic.stored),
        ("duplicate", traffic.duplicate),
        ("limited", traffic.limited),
    ):
        yield CounterMetricFamily(f"servwatch_{name}", f"Measurements {name}, by MQTT and HTTP.", value=value)
    refused = CounterMetricFamily("servwatch_refused", "Measurements refused.", labels=["reason"])
    for reason, count in sorted(refusals_of_all().items()):
        refused.add_metric([reason], count)
    yield refused


def _devices(now: datetime) -> Iterator[Metric]:
    there, online = devices_of_all(now=now)
    yield from _gauge("devices", "Devices there are.", there)
    yield from _gauge("devices_online", "Devices that are online.", online)
    yield from _gauge("alerts_open", "Alerts that are not resolved.", alerts_open_of_all())


def _deliveries(now: datetime) -> Iterator[Metric]:
    found = deliveries_outstanding()
    oldest_s = (now - found.oldest_at).total_seconds() if found.oldest_at else 0.0
    yield from _gauge("deliveries_pending", "Notifications that wait to be delivered.", found.pending)
    yield from _gauge("deliveries_oldest_seconds", "Age of the longest waiting one.", oldest_s)
    yield from _gauge(
        "deliveries_failed", "Notifications given up, of those still in the log.", found.expired
    )
    yield from _gauge("receivers_failing", "Receivers left alone after failures.", found.receivers_failing)


def _listeners(now: datetime) -> Iterator[Metric]:
    listeners = listeners_now(now=now)
    yield from _gauge("listeners_up", "Whether any listener is running.", int(listeners.running))
    yield from _gauge("lag_messages", "Messages acknowledged to devices and not stored.", listeners.messages)
    for name, text, values in (
        (
            "lag_seconds",
            "Age of the oldest message not stored, at least.",
            [s.lag_s for s in listeners.slots],
        ),
        ("slot_queue_messages", "Messages in the listener.", [float(s.row.queued) for s in listeners.slots]),
        (
            "slot_connected",
            "Whether the slot is served and connected to the broker.",
            [float(s.row.connected and not s.silent) for s in listeners.slots],
        ),
    ):
        yield _by_slot(name, text, listeners.slots, values)
    yield _batches(
        "batch_messages",
        "Messages of a batch.",
        BATCH_SIZES,
        [(slot, slot.row.batch_sizes, float(slot.row.committed)) for slot in listeners.slots],
    )
    yield _batches(
        "batch_seconds",
        "Seconds in which a batch was committed.",
        BATCH_SECONDS,
        [(slot, slot.row.batch_durations, slot.row.batch_seconds) for slot in listeners.slots],
    )
    if listeners.broker is not None:
        broker = listeners.broker
        yield from _gauge("broker_messages", "Messages the broker holds.", broker.messages)
        yield from _gauge("broker_bytes", "Payload bytes the broker holds.", broker.message_bytes)
        yield from _gauge("broker_limit_bytes", "Bound beyond which it drops messages.", broker.limit_bytes)
        yield CounterMetricFamily(
            "servwatch_broker_dropped", "Messages the broker dropped.", value=broker.dropped
        )


def _by_slot(name: str, text: str, slots: Sequence[SlotNow], values: Sequence[float | None]) -> Metric:
    family = GaugeMetricFamily(f"servwatch_{name}", text, labels=["slot"])
    for slot, value in zip(slots, values, strict=True):
        if value is not None:
            family.add_metric([str(slot.row.slot)], value)
    return family


def _batches(
    name: str, text: str, bounds: Sequence[float], found: Sequence[tuple[SlotNow, list[int], float]]
) -> Metric:
    """A histogram a slot, from counts that each belong to one bucket only."""
    family = HistogramMetricFamily(f"servwatch_{name}", text, labels=["slot"])
    for slot, counts, total in found:
        if len(counts) != len(bounds) + 1:
            continue  # it has not reported yet, or another version did
        below, buckets = 0, []
        for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        family.add_metric([str(slot.row.slot)], buckets=buckets, sum_value=total)
    return family


def _stores(now: datetime) -> Iterator[Metric]:
    yield from _gauge("database_bytes", "Size of the database.", database_now().size_bytes)
    yield from _gauge("record_days", "Days of records in tables of their own.", record_days())
    worker = worker_now()
    age_s = (now - worker.heartbeat_at).total_seconds() if worker.heartbeat_at else None
    yield from _gauge("worker_heartbeat_age_seconds", "Since a worker last showed a sign of life.", age_s)
    yield from _gauge("jobs_due", "Jobs that are due.", worker.waiting)
