"""How one operation is described in the OpenAPI document. Named by the settings, so it imports nothing of ours."""

import inspect
import re
from typing import Any

from drf_spectacular.openapi import AutoSchema


class Schema(AutoSchema):
    """Nothing is guessed: what `api_docs.py` does not say is not said."""

    def get_operation_id(self) -> str:
        """`device_get`, `device_item_get`, `publish_command_get`."""
        words = [part for part in self.path.split("/")[2:] if part and "{" not in part]
        nouns = re.findall(r"{(\w+?)(?:_id)?}", self.path)
        if nouns:
            words.append("item" if len(nouns) == 1 else nouns[-1])
        return "_".join([*words, self.method.lower()])

    def get_auth(self) -> list[dict[str, Any]]:
        return []  # servwatch_site/openapi.py says it for all

    def get_tags(self) -> list[str]:
        return ["Device"]

    def get_description(self) -> str:  # type: ignore[override]  # as AutoSchema has it
        return inspect.getdoc(getattr(self.view, self.method.lower(), None)) or ""

    def _get_paginator(self) -> None:
        return None

    def get_filter_backends(self) -> list[Any]:
        return []
