"""REST v2: ready-made rules, `/v2/event/stock`."""

from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from channels.selectors import channel_get_for_account
from events import api_docs_stock
from events.models import Notifier
from events.stock import Offer, offers, stock_disable, stock_enable
from servwatch_site.errors import Code, ServwatchError
from tokens.api_fields import TextField, TruthField, WholeNumberField
from tokens.api_options import option_int
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account


@extend_schema_view(**api_docs_stock.STOCK)
class StockView(ApiView):
    """The ready-made events that the account's channels are offered."""

    class InputSerializer(serializers.Serializer[Any]):
        mapped_ch = WholeNumberField(low=0)
        stock = TextField(max_length=32)
        enabled = TruthField()
        notifiers = serializers.ListField(
            child=WholeNumberField(low=1), required=False, max_length=50, allow_empty=True
        )

    def get(self, request: Request) -> Response:
        account = account_of(request)
        number = option_int(request, "channel")
        channel = None if number is None else channel_get_for_account(account, number)
        return Response([_object(offer) for offer in offers(account, channel=channel)])

    def post(self, request: Request) -> Response:
        """Switch one on, or with `enabled` false off. What was edited is kept and only disabled."""
        account = account_of(request)
        given = body_checked(request, self.InputSerializer)
        missing = {name: _("required") for name in ("mapped_ch", "stock") if name not in given}
        if missing:
            raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=missing)
        channel = channel_get_for_account(account, given["mapped_ch"])
        if given.get("enabled", True):
            stock_enable(account, channel, given["stock"], _notifiers(account, given.get("notifiers", [])))
        else:
            stock_disable(account, channel, given["stock"], now=timezone.now())
        found = [offer for offer in offers(account, channel=channel) if offer.stock.key == given["stock"]]
        return Response([_object(offer) for offer in found])


def _object(offer: Offer) -> dict[str, Any]:
    fields = offer.stock.fields
    return {
        "mapped_ch": offer.channel.number,
        "stock": offer.stock.key,
        "name": str(offer.stock.name),
        "about": str(offer.stock.about),
        "source": offer.stock.source,
        "severity": str(fields["severity"]),
        "event_id": None if offer.rule is None else offer.rule.pk,
        "enabled": offer.is_on,
        "changed": offer.is_changed,
    }


def _notifiers(account: Account, keys: list[int]) -> list[Notifier]:
    """The account's notifiers of these ids. Raises INVALID_VALUE."""
    found = list(Notifier.objects.filter(account=account, pk__in=keys, deleted_at=None, implicit=False))
    if len(found) < len(set(keys)):
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("Some fields do not fit."),
            fields={"notifiers": _("must be ids of your notifiers")},
        )
    return found
