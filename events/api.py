"""REST v2: rules, `/v2/event[/{event_id}]`."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from channels.selectors import channel_get_for_account
from channels.tags import tag_check
from devices.api import device_of
from events import api_docs
from events.models import Rule, Severity
from events.selectors import no_event, rule_count, rule_get_for_account, rule_is_enabled, rule_list
from events.selectors_deliveries import notifiers_get_for_account
from events.services import rule_create, rule_delete, rule_update
from tokens.api_fields import TextField, TruthField, WholeNumberField
from tokens.api_options import option_bool, option_error, option_int, page_asked, page_cut, page_headers
from tokens.api_view import ApiView, account_of, body_checked
from tokens.models import Account

MOST_S = 30 * 86400
LEAST_REPEAT_S = 60
MOST_NOTIFIERS = 50  # of one event
LEAST_AHEAD_S = 600


class TextOrNullField(TextField):
    """A text; null for none."""

    def __init__(self, *, max_length: int) -> None:
        super().__init__(max_length=max_length)
        self.allow_null = True


class ThresholdField(TextField):
    """A text, as the contract has it; a number is taken for its text."""

    default_error_messages = {"not_threshold": gettext_lazy("Must be text or a number.")}

    def __init__(self, *, allow_null: bool = False) -> None:
        super().__init__(max_length=256)
        self.allow_null = allow_null

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, bool) or not isinstance(data, (str, int, float)):
            self.fail("not_threshold")
        return super().to_internal_value(data if isinstance(data, str) else json.dumps(data))


@extend_schema_view(**api_docs.EVENT_LIST)
class EventListView(ApiView):
    """The events of the account."""

    body_optional = frozenset({"POST"})

    class InputSerializer(serializers.Serializer[Any]):
        mapped_ch = WholeNumberField(low=0, allow_null=True)
        description = TextField(max_length=256)
        notify_type = serializers.ChoiceField(choices=Rule.NotifyType.choices, required=False)
        post_url = TextField(max_length=2000)
        enabled = TruthField()
        source = TextField(max_length=1000)  # type: ignore[assignment]  # a field, not the serializer's own source
        operator = serializers.ChoiceField(choices=Rule.Operator.choices, required=False, allow_blank=True)
        threshold = ThresholdField()
        for_s = WholeNumberField(low=0, high=MOST_S)
        clear_threshold = ThresholdField(allow_null=True)
        absent_s = WholeNumberField(low=0, high=MOST_S, allow_null=True)
        ahead_s = WholeNumberField(low=LEAST_AHEAD_S, high=MOST_S, allow_null=True)
        severity = serializers.ChoiceField(choices=Severity.choices, required=False)
        device_id = TextOrNullField(max_length=64)
        tag = TextOrNullField(max_length=64)
        repeat_s = WholeNumberField(low=LEAST_REPEAT_S, high=MOST_S, allow_null=True)
        notifiers = serializers.ListField(
            child=WholeNumberField(low=0, high=10**18), required=False, max_length=MOST_NOTIFIERS
        )

    def get(self, request: Request) -> Response:
        account, page = account_of(request), page_asked(request)
        channel, enabled = option_int(request, "channel"), option_bool(request, "enabled")
        after = _event_number(page.after) if page and page.after else 0
        if after is None:
            raise option_error("after", _("take it from the Link of the page before"))
        found = rule_list(
            account, channel=channel, enabled=enabled, after=after, limit=page.limit + 1 if page else None
        )
        rows, next_after = page_cut(found, page, cursor=lambda rule: str(rule.pk))
        headers = {}
        if page:
            total = rule_count(account, channel=channel, enabled=enabled)
            headers = page_headers(request, next_after=next_after, total=total)
        return Response([event_object(rule) for rule in rows], headers=headers)

    def post(self, request: Request) -> Response:
        """A new event. Without `enabled` it is enabled if it says all that it needs; without a body it is not."""
        account = account_of(request)
        given = body_checked(request, self.InputSerializer)
        rule = rule_create(account, changes=event_changes(account, given))
        return Response({"event_id": rule.pk}, status=201)


@extend_schema_view(**api_docs.EVENT)
class EventView(ApiView):
    """One event."""

    def get(self, request: Request, event_id: str) -> Response:
        return Response([event_object(event_of(account_of(request), event_id))])

    def put(self, request: Request, event_id: str) -> Response:
        """Change an event. With another condition, or disabled, its open alerts are resolved.

        If the new condition holds, the next measurement fires it.
        """
        account = account_of(request)
        rule = event_of(account, event_id)
        given = body_checked(request, EventListView.InputSerializer)
        rule_update(rule, changes=event_changes(account, given), now=timezone.now())
        return Response([event_object(rule)])

    def delete(self, request: Request, event_id: str) -> Response:
        """Answers the event as it was. Its open alerts are resolved; all of them stay to be read."""
        rule = event_of(account_of(request), event_id)
        gone = event_object(rule)
        rule_delete(rule, now=timezone.now())
        return Response([gone])


def event_of(account: Account, text: str) -> Rule:
    """The event that a path names. Raises NO_EVENT."""
    number = _event_number(text)
    if number is None:
        raise no_event()
    return rule_get_for_account(account, number)


def event_object(rule: Rule) -> dict[str, Any]:
    """What the API answers for an event."""
    channel = rule.channel if rule.channel is not None and rule.channel.deleted_at is None else None
    return {
        "event_id": rule.pk,
        "mapped_ch": None if channel is None else channel.number,
        "description": rule.description,
        "notify_type": rule.notify_type,
        "post_url": rule.post_url,
        "enabled": rule_is_enabled(rule),
        "source": rule.source,
        "operator": rule.operator,
        "threshold": rule.threshold,
        "for_s": rule.for_s,
        "clear_threshold": rule.clear_threshold,
        "absent_s": rule.absent_s,
        "ahead_s": rule.ahead_s,
        "severity": rule.severity,
        "device_id": None if rule.device is None else rule.device.device_id,
        "tag": rule.tag or None,
        "repeat_s": rule.repeat_s,
        "notifiers": sorted(notifier.pk for notifier in rule.notifiers.all()),
    }


def _event_number(text: str) -> int | None:
    """The number that a text is; None when no event can have it."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def event_changes(account: Account, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the body under the names of the model. Raises NO_CHANNEL, NO_DEVICE, NOT_FOUND, INVALID_VALUE."""
    changes = {name: value for name, value in given.items() if name not in ("mapped_ch", "device_id", "tag")}
    if "mapped_ch" in given:
        number = given["mapped_ch"]
        changes["channel"] = None if number is None else channel_get_for_account(account, number)
    if "device_id" in given:
        changes["device"] = device_of(account, given["device_id"]) if given["device_id"] else None
    if "notifiers" in given:
        changes["notifiers"] = notifiers_get_for_account(account, given["notifiers"])
    if "tag" in given:
        changes["tag"] = tag_check(given["tag"]) if given["tag"] else ""
    return changes
