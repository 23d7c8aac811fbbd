"""What every page template may use."""

from typing import Any

from django.http import HttpRequest


def console(request: HttpRequest) -> dict[str, Any]:
    """The account of the signed-in person, or None."""
    return {"account": getattr(request.user, "account", None) if hasattr(request, "user") else None}
