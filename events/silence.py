"""Silence: what should have come and has not; and what ends without a message. For every second of the worker.

A device is silent when nothing of it was received for so long, whatever time its messages say. When a stream was heard
last is told by the latest rows, whose times are of measurement: it is as old as the device has gone on measuring
without it, and the time that has passed since the device was heard. So a device that sends old data is not silent, nor
are its streams.

Judged is by how far the intake has come, `until` of a Way: everything received before is stored. Times in which it was
interrupted count for nobody.

Two workers, or one and a writer that holds the message that is missing (events/evaluation.py): what seems silent is
looked at again with the channel's lock held alone, after all batches that began before have ended, and what begins
later sees the alert.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from psycopg.types.json import set_json_loads

from channels.keys import key_split
from events.alert_store import (
    Cursor,
    Ending,
    Silence,
    endings_write,
    silences_write,
    standings_read,
)
from events.evaluation import LOCK_BUCKETS, LOCK_CLASS, RecordsNewest, Series, Wanted, scalars_at
from events.rulebook import Instance
from events.services import alerts_end
from tokens.config import config_version

logger = logging.getLogger(__name__)

INTERVALS_UNTIL_SILENT = 5  # of the usual one, where the rule leaves it to the device
LEAST_LEARNED_S = 60
LOOK_AT_LEAST_EVERY = timedelta(seconds=30)
ENDED_EVERY = timedelta(seconds=5)
VANISHED_EVERY = timedelta(seconds=60)
SILENT_AT_ONCE = 2_000  # so that writers of their channels wait for a moment only
DUE_AT_ONCE = 5_000
DUE_SOON = timedelta(seconds=5)  # what cannot be judged at the moment
DUE_AGAIN = timedelta(seconds=60)  # what is silent
RECORDS_LOOKED_AT = 5_000
VANISHED_AFTER = timedelta(days=1)
VANISHED_INTERVALS = 10


class Pause(NamedTuple):
    """A time in which messages may have waited."""

    began_at: datetime
    ended_at: datetime


@dataclass(frozen=True)
class Way:
    """A way on which messages come. `until`: what was received before is stored; None: nobody can be judged."""

    until: datetime | None
    pauses: Sequence[Pause] = ()

    def silent_for(self, heard_at: datetime) -> timedelta:
        """How long nothing came although it could have; negative when it was heard since."""
        if self.until is None:
            return timedelta(0)
        lost = timedelta(0)
        for pause in self.pauses:
            if pause.ended_at > heard_at:
                lost += min(pause.ended_at, self.until) - max(pause.began_at, heard_at)
        return self.until - heard_at - lost


class Ingest(NamedTuple):
    """How far the intake has come; made by the room that has it (streams/ingest_progress.py)."""

    mqtt: Way
    http: Way
    records_newest: RecordsNewest


class Due(NamedTuple):
    """A heard stream that could be silent."""

    key: int
    silence: Silence
    heard_at: datetime
    by_http: bool
    last_seen: datetime
    is_silent: bool


class Looked(NamedTuple):
    """What a look at due streams found: which are silent, or no longer so since when, and when to look again.

    `gone`: those that are no longer watched.
    """

    silent: list[Silence]
    over: dict[Instance, datetime]
    next_at: dict[int, datetime]
    gone: list[int]


# How often a device is usually heard is known after some messages. Five are enough where they come slowly; short
# distances may be those of messages that come in twos, and of what sends often twenty are soon there.
_IS_LEARNED = (
    f"received >= CASE WHEN usual_interval_s > {LEAST_LEARNED_S / INTERVALS_UNTIL_SILENT} THEN 5 ELSE 20 END"
)
# The newest row of traffic tells when a device was heard last, on which way, and how often it usually is.
_HEARD_CTE = f"""
heard AS MATERIALIZED (
    SELECT DISTINCT ON (device_key) device_key, last_seen,
           CASE WHEN {_IS_LEARNED} THEN usual_interval_s END AS usual_s, writer LIKE 'http-%%' AS by_http
    FROM devices_devicetraffic WHERE last_seen IS NOT NULL {{narrow}}
    ORDER BY device_key, last_seen DESC
)
"""
_DEVICES_SQL = f"""
WITH {_HEARD_CTE}, watched AS (
    SELECT r.id, r.account_id, r.channel_id, r.severity, d.id AS device_key, h.last_seen, h.by_http,
           CASE WHEN r.absent_s > 0 THEN r.absent_s::float8
                WHEN h.usual_s IS NOT NULL THEN greatest(%(intervals)s * h.usual_s, %(least_s)s)
           END AS limit_s
    FROM events_rule r
    JOIN channels_channel c ON c.id = r.channel_id AND c.deleted_at IS NULL
    JOIN devices_device d ON d.channel_id = r.channel_id AND d.enabled AND d.deleted_at IS NULL
         AND (r.device_id IS NULL OR r.device_id = d.id)
    JOIN heard h ON h.device_key = d.id
    WHERE r.enabled AND r.deleted_at IS NULL AND r.absent_s IS NOT NULL AND r.source = '' AND r.tag = ''
), due AS (
    SELECT *, last_seen + make_interval(secs => limit_s)
              <= CASE WHEN by_http THEN %(http)s::timestamptz ELSE %(mqtt)s::timestamptz END AS is_due
    FROM watched WHERE limit_s IS NOT NULL
)
SELECT id, account_id, channel_id, severity, device_key, last_seen, by_http, limit_s FROM due
WHERE is_due AND NOT EXISTS (
    SELECT 1 FROM events_alertstate s
    WHERE s.rule_id = due.id AND s.device_key = due.device_key AND s.tag = '' AND s.cause = 'silence'
)
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, min(last_seen + make_interval(secs => limit_s)), NULL, NULL
FROM due WHERE NOT is_due
"""
_DUE_SQL = f"""
WITH due AS MATERIALIZED (
    SELECT * FROM events_heardstream WHERE id = ANY(%(keys)s)
), {_HEARD_CTE.format(narrow="AND device_key IN (SELECT device_key FROM due)")}
SELECT h.id, h.rule_id, h.device_key, h.tag, h.key, h.heard_at, h.usual_s, r.account_id, r.channel_id, r.severity,
       r.absent_s, t.last_seen, t.by_http, coalesce(
           r.enabled AND r.deleted_at IS NULL AND c.deleted_at IS NULL AND r.condition_version = h.rule_version, false
       ), coalesce(d.enabled AND d.deleted_at IS NULL AND d.channel_id = r.channel_id, false), EXISTS (
           SELECT 1 FROM events_alertstate s WHERE s.rule_id = h.rule_id AND s.device_key = h.device_key
               AND s.tag = h.tag AND s.key_digest = h.key_digest AND s.cause = 'silence'
       )
