"""What every page template may use."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from events.selectors_pages import OpenNow, alerts_open_now
from streams.selectors_system import listeners_now


def console(request: HttpRequest) -> dict[str, Any]:
    """The account of the signed-in person, or None; its open alerts and how far the listeners are, asked when shown."""
    account = getattr(request.user, "account", None) if hasattr(request, "user") else None
    return {
        "account": account,
        "open_alerts": SimpleLazyObject(lambda: alerts_open_now(account) if account else OpenNow()),
        "listeners": SimpleLazyObject(lambda: listeners_now(now=timezone.now())),
    }
