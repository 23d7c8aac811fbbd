"""The id a record answers with: computed, never stored."""

from hashlib import blake2b
from struct import Struct

_KEY = Struct(">qqq")


def record_id(*, device_key: int, at_us: int, digest: int) -> str:
    """24 hex digits: 4 bytes of epoch seconds, 8 bytes hash of device, time and digest.

    `at_us` is the record's time in microseconds since 1970. The same record always has the same id.
    """
    seconds = at_us // 1_000_000 & 0xFFFFFFFF
    return f"{seconds:08x}{blake2b(_KEY.pack(device_key, at_us, digest), digest_size=8).hexdigest()}"
