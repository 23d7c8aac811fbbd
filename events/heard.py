"""Which streams have been heard of, so that their silence can be found (events/silence.py). Pure.

Only for channels with a rule that watches a stream, or the messages of a tag, for silence. A stream is noted when it is
first heard, and again when its usual distance has changed: what every message would have to write, nobody writes. When
a stream was heard last is told by the latest rows.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from events.sources import Levels, SourceIndex

SIGHTS_REMEMBERED = 200_000
KEYS_REMEMBERED = 4_096
AGAIN = timedelta(seconds=600)  # noted again, should the row have gone meanwhile
CHANGED_BY = 0.25  # a usual distance that changed by so much is noted
FORGETTING = 0.95  # of the longest distance, with each message
GAPS_TO_LEARN = 5  # before nothing is usual: messages often come in twos
MOST_TIMES = 4  # a distance of more times the usual one counts as that: one outage must not make it long


class Watcher(Protocol):
    """What is asked of a rule here."""

    @property
    def key(self) -> int: ...
    @property
    def device_key(self) -> int: ...
    @property
    def tag(self) -> str: ...
    @property
    def levels(self) -> Levels: ...
    @property
    def version(self) -> int: ...
    @property
    def absent_s(self) -> int | None: ...


class Heard(NamedTuple):
    """A stream of a device and tag that a rule watches for silence. `path` "": any message of the tag.

    `usual_s`: its usual distance in measurement time, None while unknown.
    """

    rule_key: int
    device_key: int
    tag: str
    path: str
    at: datetime
    received_at: datetime
    usual_s: float | None
    version: int


class _Sight:
    """When something was measured last, how long its distances usually are at most, and what was noted of it."""

    __slots__ = ("at", "gaps", "longest_s", "noted_at", "noted_s", "round")
    noted_at: datetime
    round: int

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.gaps = 0
        self.longest_s = 0.0
        self.noted_s: float | None = None

    @property
    def usual_s(self) -> float | None:
        return self.longest_s if self.gaps >= GAPS_TO_LEARN else None

    def learn(self, at: datetime) -> bool:
        """Take a further measurement; whether the usual distance is worth noting. Late ones teach nothing."""
        gap_s = (at - self.at).total_seconds()
        if gap_s <= 0:
            return False
        self.at = at
        self.gaps += 1
        if self.gaps > GAPS_TO_LEARN:
            gap_s = min(gap_s, MOST_TIMES * self.longest_s)
        self.longest_s = max(gap_s, FORGETTING * self.longest_s)
        usual_s, noted_s = self.usual_s, self.noted_s
        if usual_s is None or (noted_s is not None and abs(usual_s - noted_s) <= CHANGED_BY * noted_s):
            return False
        self.noted_s = usual_s
        return True


Targets = tuple[tuple[Watcher, str], ...]


class Watches:
    """The rules of one channel that watch for silence of streams and tags, and what was noted of them."""

    def __init__(self, rules: Sequence[Watcher]) -> None:
        self.is_needed = bool(rules)
        self._index = SourceIndex((rule.levels, rule) for rule in rules if rule.levels)
        self._of_tags = [rule for rule in rules if not rule.levels]
        self._learns = any(rule.absent_s == 0 for rule in rules)
        self._targets: dict[Any, Targets] = {}
        self._targets_by_keys: dict[Any, Targets] = {}
        self._sights: dict[tuple[int, str | None, int], _Sight] = {}
        self._round = 0

    def forget(self) -> None:
        """Note everything again. What was learned of distances stays."""
        self._round += 1

    def note(
        self, heard: list[Heard], device_key: int, at: datetime, received_at: datetime, metrics: Any
    ) -> None:
        """Add what has to be noted of a message."""
        structure = metrics.structure
        targets = self._targets.get(structure)
        if targets is None:
            targets = self._targets_of(structure)
        if not targets:
            return
        key = (device_key, metrics.tag, id(targets))
        sight = self._sights.get(key)
        if sight is None:
            if len(self._sights) >= SIGHTS_REMEMBERED:
                self._sights.clear()
            sight = self._sights[key] = _Sight(at)
        elif (
            not (self._learns and sight.learn(at))
            and sight.round == self._round
            and received_at - sight.noted_at < AGAIN
        ):
            return
        sight.noted_at, sight.round = received_at, self._round
        tag = metrics.tag or ""
        heard += [
            Heard(rule.key, device_key, tag, path, at, received_at, sight.usual_s, rule.version)
            for rule, path in targets
            if rule.device_key in (0, device_key) and rule.tag in ("", tag)
        ]

    def _targets_of(self, structure: Any) -> Targets:
        """What to note of messages of this structure; one tuple, which stays, for each set of keys."""
        if len(self._targets) >= SIGHTS_REMEMBERED:
            self._targets.clear()
        keys = structure.keys
        targets = self._targets_by_keys.get(keys)
        if targets is None:
            if len(self._targets_by_keys) >= KEYS_REMEMBERED:
                self._targets_by_keys.clear()
                self._targets.clear()
                self._sights.clear()  # they are known by these
            found = [(rule, path) for path, _kind in keys for rule in self._index.at(path)]
            targets = (*found, *((rule, "") for rule in self._of_tags))
            self._targets_by_keys[keys] = targets
        self._targets[structure] = targets
        return targets


def newest_of_each(heard: Iterable[Heard]) -> list[Heard]:
    """One for each stream, in the order in which rows are locked."""
    newest = {one[:4]: one for one in heard}
    return [newest[key] for key in sorted(newest)]
