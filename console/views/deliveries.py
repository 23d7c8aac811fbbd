"""The delivery log: what was sent to whom, and how each attempt went."""

from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from console.access import account_of, account_page, query_text, say_error
from events.models import Delivery, Notifier
from events.notifiers_store import delivery_resend
from events.selectors_deliveries import delivery_get_for_account
from events.selectors_pages import delivery_query, notifiers_with_deliveries
from servwatch_site.errors import ServwatchError

PAGE_ROWS = 50


@require_GET
@account_page
def deliveries(request: HttpRequest) -> HttpResponse:
    account = account_of(request)
    status, wanted = query_text(request, "status"), query_text(request, "notifier")
    status = status if status in Delivery.Status.values else ""
    notifiers = notifiers_with_deliveries(account)
    notifier: Notifier | None = next((one for one in notifiers if str(one.pk) == wanted), None)
    found = delivery_query(account, status=status, notifier=notifier)
    page = Paginator(found, PAGE_ROWS).get_page(request.GET.get("page"))
    of_notifier = {"notifier": notifier.pk} if notifier else {}
    context = {
        "rows": page.object_list,
        "page": page,
        "status": status,
        "statuses": [
            (name, label, urlencode({"status": name} | of_notifier))
            for name, label in Delivery.Status.choices
        ],
        "every_status": urlencode(of_notifier),
        "notifier": notifier,
        "notifiers": notifiers,
        "query": urlencode(({"status": status} if status else {}) | of_notifier),
        "now": timezone.now(),
    }
    page_name = "_rows.html" if request.GET.get("fragment") else "deliveries.html"
    return render(request, f"console/deliveries/{page_name}", context)


@require_GET
@account_page
def delivery(request: HttpRequest, pk: int) -> HttpResponse:
    found = delivery_get_for_account(account_of(request), pk)
    context = {
        "delivery": found,
        "attempts": found.attempts.order_by("-pk"),
        "items": found.items.select_related("alert__rule", "alert__channel", "notification").order_by("pk"),
        "now": timezone.now(),
    }
    page = "_delivery.html" if request.GET.get("fragment") else "delivery.html"
    return render(request, f"console/deliveries/{page}", context)


@require_http_methods(["GET", "POST"])
@account_page
def delivery_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Send it once more, or try it at once. A GET, after a sign-in, leads to it."""
    if request.method == "GET":
        return redirect("console:delivery", pk)
    found = delivery_get_for_account(account_of(request), pk)
    try:
        delivery_resend(found, now=timezone.now())
    except ServwatchError as error:
        say_error(request, error)
    else:
        messages.success(request, _("It is being sent again."))
    return redirect("console:delivery", pk)
