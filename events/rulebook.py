"""All enabled rules in memory, and the quick look that finds, in a batch, the values that may meet one.

A message costs one look for its channel's rules and one comparison for each of its watched key paths, however many
rules there are: rules on one path share a range of numbers that are quiet for all of them, and what to look at is
worked out once for each structure of messages. Only what lies outside is compared rule by rule.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from channels.keys import Scalar, key_split, value_at
from events.conditions import ORDERING, Comparison, Condition, Number, number_of_text
from events.heard import Heard, Watches
from events.sources import Levels, SourceIndex, source_levels

SCANS_REMEMBERED = 4_096  # of one scope
SCOPES_REMEMBERED = 50_000
NO_CONDITION = Condition.of("=", "", None, 0)
KeyTypes = tuple[tuple[str, str], ...]


class Shaped(Protocol):
    """The structure of a message: one object per structure, compared by identity."""

    @property
    def keys(self) -> KeyTypes: ...


class Metrics(Protocol):
    """What a message holds."""

    @property
    def tag(self) -> str | None: ...
    @property
    def value(self) -> Any: ...
    @property
    def digest(self) -> int: ...
    @property
    def structure(self) -> Any: ...  # a Shaped; its room is above this one


class Measured(NamedTuple):
    """A measurement on its way to be stored. `received_at` None: a replayed one, which begins no alert.

    The write street puts plain tuples in this order into its batch, which is quicker.
    """

    channel_key: int
    device_key: int
    at: datetime
    received_at: datetime | None
    metrics: Metrics


AnyMeasured = tuple[int, int, datetime, datetime | None, Metrics]


class RuleEntry(NamedTuple):
    """What evaluation knows of a rule. `device_key` 0: any device; `tag` "": any tag.

    `condition` means nothing where a rule is about silence alone: no value is held against it. `absent_s` None: it is
    about values alone.
    """

    key: int
    account_key: int
    channel_key: int
    device_key: int
    tag: str
    levels: Levels
    condition: Condition
    severity: str
    version: int
    absent_s: int | None = None


class Instance(NamedTuple):
    """One rule with one device, tag ("": none) and key path."""

    rule_key: int
    device_key: int
    tag: str
    path: str


class Found(NamedTuple):
    """What a batch has to do with rules: what meets one, and the devices that any rule could concern.

    `heard`: streams that are watched for silence and were not known to be there.
    """

    measured: Sequence[AnyMeasured]
    candidates: dict[Instance, RuleEntry]
    device_keys: set[int]
    channel_keys: set[int]
    heard: list[Heard]


@dataclass(frozen=True, slots=True)
class Check:
    """The rules that watch one key path of a structure, and what is quiet for all of them.

    Numbers from `low` to `high` that are not among `numbers`, also written as texts; other texts if they are not
    among `texts`. `texts` None: every text has to be compared.
    """

    path: str
    levels: tuple[str, ...]
    rules: tuple[RuleEntry, ...]
    low: Number
    high: Number
    numbers: frozenset[Number]
    texts: frozenset[str] | None

    @classmethod
    def of(cls, path: str, rules: Sequence[RuleEntry]) -> "Check":
        comparisons = [rule.condition.fires for rule in rules]
        ranges = [comparison.quiet_range() for comparison in comparisons]
        return cls(
            path,
            key_split(path),
            tuple(rules),
            low=max(low for low, _ in ranges),
            high=min(high for _, high in ranges),
            numbers=frozenset(c.equal_to for c in comparisons if c.equal_to is not None),
            texts=_texts_equal_to(comparisons),
        )

    def may_match(self, value: Scalar) -> bool:
        if isinstance(value, str):
            if self.texts is None or value in self.texts:
                return True
            value = number_of_text(value)
        if value is None:
            return False
        return not self.low <= value <= self.high or value in self.numbers


def _texts_equal_to(comparisons: Sequence[Comparison]) -> frozenset[str] | None:
    """The texts that alone can match, numbers written as texts aside; None where others can."""
    if any(c.operator == "!=" or (c.operator in ORDERING and c.number is None) for c in comparisons):
        return None
    return frozenset(c.text for c in comparisons)


@dataclass(frozen=True, slots=True)
class Scan:
    """What to look at in messages of one structure.

    `flat` and `nested` are the common case, numbers one or two levels deep with only ranges to keep: (keys, low,
    high). `others` are looked at one by one. `checks` are all of them.
    """

    flat: tuple[tuple[str, Number, Number], ...]
    nested: tuple[tuple[str, str, Number, Number], ...]
    others: tuple[Check, ...]
    checks: tuple[Check, ...]

    @classmethod
    def of(cls, checks: Sequence[Check], types: dict[str, str], value: Any) -> "Scan":
        """`value`: a message of this structure; where it has an array, the path is none of the common case."""
        flat, nested, others = [], [], []
        for check in checks:
            common = not check.numbers and types[check.path] == "number" and check.low <= check.high
            match check.levels:
                case (key,) if common and _is_number(value, key):
                    flat.append((key, check.low, check.high))
                case (outer, inner) if common and _is_number(value, outer, inner):
                    nested.append((outer, inner, check.low, check.high))
                case _:
                    others.append(check)
        return cls(tuple(flat), tuple(nested), tuple(others), tuple(checks))

    def is_quiet(self, value: Any) -> bool:
        """Whether no rule can match, looked at in full."""
        return not any(
            check.may_match(scalar) for check in self.others for scalar in value_at(value, check.levels)
        )

    def matches(self, value: Any) -> Iterator[tuple[RuleEntry, str]]:
        """The rules that a message meets, each with the key path."""
        for check in self.checks:
            for scalar in value_at(value, check.levels):
                if check.may_match(scalar):
                    for rule in check.rules:
                        if rule.condition.fires.matches(scalar):
                            yield rule, check.path


def _is_number(value: Any, *levels: str) -> bool:
    """Whether a number is there, with no array on the way."""
    for level in levels:
        if not isinstance(value, dict):
            return False
        value = value.get(level)
    return isinstance(value, (int, float))


@dataclass(slots=True)
class Scope:
    """The rules for one device and tag, or for all that no rule names, with the scans made so far.

    A channel whose messages hold changing texts has a new structure object for each: those share a scan by keys.
    """

    indexes: Sequence[SourceIndex[RuleEntry]]
    by_structure: dict[Any, Scan | None] = field(default_factory=dict)
    by_keys: dict[KeyTypes, Scan | None] = field(default_factory=dict)

    def scan_made(self, structure: Shaped, value: Any) -> Scan | None:
        """The scan for this structure, None when no rule watches any of its paths."""
        keys = structure.keys
        if keys in self.by_keys:
            scan = self.by_keys[keys]
        else:
            scan = self._scan_new(dict(keys), value)
            if len(self.by_keys) >= SCANS_REMEMBERED:
                self.by_keys.clear()
            self.by_keys[keys] = scan
        if len(self.by_structure) >= SCANS_REMEMBERED:
            self.by_structure.clear()
        self.by_structure[structure] = scan
        return scan

    def _scan_new(self, types: dict[str, str], value: Any) -> Scan | None:
        checks = []
        for path in types:
            rules = [rule for index in self.indexes for rule in index.at(path)]
            if rules:
                checks.append(Check.of(path, rules))
        return Scan.of(checks, types, value) if checks else None


class ChannelRules:
    """The rules of one channel: those for all its messages, and those narrowed to a device, a tag or both."""

    def __init__(self, rules: Sequence[RuleEntry]) -> None:
        narrow: dict[tuple[int, str], list[tuple[Levels, RuleEntry]]] = {}
        silent = [rule for rule in rules if rule.absent_s is not None and (rule.levels or rule.tag)]
        for rule in rules:
            if rule.condition is NO_CONDITION:
                continue
            narrow.setdefault((rule.device_key, rule.tag), []).append((rule.levels, rule))
        self._indexes = {pair: SourceIndex(items) for pair, items in narrow.items()}
        self._devices = {device_key for device_key, _ in narrow if device_key}
        self._tags = {tag for _, tag in narrow if tag}
        self._scopes: dict[tuple[int, str], Scope] = {}
        self.watches = watches if (watches := Watches(silent)).is_needed else None
        self.only_scope = None if self._devices or self._tags else self.scope(0, None)

    def scope(self, device_key: int, tag: str | None) -> Scope:
        device_key = device_key if device_key in self._devices else 0
        tag = tag if tag is not None and tag in self._tags else ""
        scope = self._scopes.get((device_key, tag))
        if scope is None:
            pairs = {(0, ""), (device_key, ""), (0, tag), (device_key, tag)}
            indexes = [self._indexes[pair] for pair in sorted(pairs) if pair in self._indexes]
            if len(self._scopes) >= SCOPES_REMEMBERED:
                self._scopes.clear()
            scope = self._scopes[(device_key, tag)] = Scope(indexes)
        return scope


_RULES_SQL = """
SELECT r.id, r.account_id, r.channel_id, coalesce(r.device_id, 0), r.tag, r.source,
       CASE WHEN r.ahead_s IS NULL THEN r.operator ELSE '' END, r.threshold,
       r.clear_threshold, r.for_s, r.severity, r.condition_version, r.absent_s,
       r.enabled AND ((r.operator <> '' AND r.ahead_s IS NULL) OR r.absent_s IS NOT NULL)
       AND r.deleted_at IS NULL AND c.deleted_at IS NULL
