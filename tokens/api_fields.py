"""Fields of request bodies, stricter than REST framework's: what is not of the type is refused, not converted."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers


class TextField(serializers.CharField):
    """A text that stays as it was sent. Empty is allowed, null and numbers are not."""

    default_error_messages = {"not_text": _("Must be text.")}

    def __init__(self, *, max_length: int) -> None:
        super().__init__(max_length=max_length, required=False, allow_blank=True, trim_whitespace=False)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("not_text")
        return super().to_internal_value(data)


class TruthField(serializers.Field[bool, Any, bool, Any]):
    """true or false; also as the texts "true" and "false", which older clients send."""

    default_error_messages = {"not_truth": _("Must be true or false.")}
    _meanings = {"true": True, "false": False}

    def __init__(self) -> None:
        super().__init__(required=False)

    def to_internal_value(self, data: Any) -> bool:
        if isinstance(data, bool):
            return data
        if not isinstance(data, str) or data.lower() not in self._meanings:
            self.fail("not_truth")
        return self._meanings[data.lower()]

    def to_representation(self, value: bool) -> bool:
        return value


class WholeNumberField(serializers.IntegerField):
    """A whole number, also written as text; neither true nor 1.0."""

    def __init__(self, *, low: int, high: int | None = None, allow_null: bool = False) -> None:
        super().__init__(min_value=low, max_value=high, required=False, allow_null=allow_null)

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, (bool, float)):
            self.fail("invalid")
        return super().to_internal_value(data)