FROM due h JOIN events_rule r ON r.id = h.rule_id
LEFT JOIN channels_channel c ON c.id = r.channel_id
LEFT JOIN devices_device d ON d.id = h.device_key
LEFT JOIN heard t ON t.device_key = h.device_key
ORDER BY h.rule_id, h.device_key, h.tag, h.key_digest
"""
_DUE_KEYS_SQL = "SELECT id FROM events_heardstream WHERE due_at <= %s ORDER BY due_at LIMIT %s"
_LATEST_SQL = """
SELECT l.device_key, l.channel_key, l.tag, l.at, l.value
FROM (SELECT DISTINCT * FROM unnest(%s::bigint[], %s::bigint[]) AS u (device_key, channel_key)) AS u
JOIN channels_latest l ON l.device_key = u.device_key AND l.channel_key = u.channel_key
"""
_NEXT_SQL = """
WITH next AS (
    SELECT h.id, u.due_at FROM unnest(%s::bigint[], %s::timestamptz[]) AS u (id, due_at)
    JOIN events_heardstream h ON h.id = u.id FOR UPDATE OF h SKIP LOCKED
)
UPDATE events_heardstream h SET due_at = greatest(h.due_at, next.due_at) FROM next WHERE h.id = next.id
"""
_GONE_SQL = """
DELETE FROM events_heardstream WHERE id IN (
    SELECT id FROM events_heardstream WHERE id = ANY(%s) FOR UPDATE SKIP LOCKED
)
"""
# A sign of life that no batch saw as one: a message that was refused, a state, or one of a writer that did not know
# of the rule yet.
_HEARD_AGAIN_SQL = """
WITH over AS (
    SELECT s.id, s.alert_id, t.last_seen
    FROM events_alertstate s
    CROSS JOIN LATERAL (
        SELECT max(last_seen) AS last_seen FROM devices_devicetraffic WHERE device_key = s.device_key
    ) AS t
    WHERE s.cause = 'silence' AND s.key = '' AND s.tag = '' AND t.last_seen > s.last_at
    ORDER BY s.rule_id, s.device_key, s.tag, s.key_digest
    FOR UPDATE OF s
), gone AS (
    DELETE FROM events_alertstate s USING over WHERE s.id = over.id
), resolved AS (
    UPDATE events_alert a SET resolved_at = over.last_seen, last_at = over.last_seen, resolution = 'recovered'
    FROM over WHERE a.id = over.alert_id AND a.resolved_at IS NULL
    RETURNING a.id
)
INSERT INTO events_notification (alert_id, kind) SELECT id, 'resolved' FROM resolved ORDER BY id
"""
# The device has gone on measuring for so long without the value. Its clock may have been ahead: no later than heard.
_VANISHED_SQL = f"""
WITH over AS (
    SELECT s.id, s.alert_id
    FROM events_alertstate s
    JOIN events_rule r ON r.id = s.rule_id
    CROSS JOIN LATERAL (
        SELECT max(last_seen) AS last_seen, max(usual_interval_s) FILTER (WHERE {_IS_LEARNED}) AS usual_s
        FROM devices_devicetraffic WHERE device_key = s.device_key
    ) AS t
    CROSS JOIN LATERAL (
        SELECT max(at) AS at FROM channels_latest WHERE device_key = s.device_key AND channel_key = r.channel_id
    ) AS l
    WHERE s.cause <> 'silence' AND s.last_at < %(now)s - make_interval(secs => %(least_s)s)
      AND least(l.at, t.last_seen) - s.last_at
          >= make_interval(secs => greatest(%(least_s)s, %(intervals)s * coalesce(t.usual_s, 0)))
    ORDER BY s.rule_id, s.device_key, s.tag, s.key_digest
    FOR UPDATE OF s
), gone AS (
    DELETE FROM events_alertstate s USING over WHERE s.id = over.id
), resolved AS (
    UPDATE events_alert a SET resolved_at = %(now)s, resolution = 'vanished'
    FROM over WHERE a.id = over.alert_id AND a.resolved_at IS NULL
    RETURNING a.id
)
INSERT INTO events_notification (alert_id, kind) SELECT id, 'resolved' FROM resolved ORDER BY id
"""


class SilenceCheck:
    """One per worker. It remembers only when there is something to look at, at the earliest."""

    def __init__(self) -> None:
        self._version = -1
        self._is_stale = True
        self._ways: tuple[bool, bool] | None = None
        self._next_at: datetime | None = None
        self._looked_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._vanished_at: datetime | None = None

    def check(self, *, now: datetime, ingest: Ingest) -> int:
        """Begin what silence begins, and end what no message ends; returns how much there is to tell of."""
        version = config_version()
        ways = (ingest.mqtt.until is not None, ingest.http.until is not None)
        is_changed = version != self._version
        self._is_stale = self._is_stale or is_changed or ways != self._ways
        self._version, self._ways = version, ways
        told = 0
        if is_changed or _passed(self._ended_at, now, ENDED_EVERY):
            self._ended_at = now
            told += alerts_end(now=now) + heard_again()
        if _passed(self._vanished_at, now, VANISHED_EVERY):
            self._vanished_at = now
            told += vanished_end(now=now)
        told += self._devices(now=now, ingest=ingest)
        return told + streams_check(now=now, ingest=ingest)

    def _devices(self, *, now: datetime, ingest: Ingest) -> int:
        """Devices can only be found silent when the time of one has come, or rules, devices or ways have changed."""
        untils = [way.until for way in (ingest.mqtt, ingest.http) if way.until is not None]
        if not untils:
            return 0
        is_due = self._next_at is not None and max(untils) >= self._next_at
        if not (self._is_stale or is_due or _passed(self._looked_at, now, LOOK_AT_LEAST_EVERY)):
            return 0
        with _cursor() as cursor:
            silent, next_at = _devices_look(cursor, ingest)
        self._looked_at, self._next_at, self._is_stale = now, next_at, False
        told = 0
        for start in range(0, len(silent), SILENT_AT_ONCE):
            some = silent[start : start + SILENT_AT_ONCE]
            with transaction.atomic(), _cursor() as cursor:
                _lock_alone(cursor, {one.channel_key for one in some})
                version = config_version()  # first: what changes from now on ends the alert
                some, _ = _devices_look(cursor, ingest, keys=[one.instance.device_key for one in some])
                silences_write(cursor, some, now=now, version=version)
            told += len(some)
        return told


_CHECK = SilenceCheck()


def silences_check(*, now: datetime, ingest: Ingest) -> int:
    """For the worker's loop, every second: as SilenceCheck.check()."""
    return _CHECK.check(now=now, ingest=ingest)


