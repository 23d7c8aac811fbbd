"""What listeners tell of themselves and of the broker, every second, for pages and metrics."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from streams.lag import SlotReport

Cursor = psycopg.Cursor[tuple[Any, ...]]

# A slot is live while it reports at least so often that it is connected and not farther behind.
LIVE_EVERY_S = 3.0
LIVE_LAG_S = 5.0


class BrokerNumbers(NamedTuple):
    """What Mosquitto tells of itself every few seconds; None where it has not, or where it is no Mosquitto.

    `messages` and `message_bytes` are what it holds for whoever has not acknowledged it, retained messages included;
    `dropped` counts from its start.
    """

    messages: int | None = None
    message_bytes: int | None = None
    retained: int | None = None
    dropped: int | None = None
    at: datetime | None = None


def slots_report(cursor: Cursor, reports: Iterable[SlotReport], *, served_by: str, now: datetime) -> None:
    """Write how the slots are that this process serves."""
    cursor.executemany(
        "UPDATE streams_listenerslot SET served_by = %s, reported_at = %s, connected = %s, lag_s = %s, queued = %s,"
        " committed = %s, batch_sizes = %s, batch_durations = %s, batch_seconds = %s, live_since = CASE"
        " WHEN NOT %s THEN NULL WHEN reported_at > %s THEN coalesce(live_since, %s) ELSE %s END WHERE slot = %s",
        [
            (
                served_by,
                now,
                report.connected,
                report.lag_s,
                report.queued,
                report.committed,
                report.batch_sizes,
                report.batch_durations,
                report.batch_seconds,
                report.connected and report.lag_s is not None and report.lag_s <= LIVE_LAG_S,
                now - timedelta(seconds=LIVE_EVERY_S),
                now,
                now,
                report.slot,
            )
            for report in sorted(reports)
        ],
    )


def broker_load_note(cursor: Cursor, numbers: BrokerNumbers) -> None:
    """Write what the broker said last."""
    cursor.execute(
        "INSERT INTO streams_brokerload (id, messages, message_bytes, retained, dropped, at)"
        " VALUES (1, %s, %s, %s, %s, coalesce(%s, now()))"
        " ON CONFLICT (id) DO UPDATE SET messages = excluded.messages, message_bytes = excluded.message_bytes,"
        " retained = excluded.retained, dropped = excluded.dropped, at = excluded.at",
        [numbers.messages, numbers.message_bytes, numbers.retained, numbers.dropped, numbers.at],
    )
