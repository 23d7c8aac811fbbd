"""The stable error codes, and the exception that carries one to whoever answers.

Part of the floor: every room may import it. The codes of the contract (section 2) are exact;
clients test them. The HTTP status stands beside the code once, here.
"""

from collections.abc import Mapping
from enum import StrEnum


class Code(StrEnum):
    """What clients test; the words for people stand beside it in `message`."""

    BAD_JSON_FORMAT = "BAD_JSON_FORMAT"
    INVALID_VALUE = "INVALID_VALUE"
    DEVICE_ID_ZERO = "DEVICE_ID_ZERO"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    FORBIDDEN = "FORBIDDEN"
    MAX_DEVICE_REACH = "MAX_DEVICE_REACH"
    DEVICE_INUSE = "DEVICE_INUSE"
    CHANNEL_INUSE = "CHANNEL_INUSE"
    NO_MAPPED_CH = "NO_MAPPED_CH"
    DEVICE_DISABLED = "DEVICE_DISABLED"
    DEVICE_UNKNOWN = "DEVICE_UNKNOWN"
    NO_DEVICE = "NO_DEVICE"
    NO_CHANNEL = "NO_CHANNEL"
    NO_EVENT = "NO_EVENT"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    BROKER_UNAVAILABLE = "BROKER_UNAVAILABLE"
    # Why a message was refused (section 4.4).
    BAD_NUMBER = "BAD_NUMBER"
    BAD_TEXT = "BAD_TEXT"
    BAD_TIME = "BAD_TIME"
    BAD_TOPIC = "BAD_TOPIC"
    TIME_OUT_OF_RANGE = "TIME_OUT_OF_RANGE"
    TOO_DEEP = "TOO_DEEP"
    TOO_MANY_KEYS = "TOO_MANY_KEYS"
    UNKNOWN_TOKEN = "UNKNOWN_TOKEN"  # noqa: S105 - a code, not a token
    STORAGE_REFUSED = "STORAGE_REFUSED"


HTTP_STATUS: Mapping[Code, int] = {
    Code.BAD_JSON_FORMAT: 400,
    Code.INVALID_VALUE: 400,
    Code.DEVICE_ID_ZERO: 400,
    Code.AUTH_REQUIRED: 401,
    Code.FORBIDDEN: 403,
    Code.MAX_DEVICE_REACH: 403,
    Code.DEVICE_INUSE: 403,
    Code.CHANNEL_INUSE: 403,
    Code.NO_MAPPED_CH: 403,
    Code.DEVICE_DISABLED: 403,
    Code.DEVICE_UNKNOWN: 403,
    Code.NO_DEVICE: 404,
    Code.NO_CHANNEL: 404,
    Code.NO_EVENT: 404,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.TOO_MANY_REQUESTS: 429,
    Code.INTERNAL_ERROR: 500,
    Code.STORAGE_UNAVAILABLE: 503,
    Code.BROKER_UNAVAILABLE: 503,
    Code.BAD_NUMBER: 400,
    Code.BAD_TEXT: 400,
    Code.BAD_TIME: 400,
    Code.BAD_TOPIC: 400,
    Code.TIME_OUT_OF_RANGE: 400,
    Code.TOO_DEEP: 400,
    Code.TOO_MANY_KEYS: 400,
    Code.UNKNOWN_TOKEN: 401,
    Code.STORAGE_REFUSED: 400,
}


class ServwatchError(Exception):
    """Something a person or program asked for cannot be done, and says why.

    `message` is one plain sentence with the next step; `fields` names what was wrong with single fields.
    `headers` go with the answer over HTTP.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = dict(fields or {})
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        return HTTP_STATUS[self.code]
