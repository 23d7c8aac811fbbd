"""Forms of the console. They read and check what people typed; services write it."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from channels.selectors import channel_list
from devices.models import Device
from tokens.models import Account, ApiToken


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
        )
        labels = {
            "organization": _("Organization"),
            "user_alias": _("Short name"),
            "email1": _("First e-mail address"),
            "email2": _("Second e-mail address"),
            "locale": _("Time zone"),
            "new_devices": _("New devices"),
            "max_devices": _("Most devices"),
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
