"""REST v2: live clients of the broker, `/v2/session`."""

from typing import Any
from urllib.parse import quote, unquote

from drf_spectacular.utils import extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response

from devices import api_docs
from devices.sessions import session_count, session_list
from tokens.api_options import page_asked, page_cut, page_headers
from tokens.api_view import ApiView, account_of
from tokens.times import time_text


@extend_schema_view(**api_docs.SESSION_LIST)
class SessionListView(ApiView):
    """The MQTT and WebSocket clients that the account has connected now."""

    def get(self, request: Request) -> Response:
        account, page = account_of(request), page_asked(request)
        found = session_list(
            account,
            after=unquote(page.after).replace("\0", "") if page else "",
            limit=page.limit + 1 if page else None,
        )
        # A client id may begin and end with spaces, which an option may not.
        rows, next_after = page_cut(found, page, cursor=lambda row: quote(row.client_id, safe=":/@+"))
        headers = {}
        if page:
            headers = page_headers(request, next_after=next_after, total=session_count(account))
        zone = account.zone
        return Response([_session_object(row, zone=zone) for row in rows], headers=headers)


def _session_object(row: Any, *, zone: Any) -> dict[str, Any]:
    return {
        "client_id": row.client_id,
        "device_id": row.of_device,
        "ipaddress": row.ipaddress,
        "clean_sess": row.clean_sess,
        "proto_ver": row.proto_ver,
        "keepalive": row.keepalive,
        "connected_at": time_text(row.connected_at, zone=zone),
    }
