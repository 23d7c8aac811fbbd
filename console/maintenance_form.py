"""The form of a maintenance window: what for, from when until when, and how often."""

from datetime import datetime, timedelta, tzinfo
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from channels.tags import tag_check
from console.forms import ChannelChoice
from devices.models import Device
from devices.selectors import device_get_for_account
from events.models import Maintenance
from servwatch_site.errors import ServwatchError
from tokens.models import Account
from tokens.times import time_parse

WEEKDAYS = (
    (0, _("Monday")),
    (1, _("Tuesday")),
    (2, _("Wednesday")),
    (3, _("Thursday")),
    (4, _("Friday")),
    (5, _("Saturday")),
    (6, _("Sunday")),
)


class TimeField(forms.CharField):
    """A time as people of the account write it, in its zone."""

    zone: Any = None

    def __init__(self, **options: Any) -> None:
        attrs = {"placeholder": "2026-11-23 09:00", "autocomplete": "off", "class": "time"}
        super().__init__(max_length=40, widget=forms.TextInput(attrs=attrs), **options)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            return time_parse(text, zone=self.zone)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class MaintenanceForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=128, required=False)
    device = forms.CharField(
        label=_("Device"),
        max_length=64,
        required=False,
        help_text=_("Its id. Without device, channel and tag it is for everything."),
    )
    channel = ChannelChoice(label=_("Channel"))
    tag = forms.CharField(label=_("Tag"), max_length=64, required=False)
    starts_at = TimeField(label=_("From"))
    ends_at = TimeField(label=_("To"))
    repeat = forms.ChoiceField(label=_("Repeated"), choices=Maintenance.Repeat.choices)
    weekdays = forms.TypedMultipleChoiceField(
        label=_("On"),
        choices=WEEKDAYS,
        coerce=int,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Of a weekly one: the days on which it begins."),
    )
    until = TimeField(label=_("Repeated until"), required=False)

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        now = timezone.localtime()
        initial = {
            "starts_at": f"{now:%Y-%m-%d %H:%M}",
            "ends_at": f"{now + timedelta(hours=2):%Y-%m-%d %H:%M}",
        }
        kwargs["initial"] = initial | kwargs.get("initial", {})
        super().__init__(*args, **kwargs)
        self.account = account
        for name in ("starts_at", "ends_at", "until"):
            field: Any = self.fields[name]
            field.zone = account.zone
        channel: Any = self.fields["channel"]
        channel.queryset = Channel.objects.filter(account=account, deleted_at=None).order_by("number")
        channel.empty_label = _("any channel")

    def clean_device(self) -> Device | None:
        text = self.cleaned_data["device"].strip()
        try:
            return device_get_for_account(self.account, text) if text else None
        except ServwatchError as error:
            raise forms.ValidationError(error.message) from None

    def clean_tag(self) -> str:
        text = self.cleaned_data["tag"].strip()
        try:
            return tag_check(text) if text else ""
        except ServwatchError as error:
            raise forms.ValidationError(error.fields.get("tag") or error.message) from None

    def changes(self) -> dict[str, Any]:
        """What maintenance_update() takes. A time that was not touched keeps its seconds, which are not shown."""
        times = [name for name in ("starts_at", "ends_at", "until") if name not in self.changed_data]
        return {name: value for name, value in self.cleaned_data.items() if name not in times}

    def take_error(self, error: ServwatchError) -> None:
        for name, text in error.fields.items():
            name = {"mapped_ch": "channel", "device_id": "device"}.get(name, name)
            self.add_error(name if name in self.fields else None, text)
        if not error.fields:
            self.add_error(None, error.message)


def maintenance_initial(window: Maintenance, *, zone: tzinfo) -> dict[str, Any]:
    """What the form of a window begins with."""

    def typed(at: datetime | None) -> str:
        return "" if at is None else f"{at.astimezone(zone):%Y-%m-%d %H:%M}"

    return {
        "name": window.name,
        "device": window.device.device_id if window.device else "",
        "channel": window.channel_id,
        "tag": window.tag,
        "starts_at": typed(window.starts_at),
        "ends_at": typed(window.ends_at),
        "repeat": window.repeat,
        "weekdays": window.weekdays,
        "until": typed(window.until),
    }


def ends_custom(text: str, *, account: Account) -> datetime | None:
    """A typed end, None for what cannot be read."""
    try:
        return time_parse(text, zone=account.zone)
    except ValueError:
        return None
