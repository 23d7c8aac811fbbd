"""Which texts may be a device id (contract, section 3); beside it, for those who check both, the tag."""

import re

from django.utils.translation import gettext as _

from channels.tags import tag_check
from servwatch_site.errors import Code, ServwatchError

__all__ = ["RESERVED", "device_id_check", "tag_check"]

_DEVICE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
RESERVED = frozenset({"json", "binary", "state", "subscribe", ".", ".."})


def device_id_check(text: str) -> str:
    """The id itself when it may be one. Raises DEVICE_ID_ZERO for `0` and nothing, INVALID_VALUE otherwise."""
    if text in ("", "0"):
        raise ServwatchError(
            Code.DEVICE_ID_ZERO, _("A device id of 0 or nothing is refused. Send the serial of the device.")
        )
    if text in RESERVED or not _DEVICE_ID.fullmatch(text):
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("A device id has 1 to 64 of the characters A-Z a-z 0-9 . _ : - and is no reserved word."),
            fields={"device_id": _("not usable as a device id")},
        )
    return text
