"""Which texts may be a tag (contract, section 3)."""

from django.utils.translation import gettext as _

from servwatch_site.errors import Code, ServwatchError


def tag_check(text: str) -> str:
    """The tag itself when it may be one: one topic level of 1 to 64 characters. Raises INVALID_VALUE."""
    if not 1 <= len(text) <= 64 or any(letter in "/+#\0" for letter in text) or not text.isprintable():
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("A tag is one topic level of 1 to 64 printable characters, without / + #."),
            fields={"tag": _("not usable as a tag")},
        )
    return text
