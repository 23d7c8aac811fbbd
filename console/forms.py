"""Forms of the console. They read and check what people typed; services write it."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from channels.selectors import channel_list
from devices.commands import payload_bytes
from devices.models import Device
from servwatch_site.errors import ServwatchError
from tokens.models import Account, ApiToken

NOT_AT_ALL, HOUR_S, DAY_S, WEEK_S = 0, 3600, 86400, 7 * 86400


class ChannelChoice(forms.ModelChoiceField):  # type: ignore[type-arg]  # generic only in the stubs
    """One of the account's channels, or none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            queryset=Channel.objects.none(), required=False, empty_label=_("not mapped"), **options
        )

    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.number} · {obj.name}" if obj.name else str(obj.number)


class DeviceForm(forms.ModelForm):  # type: ignore[type-arg]
    channel = ChannelChoice(label=_("Channel"), help_text=_("Where its measurements are stored."))

    class Meta:
        model = Device
        fields = (
            "description",
            "enabled",
            "channel",
            "replay_when_mapped",
            "device_type",
            "location",
            "manufacturer",
        )
        labels = {
            "description": _("Description"),
            "enabled": _("Enabled"),
            "replay_when_mapped": _("Store what was refused as soon as it is enabled and mapped"),
            "device_type": _("Type"),
            "location": _("Location"),
            "manufacturer": _("Manufacturer"),
        }

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["channel"].queryset = Channel.objects.filter(  # type: ignore[attr-defined]
            account=account, deleted_at=None
        ).order_by("number")


class NewDeviceForm(DeviceForm):
    device_id = forms.CharField(
        label=_("Device id"),
        max_length=64,
        help_text=_("The name the device sends under: letters, digits and . _ : -"),
    )
    field_order = ("device_id",)


class CommandForm(forms.Form):
    """`cleaned_data` has the payload as bytes."""

    payload = forms.CharField(
        label=_("Payload"),
        strip=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "mono", "spellcheck": "false"}),
        help_text=_("What the device reads: text or JSON, exactly as it stands here."),
    )
    qos = forms.TypedChoiceField(
        label=_("QoS"),
        coerce=int,
        choices=((1, _("1: the broker confirms it")), (0, _("0: sent once, unconfirmed"))),
    )
    keep_s = forms.TypedChoiceField(
        label=_("Keep it for a device that is away"),
        coerce=int,
        choices=(
            (NOT_AT_ALL, _("do not keep it")),
            (HOUR_S, _("for 1 hour")),
            (DAY_S, _("for 1 day")),
            (WEEK_S, _("for 1 week")),
        ),
    )

    def clean_payload(self) -> bytes:
        """With the line ends that were typed: browsers send every one of them as two characters."""
        try:
            return payload_bytes(self.cleaned_data["payload"].replace("\r\n", "\n"))
        except ServwatchError as error:
            raise forms.ValidationError(error.message) from None


class ChannelForm(forms.Form):
    number = forms.IntegerField(label=_("Number"), min_value=0, max_value=2_147_483_647)
    name = forms.CharField(label=_("Name"), max_length=64, required=False)
    retention_days = forms.IntegerField(
        label=_("Keep records for (days)"), min_value=1, max_value=3650, initial=90
    )


class ChannelEditForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=64, required=False)
    retention_days = forms.IntegerField(label=_("Keep records for (days)"), min_value=1, max_value=3650)


class InboxForm(forms.Form):
    """What to do with new devices that were ticked."""

    device = forms.MultipleChoiceField(choices=())
    channel = ChannelChoice(label=_("Channel"))

    def __init__(self, *args: Any, account: Account, device_ids: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels = Channel.objects.filter(account=account, deleted_at=None).order_by("number")
        self.fields["channel"].queryset = channels  # type: ignore[attr-defined]
        self.fields["device"].choices = [(text, text) for text in device_ids]  # type: ignore[attr-defined]


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    default_channel = forms.TypedChoiceField(
        label=_("Channel of new devices"), coerce=int, empty_value=None, required=False
    )

    class Meta:
        model = Account
        fields = (
            "organization",
            "user_alias",
            "email1",
            "email2",
            "locale",
            "new_devices",
            "default_channel",
            "max_devices",
            "api_per_second",
            "connector_per_second",
        )
        labels = {
            "organization": _("Organization"),
            "user_alias": _("Short name"),
            "email1": _("First e-mail address"),
            "email2": _("Second e-mail address"),
            "locale": _("Time zone"),
            "new_devices": _("New devices"),
            "max_devices": _("Most devices"),
            "api_per_second": _("API requests a second for each token"),
            "connector_per_second": _("HTTP messages a second for each device"),
        }
        help_texts = {
            "api_per_second": _("0 is no limit."),
            "connector_per_second": _("0 is no limit. Messages over MQTT are not counted."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        numbers = [(channel.number, str(channel)) for channel in channel_list(self.instance)]
        self.fields["default_channel"].choices = [("", _("not mapped")), *numbers]  # type: ignore[attr-defined]


class ApiTokenForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=64)
    scopes = forms.MultipleChoiceField(
        label=_("Scopes"),
        choices=ApiToken.Scope.choices,
        widget=forms.CheckboxSelectMultiple,
        initial=["read"],
    )
    expires_in_days = forms.IntegerField(
        label=_("Expires after (days)"), min_value=1, max_value=3650, required=False
    )


class DeviceTokenForm(forms.Form):
    """How long the HTTP connector goes on taking the token that is replaced."""

    overlap_s = forms.TypedChoiceField(
        label=_("Over HTTP the old token counts"),
        coerce=int,
        required=False,
        empty_value=NOT_AT_ALL,  # type: ignore[arg-type]  # the stubs know text only
        choices=(
            (NOT_AT_ALL, _("no longer")),
            (HOUR_S, _("for 1 hour")),
            (DAY_S, _("for 1 day")),
            (WEEK_S, _("for 1 week")),
        ),
    )


class RotationForm(forms.Form):
    """When an API token that is rotated ends."""

    overlap_s = forms.TypedChoiceField(
        label=_("The old one ends"),
        coerce=int,
        required=False,
        empty_value=NOT_AT_ALL,  # type: ignore[arg-type]  # the stubs know text only
        choices=((NOT_AT_ALL, _("at once")), (HOUR_S, _("in 1 hour")), (DAY_S, _("in 1 day"))),
    )


class TagForm(forms.Form):
    """One tag of a channel; nothing is chosen beforehand."""

    tag = forms.ChoiceField(label=_("Tag"))

    def __init__(self, *args: Any, tags: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [("", _("choose one")), *((name, name) for name in sorted(tags))]
        self.fields["tag"].choices = choices  # type: ignore[attr-defined]
