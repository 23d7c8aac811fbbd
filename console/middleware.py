"""What every console request gets: the time zone of the account it belongs to."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils import timezone


class AccountZoneMiddleware:
    """Shows times in the zone of the signed-in person's account."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        account = getattr(request.user, "account", None)
        if account is None:
            return self.get_response(request)
        with timezone.override(account.zone):
            return self.get_response(request)
