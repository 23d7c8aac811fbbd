"""How the installation itself is doing: listeners, broker, database, worker."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from console.access import account_page
from streams.selectors_system import database_now, listeners_now, record_days, worker_now


@never_cache
@require_GET
@account_page
def system(request: HttpRequest) -> HttpResponse:
    """The page; as a fragment the line of the footer, or what changes of the page."""
    now = timezone.now()
    context = {"listeners": listeners_now(now=now), "now": now}
    if request.GET.get("fragment") == "state":
        return render(request, "console/system/_state.html", context)
    context |= {"database": database_now(), "days": record_days(), "worker": worker_now()}
    page = "_live.html" if request.GET.get("fragment") else "system.html"
    return render(request, f"console/system/{page}", context)