def streams_check(*, now: datetime, ingest: Ingest) -> int:
    """Look at the streams whose time has come; returns how many became silent or were found not to be.

    Rows of heard streams are locked by none but the last statement, which waits for nobody: writers lock them while
    they hold their channel.
    """
    untils = [way.until for way in (ingest.mqtt, ingest.http) if way.until is not None]
    if not untils:
        return 0
    with _cursor() as cursor:
        cursor.execute(_DUE_KEYS_SQL, [max(untils), DUE_AT_ONCE])
        keys = [key for (key,) in cursor.fetchall()]
        if not keys:
            return 0
        cursor.execute(_DUE_SQL, {"keys": keys})
        rows = cursor.fetchall()
        looked = _streams_look(cursor, rows, ingest=ingest)
        told = 0
        if looked.silent or looked.over:
            changing = {one.instance for one in looked.silent} | set(looked.over)
            keys = [row[0] for row in rows if Instance(*row[1:5]) in changing]
            with transaction.atomic():
                _lock_alone(cursor, {row[8] for row in rows if row[0] in keys})
                version = config_version()
                cursor.execute(_DUE_SQL, {"keys": keys})
                again = _streams_look(cursor, cursor.fetchall(), ingest=ingest)
                silences_write(cursor, again.silent, now=now, version=version)
                _end(cursor, again.over)
            told = len(again.silent) + len(again.over)
            looked = looked._replace(next_at=looked.next_at | again.next_at)
        cursor.execute(_NEXT_SQL, [list(looked.next_at), list(looked.next_at.values())])
        if looked.gone:
            cursor.execute(_GONE_SQL, [looked.gone])
    return told


