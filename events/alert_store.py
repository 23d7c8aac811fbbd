"""The rows of alerts, read and written on the writer's connection, in few statements a batch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from channels.keys import Scalar
from events.heard import Heard
from events.machine import Fired, Phase, Reading, Run, State
from events.rulebook import Instance, RuleEntry
from events.sources import path_digest

Cursor = psycopg.Cursor[tuple[Any, ...]]

MOST_TEXT = 256  # of a value that is kept with an alert
RECOVERED, RULE_CHANGED = "recovered", "rule_changed"

_STANDINGS_SQL = """
SELECT id, rule_id, device_key, tag, key, phase, since, last_at, alert_id, config_version, cause
FROM events_alertstate WHERE device_key = ANY(%s::text::bigint[]) AND cause IN ('value', 'silence')
ORDER BY rule_id, device_key, tag, key_digest
"""
_ALERTS_SQL = """
INSERT INTO events_alert (id, account_id, rule_id, channel_id, device_key, tag, key, severity, operator, threshold,
                          since, fired_at, value, last_at, last_value)
SELECT u.*, u.fired_at, u.value
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[],
            %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::jsonb[])
     AS u (id, account_id, rule_id, channel_id, device_key, tag, key, severity, operator, threshold, since, fired_at,
           value)
"""
_ENDS_SQL = """
UPDATE events_alert a
SET resolved_at = coalesce(u.at, now()), resolution = u.resolution,
    last_at = coalesce(u.at, a.last_at), last_value = coalesce(u.value, a.last_value)
FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::jsonb[]) AS u (id, at, resolution, value)
WHERE a.id = u.id AND a.resolved_at IS NULL
"""
_STATES_SQL = """
INSERT INTO events_alertstate
    (rule_id, device_key, tag, key, key_digest, phase, since, last_at, alert_id, config_version)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::timestamptz[],
                     %s::timestamptz[], %s::bigint[], %s::bigint[])
ON CONFLICT (rule_id, device_key, tag, key_digest, cause) DO UPDATE
SET phase = excluded.phase, since = excluded.since, last_at = excluded.last_at, alert_id = excluded.alert_id,
    config_version = excluded.config_version
"""
_NOTIFICATIONS_SQL = """
INSERT INTO events_notification (alert_id, kind) SELECT * FROM unnest(%s::bigint[], %s::text[])
"""
_SEEN_SQL = """
WITH seen AS (
    SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::jsonb[]) AS u (alert_id, at, value)
), states AS (
    UPDATE events_alertstate s SET last_at = seen.at FROM seen WHERE s.alert_id = seen.alert_id
)
UPDATE events_alert a SET last_at = seen.at, last_value = seen.value
FROM seen WHERE a.id = seen.alert_id AND a.last_at < seen.at
"""


# A silence that has ended: the stream has its full time again, whatever the time of the measurement was.
_HEARD_AGAIN_SQL = """
UPDATE events_heardstream h
SET heard_at = u.at,
    due_at = u.at + make_interval(secs => coalesce(nullif(r.absent_s, 0), greatest(5 * h.usual_s, 60), 60))
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::timestamptz[])
     AS u (rule_id, device_key, tag, key_digest, at)
JOIN events_rule r ON r.id = u.rule_id
WHERE h.rule_id = u.rule_id AND h.device_key = u.device_key AND h.tag = u.tag AND h.key_digest = u.key_digest
"""
_HEARD_SQL = """
INSERT INTO events_heardstream AS h
    (rule_id, device_key, tag, key, key_digest, heard_at, due_at, usual_s, rule_version)
SELECT u.rule_id, u.device_key, u.tag, u.key, u.key_digest, u.heard_at,
       u.heard_at + make_interval(secs => coalesce(nullif(r.absent_s, 0), 60)), u.usual_s, u.rule_version
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[], %s::float8[],
            %s::bigint[]) AS u (rule_id, device_key, tag, key, key_digest, heard_at, usual_s, rule_version)
JOIN events_rule r ON r.id = u.rule_id
ORDER BY u.rule_id, u.device_key, u.tag, u.key
ON CONFLICT (rule_id, device_key, tag, key_digest) DO UPDATE
SET usual_s = coalesce(excluded.usual_s, h.usual_s),
    due_at = CASE WHEN excluded.rule_version > h.rule_version THEN excluded.due_at ELSE h.due_at END,
    rule_version = greatest(excluded.rule_version, h.rule_version),
    heard_at = greatest(excluded.heard_at, h.heard_at)
"""
_SILENCES_SQL = """
INSERT INTO events_alert (id, account_id, rule_id, channel_id, device_key, tag, key, cause, severity, operator,
                          threshold, since, fired_at, value, last_at, last_value)
