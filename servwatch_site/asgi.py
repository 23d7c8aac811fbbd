"""The web process: pages and API over HTTP, live pages over WebSocket, one LISTEN task for all of them."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "servwatch_site.settings")
os.environ.setdefault("SERVWATCH_DB_POOL", "true")

from django.core.asgi import get_asgi_application

pages = get_asgi_application()  # sets Django up; what follows needs it

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

from devices.command_sender import sender
from servwatch_site.api_errors import is_api_path
from servwatch_site.api_middleware import api_handler
from servwatch_site.connector_app import KINDS, connector_app
from servwatch_site.loop import collect_less
from streams.consumers import LiveConsumer
from streams.ingest_progress import tell_http_for_ever
from streams.intake import intake
from streams.live import listen_for_ever, send_commands_for_ever

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]


async def lifespan(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Keeps the LISTEN task, the one that sends commands and the one that tells of us, while the server runs."""
    await receive()
    collect_less()
    tasks = [
        asyncio.create_task(task()) for task in (listen_for_ever, send_commands_for_ever, tell_http_for_ever)
    ]
    await send({"type": "lifespan.startup.complete"})
    await receive()
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await asyncio.to_thread(intake().close)
    await asyncio.to_thread(sender.close)
    await send({"type": "lifespan.shutdown.complete"})


api = api_handler()


async def by_path(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Programs' requests pass a middleware of their own; the page of the API is a page."""
    path: str = scope["path"]
    if path in KINDS:
        await connector_app(scope, receive, send)
        return
    handler = api if is_api_path(path) and path.rstrip("/") != "/v2/docs" else pages
    await handler(scope, receive, send)


application = ProtocolTypeRouter(
    {
        "http": by_path,
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter([path("live/", LiveConsumer.as_asgi())]))
        ),
        "lifespan": lifespan,
    }
)