def _end(cursor: Cursor, over: Mapping[Instance, datetime]) -> None:
    """End the silence of streams that were heard by a writer that did not know of their rule yet."""
    if not over:
        return
    standings = standings_read(cursor, {instance.device_key for instance in over}, lock=True)
    endings_write(
        cursor,
        [
            Ending(standing, over[standing.instance])
            for standing in standings
            if standing.cause == "silence" and standing.instance in over
        ],
    )


def heard_again() -> int:
    """End the silence of devices that were heard otherwise than by a stored message; returns how many."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_HEARD_AGAIN_SQL)
        return int(cursor.rowcount)


def vanished_end(*, now: datetime) -> int:
    """End what fires by a value that its device no longer sends; returns how many alerts. For every minute or so."""
    with transaction.atomic(), connection.cursor() as cursor:
        least_s = VANISHED_AFTER.total_seconds()
        cursor.execute(_VANISHED_SQL, {"now": now, "least_s": least_s, "intervals": VANISHED_INTERVALS})
        return int(cursor.rowcount)


def learned_limit_s(usual_s: float | None) -> float | None:
    """How long something may be silent whose usual distance this is; None: it is not known yet."""
    return None if usual_s is None else max(INTERVALS_UNTIL_SILENT * usual_s, LEAST_LEARNED_S)


def _devices_look(
    cursor: Cursor, ingest: Ingest, *, keys: Sequence[int] | None = None
) -> tuple[list[Silence], datetime | None]:
    """The devices that are silent now, and when the next one can be at the earliest. `keys`: only of these."""
    narrow = "" if keys is None else "AND device_key = ANY(%(keys)s)"
    cursor.execute(
        _DEVICES_SQL.format(narrow=narrow),
        {
            "keys": keys,
            "http": ingest.http.until,
            "mqtt": ingest.mqtt.until,
            "intervals": INTERVALS_UNTIL_SILENT,
            "least_s": LEAST_LEARNED_S,
        },
    )
    silent, due = [], []
    for (
        rule_key,
        account_key,
        channel_key,
        severity,
        device_key,
        last_seen,
        by_http,
        limit_s,
    ) in cursor.fetchall():
        if rule_key is None:
            due += [last_seen] if last_seen is not None else []
            continue
        way = ingest.http if by_http else ingest.mqtt
        missing = timedelta(seconds=limit_s) - way.silent_for(last_seen)
        if way.until is not None and missing > timedelta(0):
            due.append(way.until + missing)
        else:
            instance = Instance(rule_key, device_key, "", "")
            silent.append(Silence(instance, account_key, channel_key, severity, last_seen, round(limit_s)))
    return silent, min(due, default=None)


def _streams_look(cursor: Cursor, rows: Sequence[tuple[Any, ...]], *, ingest: Ingest) -> Looked:
    """What is to be said of these heard streams, of which nothing is changed."""
    looked = Looked([], {}, {}, [])
    dues = []
    for row in rows:
        key, rule_key, device_key, tag, path, heard_at, usual_s, account_key, channel_key, severity = row[:10]
        absent_s, last_seen, by_http, is_watched, is_there, is_silent = row[10:]
        if not (is_watched and is_there) or absent_s is None:
            looked.gone.append(key)  # it is noted again should the device come back
            continue
        limit_s = absent_s or learned_limit_s(usual_s)
        way = ingest.http if by_http else ingest.mqtt
        if limit_s is None or last_seen is None or way.until is None:
            looked.next_at[key] = max(w.until for w in (ingest.mqtt, ingest.http) if w.until) + DUE_SOON
            continue
        instance = Instance(rule_key, device_key, tag, path)
        silence = Silence(instance, account_key, channel_key, severity, heard_at, round(limit_s))
        dues.append(Due(key, silence, heard_at, by_http, last_seen, is_silent))
    for due, heard_at in zip(dues, _heard_last(cursor, dues, ingest), strict=True):
        way = ingest.http if due.by_http else ingest.mqtt
        missing = timedelta(seconds=due.silence.limit_s) - way.silent_for(heard_at)
        if missing <= timedelta(0):
            if not due.is_silent:
                looked.silent.append(due.silence._replace(heard_at=heard_at))
            missing = DUE_AGAIN
        elif due.is_silent:
            looked.over[due.silence.instance] = heard_at
        if way.until is not None:
            looked.next_at[due.key] = way.until + missing
    return looked


def _heard_last(cursor: Cursor, dues: Sequence[Due], ingest: Ingest) -> list[datetime]:
    """When each stream was received last, as far as can be told."""
    latest = _latest(cursor, dues)
    found: list[datetime | None] = []
    for due in dues:
        rows = latest.get((due.silence.instance.device_key, due.silence.channel_key), ())
        found.append(_measured_last(due.silence.instance, rows))
    _look_into_records(cursor, dues, found, latest, ingest)
    heard = []
    for due, at in zip(dues, found, strict=True):
        rows = latest.get((due.silence.instance.device_key, due.silence.channel_key), ())
        heard.append(heard_estimate(at, due, newest_at=max((row[1] for row in rows), default=None)))
    return heard


def heard_estimate(at: datetime | None, due: Due, *, newest_at: datetime | None) -> datetime:
    """When a stream was received that was measured last `at`, of a device whose newest measurement is `newest_at`.

    A clock that is ahead says no more than that it was heard; and no measurement makes a stream older than its own
    receipt, where that was noted.
    """
    if at is None or newest_at is None:
        return due.heard_at
    behind = max(timedelta(0), min(newest_at, due.last_seen) - at)
    return max(due.last_seen - behind, due.heard_at)


Latest = Mapping[tuple[int, int], Sequence[tuple[str, datetime, Any]]]


def _latest(cursor: Cursor, dues: Sequence[Due]) -> Latest:
    """The latest rows of these devices: (tag, at, value)."""
    if not dues:
        return {}
    keys = [due.silence.instance.device_key for due in dues]
    cursor.execute(_LATEST_SQL, [keys, [due.silence.channel_key for due in dues]])
    rows: dict[tuple[int, int], list[tuple[str, datetime, Any]]] = {}
    for device_key, channel_key, tag, at, value in cursor.fetchall():
        rows.setdefault((device_key, channel_key), []).append((tag, at, value))
    return rows


def _measured_last(instance: Instance, rows: Iterable[tuple[str, datetime, Any]]) -> datetime | None:
    levels = key_split(instance.path) if instance.path else ()
    return max(
        (at for tag, at, value in rows if tag == instance.tag and (not levels or scalars_at(value, levels))),
        default=None,
    )


def _look_into_records(
    cursor: Cursor, dues: Sequence[Due], found: list[datetime | None], latest: Latest, ingest: Ingest
) -> None:
    """Correct `found` where the latest rows may not tell: a newer message with the same top-level keys lacks the path.

    Only for devices that are still heard: of the others all streams are silent.
    """
    wanted: list[tuple[int, Wanted]] = []
    for place, due in enumerate(dues):
        instance, limit = due.silence.instance, timedelta(seconds=due.silence.limit_s)
        way = ingest.http if due.by_http else ingest.mqtt
        rows = [
            row
            for row in latest.get((instance.device_key, due.silence.channel_key), ())
            if row[0] == instance.tag
        ]
        if not instance.path or not rows or way.silent_for(due.last_seen) >= limit:
            continue
        newest_at, at = max(row[1] for row in rows), found[place]
        if way.silent_for(heard_estimate(at, due, newest_at=newest_at)) < limit:
            continue
        low = newest_at - limit - sum((p.ended_at - p.began_at for p in way.pauses), timedelta(0))
        series = Series(instance.device_key, due.silence.channel_key, instance.tag)
        wanted.append((place, Wanted(series, low, newest_at, RECORDS_LOOKED_AT)))
    if not wanted:
        return
    for (place, _), newest in zip(
        wanted, ingest.records_newest(cursor, [one for _, one in wanted]), strict=True
    ):
        levels = key_split(dues[place].silence.instance.path)
        at = next((record.at for record in newest.records if scalars_at(record.value, levels)), None)
        if at is not None:
            found[place] = at if found[place] is None else max(at, found[place] or at)


def _lock_alone(cursor: Cursor, channel_keys: Iterable[int]) -> None:
    """The channels' locks of events/evaluation.py, alone: what began before has ended, what begins waits."""
    for bucket in sorted({key % LOCK_BUCKETS for key in channel_keys}):
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_CLASS, bucket])


@contextmanager
def _cursor() -> Iterator[Cursor]:
    """A cursor of psycopg's own on Django's connection, which reads JSON as values."""
    connection.ensure_connection()
    with connection.connection.cursor() as cursor:
        set_json_loads(json.loads, context=cursor)
        yield cursor


def _passed(at: datetime | None, now: datetime, every: timedelta) -> bool:
    """Whether it is time again; also when the clock was set back."""
    return at is None or not timedelta(0) <= now - at < every
