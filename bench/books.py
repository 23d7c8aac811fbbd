"""What the devices' own log says, held against what the platform has: one row of the ledger's table.

Counting is exact in every case, because each message carries a number and is known by it wherever it ends.

- acknowledged: the broker's PUBACK, or an HTTP answer: 2xx, and for a malformed message 400.
- stored, refused: rows that are there, of records and of refused messages. duplicate: as the platform counts.
- again: how often something that was acknowledged once came a second time, from a broker that had no acknowledgement
  yet or from a device that had none. acknowledged + again = stored + refused + duplicate.
- lost: acknowledged, and not where it belongs: a good message not among the records, a malformed one not among the
  refused.
- doubled: rows beyond those that are due. One is due to a message with its own time, to what came by HTTP (its
  Idempotency-Key says that it is the same) and to the two messages of an exact repetition together. To an MQTT message
  without its own time, whose PUBACK was lost so that the device sent it k times, up to k are due: to the broker these
  are k messages, and nothing in them says otherwise. Only a broker that goes away makes a k above one.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from bench.devices import Devices, Message
from bench.supervised import Supervised

NUMBER = re.compile(rb'"n":(\d+)')


@dataclass(frozen=True)
class Traffic:
    """The platform's counters."""

    received: int
    stored: int
    duplicate: int
    refused: int
    limited: int

    @property
    def adds_up(self) -> bool:
        return self.received == self.stored + self.duplicate + self.refused + self.limited


@dataclass
class Row:
    """One line of the table. `lost` and `doubled` by number of the message; `excused`: what a dying broker explains."""

    scenario: str
    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    refused: int = 0
    duplicate: int = 0
    again: int = 0
    lost: Counter[int] = field(default_factory=Counter)
    doubled: Counter[int] = field(default_factory=Counter)
    excused: Counter[int] = field(default_factory=Counter)
    recovered_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Why the promise is not kept; empty when it is."""
        broken = list(self.wrong)
        for what, counter in (("lost", self.lost), ("doubled", self.doubled)):
            unexplained = counter - self.excused
            if unexplained:
                broken.append(f"{unexplained.total()} {what}, such as numbers {sorted(unexplained)[:5]}")
        return broken


class Books:
    """What the platform has of one scenario's messages. Made when everything has come to rest."""

    def __init__(self, stack: Supervised, devices: Devices) -> None:
        self._devices = devices
        numbers = (devices.first, devices.made)
        self.stored: Counter[int] = Counter()
        self._first_at: dict[int, float] = {}
        for number, count, at in stack.query(
            "SELECT (value->>'n')::bigint, count(*), min(at) FROM streams_record"
            " WHERE (value->>'n')::bigint >= %s AND (value->>'n')::bigint < %s GROUP BY 1",
            numbers,
        ):
            self.stored[number] = count
            self._first_at[number] = at.timestamp()
        self.refused: Counter[int] = Counter()
        for payload, at in stack.query(
            "SELECT payload, received_at FROM streams_refusedmessage ORDER BY received_at"
        ):
            found = NUMBER.search(payload)
            if found and numbers[0] <= int(found[1]) < numbers[1]:
                self.refused[int(found[1])] += 1
                self._first_at.setdefault(int(found[1]), at.timestamp())

    def first_stored(self, number: int) -> float:
        """When a message was received first, for one without its own time; seconds since the epoch."""
        return self._first_at[number]

    def missing(self) -> list[int]:
        """The messages that were acknowledged and are not where they belong."""
        return [number for number in self._devices.log.acknowledged if not self._has(number)]

    def row(self, scenario: str, before: Traffic, after: Traffic) -> Row:
        log = self._devices.log
        duplicate = after.duplicate - before.duplicate
        stored, refused = self.stored.total(), self.refused.total()
        row = Row(
            scenario,
            sent=self._devices.made - self._devices.first,
            acknowledged=len(log.acknowledged),
            stored=stored,
            refused=refused,
            duplicate=duplicate,
            again=stored + refused + duplicate - len(log.acknowledged),
            lost=Counter(self.missing()),
            doubled=Counter(dict(self._doubled())),
        )
        culprits = [number for number in self.refused if self._devices.message(number).good]
        if culprits:
            row.wrong.append(f"{len(culprits)} good messages refused")
        if after.received - before.received != stored + refused + duplicate:
            row.wrong.append("the counters do not tell what there is")
        return row

    def _has(self, number: int) -> bool:
        made = self._devices.message(number)
        return bool(self.stored[made.original] if made.good else self.refused[number])

    def _doubled(self) -> list[tuple[int, int]]:
        due = ((number, count - self._due(number)) for number, count in (self.stored + self.refused).items())
        return [(number, too_many) for number, too_many in due if too_many > 0]

    def _due(self, number: int) -> int:
        made: Message = self._devices.message(number)
        return 1 if made.timed or made.by_http else self._devices.log.times_sent[number]


def traffic(stack: Supervised) -> Traffic:
    """The sum over all accounts and writers."""
    ((*sums,),) = stack.query(
        "SELECT coalesce(sum(received), 0)::bigint, coalesce(sum(stored), 0)::bigint,"
        " coalesce(sum(duplicate), 0)::bigint, coalesce(sum(refused), 0)::bigint,"
        " coalesce(sum(limited), 0)::bigint FROM tokens_accounttraffic"
    )
    return Traffic(*sums)


def counters_wrong(stack: Supervised) -> list[str]:
    """What the counters of accounts and devices say that is not so: wrong sums, rows that are not there."""
    wrong = []
    for account_key, *sums in stack.query(
        "SELECT account_key, sum(received)::bigint, sum(stored)::bigint, sum(duplicate)::bigint,"
        " sum(refused)::bigint, sum(limited)::bigint FROM tokens_accounttraffic GROUP BY 1"
    ):
        if not Traffic(*sums).adds_up:
            wrong.append(f"account {account_key} does not add up: {sums}")
    for device_id, records, kept, *sums in stack.query(
        """
        SELECT d.device_id, (SELECT count(*) FROM streams_record r WHERE r.device_key = d.id),
               (SELECT count(*) FROM streams_refusedmessage m WHERE m.device_key = d.id),
               sum(received)::bigint, sum(stored)::bigint, sum(duplicate)::bigint, sum(refused)::bigint,
               sum(limited)::bigint
        FROM devices_device d JOIN devices_devicetraffic t ON t.device_key = d.id GROUP BY d.id, d.device_id
        """
    ):
        counted = Traffic(*sums)
        if not counted.adds_up:
            wrong.append(f"device {device_id} does not add up: {sums}")
        if (counted.stored, counted.refused) != (records, kept):
            wrong.append(f"device {device_id} counts {counted}, and has {records} records and {kept} refused")
    return wrong


HEAD = (
    "| scenario | sent | acknowledged | stored | refused | duplicate | again | lost | doubled | recovered after |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def line(row: Row) -> str:
    """One line under HEAD."""
    numbers = (row.sent, row.acknowledged, row.stored, row.refused, row.duplicate, row.again)
    counts = " | ".join(str(number) for number in (*numbers, row.lost.total(), row.doubled.total()))
    return f"| {row.scenario} | {counts} | {row.recovered_s:.1f} s |"
