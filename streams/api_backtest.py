"""REST v2: a rule over past data, `/v2/event/backtest`. Nothing is stored, nobody is told."""

from datetime import tzinfo
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response

from events.api import EventListView, event_changes
from events.services import rule_draft
from streams import api_docs_backtest
from streams.backtest import MOST_DAYS, MOST_PATIENCE_S, Firing, backtest
from tokens.api_fields import WholeNumberField
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import ApiToken
from tokens.times import time_text

DAYS = 30
PATIENCE_S = 1
FOR_THE_ANSWER_S = 0.2  # of it


@extend_schema_view(**api_docs_backtest.BACKTEST)
class BacktestView(ApiView):
    """What an event would have done."""

    scope_needed = ApiToken.Scope.READ  # it answers what was measured, and changes nothing

    class InputSerializer(EventListView.InputSerializer):
        days = WholeNumberField(low=1, high=MOST_DAYS)
        patience_s = WholeNumberField(low=1, high=MOST_PATIENCE_S)

    def post(self, request: Request) -> Response:
        """When an event of these fields would have fired. It must be complete, as an enabled one has to be."""
        account = account_of(request)
        given = body_checked(request, self.InputSerializer)
        days = given.pop("days", DAYS)
        patience_s = given.pop("patience_s", PATIENCE_S) - FOR_THE_ANSWER_S
        draft = rule_draft(account, changes=event_changes(account, given))
        zone = account.zone
        found = backtest(account, draft, now=timezone.now(), days=days, patience_s=patience_s)
        return Response(
            {
                "start": time_text(found.start, zone=zone),
                "end": time_text(found.end, zone=zone),
                "resolution": str(found.resolution),
                "devices": found.devices,
                "devices_looked": found.devices_looked,
                "keys": found.keys,
                "keys_looked": found.keys_looked,
                "complete": not found.is_cut,
                "count": found.firing_count,
                "firings": [_object(firing, zone) for firing in found.firings],
                "notes": found.notes,
            }
        )


def _object(firing: Firing, zone: tzinfo) -> dict[str, Any]:
    return {
        "device_id": firing.device_id,
        "tag": firing.tag or None,
        "key": firing.key,
        "cause": str(firing.cause),
        "since": time_text(firing.since, zone=zone),
        "at": time_text(firing.at, zone=zone),
        "until": None if firing.until is None else time_text(firing.until, zone=zone),
        "peak": firing.peak,
        "exact": firing.exact,
    }
