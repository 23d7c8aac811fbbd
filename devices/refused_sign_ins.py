"""Connections the broker refused, read from its log topic: all that the platform can know of a wrong password."""

import re
from collections import deque
from datetime import datetime
from typing import Any

KEPT = 1_000

# Mosquitto 2.0: "2026-11-23T09:30:00: Client <unknown> disconnected, not authorised." The line is no interface, so
# what does not look like this is passed over. Versions differ in whether they name the client.
_STAMP = r"^(?:[0-9T:+-]+: )?"
_REFUSED = re.compile(_STAMP + r"Client (?P<client>.*) disconnected, (?P<reason>not authori[sz]ed.*?)\.?$")
_ADDRESS = re.compile(_STAMP + r"New connection from (?P<address>\S+?)(?::\d+)? on port \d+\.?$")
_UNNAMED = "<unknown>"


class RefusedSignIns:
    """Collects refusals between two writes; bounded, the oldest give way."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, str, str, datetime]] = deque(maxlen=KEPT)
        self._addresses: deque[str] = deque(maxlen=1)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def note(self, line: bytes, *, at: datetime) -> None:
        """Take one line of the broker's log."""
        text = line.decode("utf-8", "replace").strip().replace("\0", "")
        found = _ADDRESS.match(text)
        if found:
            self._addresses.append(found["address"])
            return
        found = _REFUSED.match(text)
        if found:
            # The line with the address comes just before; another connection may have come between.
            address = self._addresses[0] if self._addresses else ""
            client = "" if found["client"] == _UNNAMED else found["client"]
            self._waiting.append((client[:256], address[:64], found["reason"][:128], at))

    def write(self, cursor: Any) -> None:
        """Write what was collected and keep the newest only, in the caller's transaction."""
        rows = list(self._waiting)
        cursor.executemany(
            "INSERT INTO devices_refusedsignin (client_id, address, reason, at) VALUES (%s, %s, %s, %s)", rows
        )
        cursor.execute(
            "DELETE FROM devices_refusedsignin WHERE id <= (SELECT max(id) FROM devices_refusedsignin) - %s",
            [KEPT],
        )
        self._waiting.clear()
