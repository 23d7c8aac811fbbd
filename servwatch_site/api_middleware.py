"""What a request of the API or the HTTP connector passes on its way to the view, and nothing of what pages need.

Sessions, forms and signed-in people cost a program's request three quarters of its time. Nothing here waits, so that
it runs in the event loop without a thread.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponseBase
from django.utils import translation
from django.utils.decorators import sync_and_async_middleware

MIDDLEWARE = ["servwatch_site.api_middleware.api_middleware"]
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": settings.SECURE_REFERRER_POLICY,
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


@sync_and_async_middleware
def api_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Refuses foreign hosts, chooses the language of messages, and sets headers against misuse in a browser."""
    if iscoroutinefunction(get_response):

        async def in_loop(request: HttpRequest) -> HttpResponseBase:
            _enter(request)
            answer: Awaitable[HttpResponseBase] = get_response(request)
            return _leave(await answer)

        return in_loop

    def in_thread(request: HttpRequest) -> HttpResponseBase:
        _enter(request)
        return _leave(get_response(request))

    return in_thread


def api_handler() -> ASGIHandler:
    """A handler with this middleware alone."""
    whole = settings.MIDDLEWARE
    settings.MIDDLEWARE = MIDDLEWARE  # read once, while the handler is made
    try:
        return ASGIHandler()
    finally:
        settings.MIDDLEWARE = whole


def _enter(request: HttpRequest) -> None:
    request.get_host()  # raises DisallowedHost
    translation.activate(translation.get_language_from_request(request))


def _leave(answer: HttpResponseBase) -> HttpResponseBase:
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    return answer