SELECT u.id, u.account_id, u.rule_id, u.channel_id, u.device_key, u.tag, u.key, 'silence', u.severity, '',
       u.threshold, u.heard_at, u.fired_at, 'null', u.heard_at, 'null'
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[],
            %s::text[], %s::timestamptz[], %s::timestamptz[])
     AS u (id, account_id, rule_id, channel_id, device_key, tag, key, severity, threshold, heard_at, fired_at)
"""
_SILENT_STATES_SQL = """
INSERT INTO events_alertstate
    (rule_id, device_key, tag, key, key_digest, cause, phase, since, last_at, alert_id, config_version)
SELECT u.rule_id, u.device_key, u.tag, u.key, u.key_digest, 'silence', 'firing', u.heard_at, u.heard_at, u.alert_id,
       u.config_version
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[], %s::bigint[],
            %s::bigint[]) AS u (rule_id, device_key, tag, key, key_digest, heard_at, alert_id, config_version)
"""


class Standing(NamedTuple):
    """Where a rule stands with an instance that is not quiet. `alert_key` None: pending."""

    key: int
    instance: Instance
    state: State
    last_at: datetime
    alert_key: int | None
    config_version: int
    cause: str = "value"


class Ending(NamedTuple):
    """A silence that is over, since a message came then."""

    standing: Standing
    at: datetime


class Silence(NamedTuple):
    """What is silent: a device (path "") or stream, since it was heard last; `limit_s`: so long it may be."""

    instance: Instance
    account_key: int
    channel_key: int
    severity: str
    heard_at: datetime
    limit_s: int


class Outcome(NamedTuple):
    """What the batch made of an instance. `is_outdated`: it stood by a condition that the rule no longer has."""

    instance: Instance
    rule: RuleEntry
    standing: Standing | None
    is_outdated: bool
    run: Run
    last_at: datetime

    @property
    def is_change(self) -> bool:
        old = self.standing.state if self.standing else None
        return self.is_outdated or bool(self.run.transitions) or self.run.state != old

    @property
    def begins(self) -> bool:
        """Whether something stands, or has fired, where nothing stood that others could lock."""
        return self.standing is None and self.is_change


@dataclass(slots=True)
class _Rows:
    """What is to be written, as rows."""

    alerts: list[tuple[Any, ...]] = field(default_factory=list)
    ends: list[tuple[Any, ...]] = field(default_factory=list)
    states: list[tuple[Any, ...]] = field(default_factory=list)
    quiet: list[int] = field(default_factory=list)
    notifications: list[tuple[int, str]] = field(default_factory=list)

    def end(self, alert_key: int, *, at: datetime | None, resolution: str, value: str | None) -> None:
        self.ends.append((alert_key, at, resolution, value))
        self.notifications.append((alert_key, "resolved"))


def standings_read(cursor: Cursor, device_keys: Iterable[int], *, lock: bool) -> list[Standing]:
    """What stands for these devices, locked for change if wanted, in the order of instances."""
    keys = ",".join(map(str, device_keys))  # psycopg takes five times as long for a list of a thousand
    cursor.execute(_STANDINGS_SQL + ("FOR UPDATE" if lock else ""), [f"{{{keys}}}"])
    return [
        Standing(
            key,
            Instance(rule_key, device_key, tag, path),
            State(Phase(phase), since),
            last_at,
            alert_key,
            version,
            cause,
        )
        for (
            key,
            rule_key,
            device_key,
            tag,
            path,
            phase,
            since,
            last_at,
            alert_key,
            version,
            cause,
        ) in cursor.fetchall()
    ]


def usual_intervals_read(cursor: Cursor, device_keys: Sequence[int]) -> dict[int, float]:
    """Device key -> its usual distance between two messages in seconds, where one is known."""
    cursor.execute(
        "SELECT device_key, max(usual_interval_s) FROM devices_devicetraffic"
        " WHERE device_key = ANY(%s) AND usual_interval_s IS NOT NULL GROUP BY device_key",
        [list(device_keys)],
    )
    return dict(cursor.fetchall())


def outcomes_write(cursor: Cursor, outcomes: Sequence[Outcome], *, version: int) -> None:
    """Alerts, where they stand, and notifications. `version`: of the configuration that was judged by."""
    fired = sum(isinstance(t, Fired) for outcome in outcomes for t in outcome.run.transitions)
    ids = iter(_alert_ids(cursor, fired))
    rows = _Rows()
    for outcome in outcomes:
        _collect(rows, outcome, ids, version=version)
    _execute(cursor, _ALERTS_SQL, rows.alerts)
    _execute(cursor, _ENDS_SQL, rows.ends)
    if rows.quiet:
        cursor.execute("DELETE FROM events_alertstate WHERE id = ANY(%s)", [rows.quiet])
    _execute(cursor, _STATES_SQL, rows.states)
    _execute(cursor, _NOTIFICATIONS_SQL, rows.notifications)


def seen_write(cursor: Cursor, seen: Sequence[tuple[Standing, Reading]]) -> None:
    """Note the newest readings of alerts that go on."""
    rows = [
        (standing.alert_key, reading.at, value_json(reading.values[0]))
        for standing, reading in seen
        if standing.alert_key is not None
    ]
    _execute(cursor, _SEEN_SQL, rows)


def endings_write(cursor: Cursor, endings: Sequence[Ending]) -> None:
    """End silences, whose states the caller has locked."""
    rows = _Rows()
    again = []
    for standing, at in endings:
        rows.quiet.append(standing.key)
        if standing.alert_key is not None:
            rows.end(standing.alert_key, at=at, resolution=RECOVERED, value=None)
        rule_key, device_key, tag, path = standing.instance
        if path or tag:
            again.append((rule_key, device_key, tag, path_digest(path), at))
    _execute(cursor, _ENDS_SQL, rows.ends)
    cursor.execute("DELETE FROM events_alertstate WHERE id = ANY(%s)", [rows.quiet])
    _execute(cursor, _NOTIFICATIONS_SQL, rows.notifications)
    _execute(cursor, _HEARD_AGAIN_SQL, again)


def heard_write(cursor: Cursor, heard: Sequence[Heard]) -> None:
    """Note streams whose silence would count, given in the order of their keys."""
    rows = [
        (
            one.rule_key,
            one.device_key,
            one.tag,
            one.path,
            path_digest(one.path),
            one.received_at,
            one.usual_s,
            one.version,
        )
        for one in heard
    ]
    _execute(cursor, _HEARD_SQL, rows)


def silences_write(cursor: Cursor, silences: Sequence[Silence], *, now: datetime, version: int) -> None:
    """Alerts of what is silent, where they stand, and notifications. `version`: of the configuration judged by."""
    ids = _alert_ids(cursor, len(silences))
    alerts, states = [], []
    for key, one in zip(ids, silences, strict=True):
        rule_key, device_key, tag, path = one.instance
        alerts.append(
            (
                key,
                one.account_key,
                rule_key,
                one.channel_key,
                device_key,
                tag,
                path,
                one.severity,
                str(one.limit_s),
                one.heard_at,
                now,
            )
        )
        states.append((*one.instance, path_digest(path), one.heard_at, key, version))
    _execute(cursor, _SILENCES_SQL, alerts)
    _execute(cursor, _SILENT_STATES_SQL, states)
    _execute(cursor, _NOTIFICATIONS_SQL, [(key, "firing") for key in ids])


def value_json(value: Scalar) -> str:
    """A value to be kept with an alert, as JSON; a long text is cut."""
    return json.dumps(value[:MOST_TEXT] if isinstance(value, str) else value)


def _collect(rows: _Rows, outcome: Outcome, ids: Iterable[int], *, version: int) -> None:
    instance, rule, standing = outcome.instance, outcome.rule, outcome.standing
    alert_key = standing.alert_key if standing else None
    if outcome.is_outdated and alert_key is not None:
        rows.end(alert_key, at=None, resolution=RULE_CHANGED, value=None)
        alert_key = None
    for transition in outcome.run.transitions:
        value = value_json(transition.value)
        if isinstance(transition, Fired):
            alert_key = next(iter(ids))
            rows.alerts.append(
                (
                    alert_key,
                    rule.account_key,
                    rule.key,
                    rule.channel_key,
                    instance.device_key,
                    instance.tag,
                    instance.path,
                    rule.severity,
                    rule.condition.fires.operator,
                    rule.condition.fires.text,
                    transition.since,
                    transition.at,
                    value,
                )
            )
            rows.notifications.append((alert_key, "firing"))
        elif alert_key is not None:
            rows.end(alert_key, at=transition.at, resolution=RECOVERED, value=value)
            alert_key = None
    state = outcome.run.state
    if state is not None:
        digest = path_digest(instance.path)
        rows.states.append(
            (*instance, digest, str(state.phase), state.since, outcome.last_at, alert_key, version)
        )
    elif standing is not None:
        rows.quiet.append(standing.key)


def _alert_ids(cursor: Cursor, count: int) -> list[int]:
    if not count:
        return []
    cursor.execute(
        "SELECT nextval(pg_get_serial_sequence('events_alert', 'id')) FROM generate_series(1, %s)", [count]
    )
    return [key for (key,) in cursor.fetchall()]


def _execute(cursor: Cursor, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """One statement for all rows, given as columns for unnest()."""
    if rows:
        cursor.execute(sql, [list(column) for column in zip(*rows, strict=True)])
