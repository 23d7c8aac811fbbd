"""The same data for everybody: reports of 1,000 devices, 11 numbers each, about 170 bytes as JSON.

A report is known by its number; the number is its eleventh value, so that every store can be asked which reports
it holds. The other ten vary as measurements do.
"""

import random
import time

DEVICES = 1_000
FIELDS = (
    "cpu_user",
    "cpu_system",
    "cpu_idle",
    "load1",
    "load5",
    "mem_used",
    "mem_free",
    "net_rx",
    "net_tx",
    "disk",
    "n",
)
VARIANTS = 997  # no multiple of it is near 1,000: a device's reports are not all alike
BEGIN_US = (int(time.time()) - 3 * 3600) * 1_000_000  # of records that have their own time
STEP_US = 1_000  # one millisecond, the finest that all stores keep; room for ten million
MEMORY_BYTES = 24_246_913_024
ALARM_LEVEL = 90  # of the CPU's first number; one variant is above it, so that rules have something to find
_JSON = (
    '{"cpu":{"user":%s,"system":%s,"idle":%s},"load1":%s,"load5":%s,"mem":{"used":%s,"free":%s},'
    '"net":{"rx":%s,"tx":%s},"disk":%s,"n":%%d}'
)


def _variant(source: random.Random, *, alarm: bool) -> tuple[str, ...]:
    user = round(source.uniform(ALARM_LEVEL + 1, 99) if alarm else source.uniform(1, 60), 2)
    system = round(source.uniform(0, (100 - user) / 2), 2)
    used = source.randrange(4_000_000_000, 15_000_000_000, 4096)
    numbers = (
        user,
        system,
        round(100 - user - system, 2),
        round(source.uniform(0, 4), 2),
        round(source.uniform(0, 4), 2),
        used,
        MEMORY_BYTES - used,
        source.randrange(1_000_000, 9_999_999),
        source.randrange(100_000, 999_999),
        round(source.uniform(10, 90), 1),
    )
    return tuple(str(number) for number in numbers)


_source = random.Random(11)  # noqa: S311 - measurements, not secrets
_VALUES = [_variant(_source, alarm=n == 0) for n in range(VARIANTS)]
_JSON_FORMS = [(_JSON % values).encode() for values in _VALUES]
_LINE_FORMS = [
    " " + ",".join(f"{field}={value}" for field, value in zip(FIELDS, values, strict=False)) + ",n=%d %d"
    for values in _VALUES
]


def device_id(number: int) -> str:
    return f"load-{number % DEVICES}"


def values_of(number: int) -> tuple[str, ...]:
    """The eleven numbers as text, in the order of FIELDS."""
    return (*_VALUES[number % VARIANTS], str(number))


def json_report(number: int) -> bytes:
    """The report as devices send it over MQTT; it has no time of its own."""
    return _JSON_FORMS[number % VARIANTS] % number


def at_us(number: int) -> int:
    """The time of a record that is sent with one, in microseconds."""
    return BEGIN_US + number * STEP_US


def json_array(numbers: range) -> bytes:
    """Reports with their own times as an array for our HTTP connector; one alone without a time."""
    if len(numbers) == 1:
        return json_report(numbers.start)
    return b"[%b]" % b",".join(b'{"at":%d,"value":%b}' % (at_us(n), json_report(n)) for n in numbers)


def lines(numbers: range) -> bytes:
    """Reports of one device in InfluxDB's line protocol: tags channel and device, 11 fields, nanoseconds."""
    head = f"m,channel=0,device={device_of(numbers)}"
    return "\n".join(head + _LINE_FORMS[n % VARIANTS] % (n, at_us(n) * 1000) for n in numbers).encode()


def device_of(numbers: range) -> str:
    """Whose a request with these reports is: each request is the next device's."""
    return device_id(numbers.start // len(numbers))
