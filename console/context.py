"""What every page template may use."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from streams.selectors_system import listeners_now


def console(request: HttpRequest) -> dict[str, Any]:
    """The account of the signed-in person, or None; and how far the listeners are, asked when it is shown."""
    account = getattr(request.user, "account", None) if hasattr(request, "user") else None
    return {"account": account, "listeners": SimpleLazyObject(lambda: listeners_now(now=timezone.now()))}
