"""Who is connected to the broker now."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from console.access import account_of, account_page, query_text
from console.views.refused import may_see_sign_ins
from devices.sessions import session_count, session_list

PAGE_ROWS = 200


@require_GET
@account_page
def sessions(request: HttpRequest) -> HttpResponse:
    account, after = account_of(request), query_text(request, "after")
    rows = session_list(account, after=after, limit=PAGE_ROWS + 1)
    context = {
        "rows": rows[:PAGE_ROWS],
        "more": rows[PAGE_ROWS - 1].client_id if len(rows) > PAGE_ROWS else "",
        "after": after,
        "count": session_count(account),
        "sign_ins": may_see_sign_ins(request),
        "now": timezone.now(),
    }
    return render(request, "console/sessions/sessions.html", context)
