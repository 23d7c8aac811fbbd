"""How far the intake of messages has come, so that its outage, restart or lag is taken for nobody's silence.

Listeners tell each second whether they are connected and how far behind (streams/listener_reports.py), web processes
every two seconds that they are there. While all of a way do so without a gap, everything that came some moment ago is
stored: up to then silence can be judged. The times between are pauses; they are kept, and count for nobody. After a
longer one nobody is judged for a while, since devices that lost the broker as well are still coming back.

The worker's own pauses are none: that the others went on meanwhile is told by when they were last interrupted.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone

from events.silence import Ingest, Pause, Way, silences_check
from streams.listener_reports import LIVE_EVERY_S
from streams.newest import records_newest

logger = logging.getLogger(__name__)

MQTT, HTTP = "mqtt", "http"
HTTP_TELL_EVERY_S = 2.0
HTTP_GAP = timedelta(seconds=10)
HTTP_ON_THE_WAY = timedelta(seconds=2)  # what a request that was accepted may need until its commit
MOST_GRACE = timedelta(seconds=60)
PAUSES_KEPT = timedelta(days=40)  # a little more than the longest silence a rule can ask for

_HTTP_TELL_SQL = """
INSERT INTO streams_ingestway AS w (name, reported_at, live_since) VALUES ('http', %(now)s, %(now)s)
ON CONFLICT (name) DO UPDATE
SET reported_at = excluded.reported_at,
    live_since = CASE WHEN w.reported_at > %(gap)s THEN w.live_since ELSE excluded.live_since END
WHERE w.reported_at IS NULL OR w.reported_at < %(recent)s
"""


_LIVE_SQL = """
WITH live AS (
    UPDATE streams_ingestway w SET live_until = u.until
    FROM unnest(%s::text[], %s::timestamptz[]) AS u (name, until) WHERE w.name = u.name
)
SELECT way_id, began_at, ended_at FROM streams_ingestpause ORDER BY ended_at
"""


class Live(NamedTuple):
    """Since when a way has been live without interruption, and until when all that came is stored."""

    since: datetime
    until: datetime


def ingest_progress(*, now: datetime) -> Ingest:
    """How far each way has come; notes the pause that has just ended. Cheap: for every second."""
    with transaction.atomic(), connection.cursor() as cursor:
        known = _ways_lock(cursor)
        if len(known) < 2:
            cursor.execute(
                "INSERT INTO streams_ingestway (name) VALUES ('http'), ('mqtt') ON CONFLICT DO NOTHING"
            )
            known = _ways_lock(cursor)
        found = {
            HTTP: http_live(reported_at=known[HTTP][1], since=known[HTTP][2], now=now),
            MQTT: _mqtt_live(cursor, now=now),
        }
        # What came just after an interruption may be under way.
        live = {name: one for name, one in found.items() if one is not None and one.until >= one.since}
        for name, one in live.items():
            _pause_note(cursor, name, known[name][0], one, now=now)
        pauses = _live_write(cursor, live)
    ways = {name: Way(judged_until(live.get(name), pauses[name]), pauses[name]) for name in (HTTP, MQTT)}
    return Ingest(ways[MQTT], ways[HTTP], records_newest)


def silence_step(*, now: datetime) -> int:
    """For the worker's loop, every second: who is silent, as far as the intake has come. Returns how much there is."""
    return silences_check(now=now, ingest=ingest_progress(now=now))


def _ways_lock(cursor: Any) -> dict[str, list[Any]]:
    cursor.execute(
        "SELECT name, live_until, reported_at, live_since FROM streams_ingestway ORDER BY name FOR UPDATE"
    )
    return {name: columns for name, *columns in cursor.fetchall()}


def _pause_note(cursor: Any, name: str, live_until: datetime | None, live: Live, *, now: datetime) -> None:
    if live_until is not None and live.since > live_until:
        cursor.execute(
            "INSERT INTO streams_ingestpause (way_id, began_at, ended_at) VALUES (%s, %s, %s)",
            [name, live_until, live.since],
        )
        cursor.execute("DELETE FROM streams_ingestpause WHERE ended_at < %s", [now - PAUSES_KEPT])


def _live_write(cursor: Any, live: Mapping[str, Live]) -> dict[str, list[Pause]]:
    """Note until when each way is live; returns their pauses."""
    cursor.execute(_LIVE_SQL, [list(live), [one.until for one in live.values()]])
    pauses: dict[str, list[Pause]] = {HTTP: [], MQTT: []}
    for name, began_at, ended_at in cursor.fetchall():
        pauses[name].append(Pause(began_at, ended_at))
    return pauses


def judged_until(live: Live | None, pauses: Sequence[Pause]) -> datetime | None:
    """Until when silence may be judged: not at all soon after a pause, for as long as it was or a minute."""
    if live is None:
        return None
    if pauses:
        last = pauses[-1]
        if live.until < last.ended_at + min(last.ended_at - last.began_at, MOST_GRACE):
            return None
    return live.until


def mqtt_live(
    slots: Iterable[tuple[datetime | None, float | None, datetime | None]], *, now: datetime
) -> Live | None:
    """`slots`: when each reported last, its lag in seconds, and since when it has been live."""
    since, until = [], []
    for reported_at, lag_s, live_since in slots:
        if reported_at is None or lag_s is None or live_since is None:
            return None
        if now - reported_at > timedelta(seconds=LIVE_EVERY_S):
            return None
        since.append(live_since)
        until.append(reported_at - timedelta(seconds=lag_s))
    return Live(max(since), min(until)) if since else None


def http_live(*, reported_at: datetime | None, since: datetime | None, now: datetime) -> Live | None:
    if reported_at is None or since is None or now - reported_at > HTTP_GAP:
        return None
    return Live(since, reported_at - HTTP_ON_THE_WAY)


def _mqtt_live(cursor: Any, *, now: datetime) -> Live | None:
    """Of the slots among which devices are dealt out now, or were before the last change."""
    cursor.execute(
        "SELECT reported_at, lag_s, live_since FROM streams_listenerslot"
        " WHERE slot < (SELECT max(greatest(parts, before)) FROM streams_listenerslot)"
    )
    return mqtt_live(cursor.fetchall(), now=now)


async def tell_http_for_ever() -> None:
    """Tell that this web process takes messages; several tell together. Runs while the server does."""
    while True:
        try:
            await asyncio.to_thread(_http_tell_once)
        except (psycopg.Error, DatabaseError) as error:
            logger.debug("the database does not take a sign of life: %s", type(error).__name__)
        await asyncio.sleep(HTTP_TELL_EVERY_S)


def _http_tell_once() -> None:
    try:
        http_tell(now=timezone.now())
    finally:
        connections.close_all()  # a thread of the pool: its connection must not lie about


def http_tell(*, now: datetime) -> None:
    """A web process takes messages now."""
    gap, recent = now - HTTP_GAP, now - timedelta(seconds=HTTP_TELL_EVERY_S / 2)
    with connection.cursor() as cursor:
        cursor.execute(_HTTP_TELL_SQL, {"now": now, "gap": gap, "recent": recent})