FROM events_rule r JOIN channels_channel c ON c.id = r.channel_id
"""
_CHANGED_SQL = f"""
{_RULES_SQL} WHERE r.id IN (
    SELECT id FROM events_rule WHERE config_version > %(since)s
    UNION ALL
    SELECT r.id FROM channels_channel c JOIN events_rule r ON r.channel_id = c.id WHERE c.config_version > %(since)s
)
"""


class RuleBook:
    """One per writing process."""

    def __init__(self) -> None:
        self.version = -1
        self._rules: dict[int, RuleEntry] = {}
        self._channels: dict[int, ChannelRules] = {}

    def get(self, rule_key: int) -> RuleEntry | None:
        return self._rules.get(rule_key)

    def forget(self) -> None:
        """What was found may not have been stored: note again what is heard."""
        for channel in self._channels.values():
            if channel.watches is not None:
                channel.watches.forget()

    def follow(self, cursor: Any, version: int) -> None:
        """Read again what changed up to this version of the configuration."""
        if version == self.version:
            return
        if self.version < 0:
            cursor.execute(_RULES_SQL)
        else:
            cursor.execute(_CHANGED_SQL, {"since": self.version})
        self.take(cursor.fetchall())
        self.version = version

    def take(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rules as the database has them; the last column says whether the rule is in force."""
        touched: set[int] = set()
        for *columns, in_force in rows:
            old = self._rules.pop(columns[0], None)
            touched.update({old.channel_key} if old else ())
            if in_force:
                rule = self._rules[columns[0]] = _rule_entry(*columns)
                touched.add(rule.channel_key)
        if touched:
            self._arrange(touched)

    def find(self, measured: Sequence[AnyMeasured]) -> Found:
        """What in the batch meets a rule. This loop runs for every message that is stored."""
        found = Found(measured, {}, set(), set(), [])
        channels = self._channels
        if not channels:
            return found
        concerned = found.device_keys.add
        last_key, channel, watches = -1, None, None
        for channel_key, device_key, at, received_at, metrics in measured:
            if channel_key != last_key:
                last_key, channel = channel_key, channels.get(channel_key)
                watches = None
                if channel is not None:
                    found.channel_keys.add(channel_key)
                    watches = channel.watches
            if channel is None:
                continue
            concerned(device_key)
            if watches is not None and received_at is not None:
                watches.note(found.heard, device_key, at, received_at, metrics)
            scope = channel.only_scope or channel.scope(device_key, metrics.tag)
            value = metrics.value
            try:
                scan = scope.by_structure[metrics.structure]
            except KeyError:
                scan = scope.scan_made(metrics.structure, value)
            if scan is None:
                continue
            try:
                for outer, inner, low, high in scan.nested:
                    if not low <= value[outer][inner] <= high:
                        break
                else:
                    for key, low, high in scan.flat:
                        if not low <= value[key] <= high:
                            break
                    else:
                        if not scan.others or scan.is_quiet(value):
                            continue
            except (TypeError, LookupError):
                pass  # an array or a null where the structure usually has a number
            for rule, path in scan.matches(value):
                found.candidates[Instance(rule.key, device_key, metrics.tag or "", path)] = rule
        return found

    def _arrange(self, channel_keys: Iterable[int]) -> None:
        by_channel: dict[int, list[RuleEntry]] = {key: [] for key in channel_keys}
        for rule in self._rules.values():
            if rule.channel_key in by_channel:
                by_channel[rule.channel_key].append(rule)
        for channel_key, rules in by_channel.items():
            self._channels.pop(channel_key, None)
            if rules:
                self._channels[channel_key] = ChannelRules(rules)


def _rule_entry(
    key: int,
    account_key: int,
    channel_key: int,
    device_key: int,
    tag: str,
    source: str,
    operator: str,
    threshold: str,
    clear_threshold: str | None,
    for_s: int,
    severity: str,
    version: int,
    absent_s: int | None = None,
) -> RuleEntry:
    condition = Condition.of(operator, threshold, clear_threshold, for_s) if operator else NO_CONDITION
    levels = source_levels(source) if source else ()
    return RuleEntry(
        key,
        account_key,
        channel_key,
        device_key,
        tag,
        levels,
        condition,
        severity,
        version,
        absent_s,
    )
