"""Payloads to look at. Pure."""

MOST_BYTES_SHOWN = 600


def payload_text(payload: bytes) -> str:
    """A payload to look at: text where it is text, hexadecimal otherwise; the beginning of a long one."""
    beginning = payload[:MOST_BYTES_SHOWN]
    text = _text_of(beginning, cut=len(payload) > len(beginning))
    readable = text is not None and all(letter.isprintable() or letter in "\n\t" for letter in text)
    shown = text if text is not None and readable else beginning.hex(" ")
    return f"{shown} …" if len(payload) > len(beginning) else shown


def _text_of(beginning: bytes, *, cut: bool) -> str | None:
    """The text, without the part of a letter where it was cut; None when it is no text."""
    for less in range(4 if cut else 1):
        try:
            return beginning[: len(beginning) - less].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return None
