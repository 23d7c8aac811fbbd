"""Signing in by a link that works once, and the answer to "are you there"."""

from django.conf import settings
from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from console.sign_in import user_from_link


@never_cache
@require_GET
def sign_in_once(request: HttpRequest, uid: str, token: str) -> HttpResponse:
    """The link leads on to a clean address at once, and is used up by the sign-in itself."""
    user = user_from_link(uid, token)
    if user is None:
        return render(request, "console/link_used.html", status=410)
    login(request, user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return redirect("console:fleet")


@require_GET
def agent_program(request: HttpRequest) -> HttpResponse:
    """The agent as one file, for servers that fetch it. Nothing in it is secret, so nobody has to sign in."""
    program = settings.BASE_DIR / "agent" / "servwatch_agent.py"
    return HttpResponse(program.read_bytes(), content_type="text/x-python; charset=utf-8")


@require_GET
def health(request: HttpRequest) -> HttpResponse:
    """The web process answers. Says nothing of the database, so that a restart of it does not end this one."""
    return HttpResponse("ok\n", content_type="text/plain")
