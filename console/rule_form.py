"""The form of a rule: one sentence whose gaps are fields."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from channels.models import Channel
from channels.tags import tag_check
from console.forms import ChannelChoice
from console.lengths import UNIT_CHOICES, UNITS_S, length_split
from console.templatetags.console import SIGNS
from devices.models import Device
from devices.selectors import device_get_for_account
from events.models import Notifier, Rule, Severity
from servwatch_site.errors import ServwatchError
from tokens.models import Account

NEVER, USUAL, AFTER = "never", "usual", "after"
MOST_S = 30 * 86400
# Where a complaint of the services about a field of the API belongs.
FIELD_OF = {
    "mapped_ch": "channel",
    "for_s": "for_n",
    "absent_s": "absent_n",
    "repeat_s": "repeat_n",
    "ahead_s": "ahead_n",
}


class CountField(forms.IntegerField):
    """How many of a unit; empty is none."""

    def __init__(self, label: Any) -> None:
        attrs = {"class": "amount", "inputmode": "numeric"}
        super().__init__(
            label=label, min_value=0, max_value=MOST_S, required=False, widget=forms.NumberInput(attrs=attrs)
        )


class UnitField(forms.ChoiceField):
    def __init__(self, initial: str = "min") -> None:
        super().__init__(label=_("Unit"), choices=UNIT_CHOICES, initial=initial, required=False)


class NotifierChoice(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    def __init__(self) -> None:
        super().__init__(
            label=_("Tell"),
            queryset=Notifier.objects.none(),
            required=False,
            widget=forms.CheckboxSelectMultiple,
        )

    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.name or obj.get_kind_display()} ({obj.get_kind_display()})"


class RuleForm(forms.Form):
    """`changes()` are fields of events.services.EDITABLE."""

    source = forms.CharField(
        label=_("Stream"),
        max_length=1000,
        required=False,
        widget=forms.TextInput(
            attrs={
                "class": "key",
                "list": "keys-known",
                "placeholder": "cpu:total",
                "autocomplete": "off",
                "spellcheck": "false",
            }
        ),
    )
    device = forms.CharField(
        label=_("Device"),
        max_length=64,
        required=False,
        widget=forms.TextInput(
            attrs={
                "class": "device",
                "list": "devices-known",
                "placeholder": _("any device"),
                "autocomplete": "off",
            }
        ),
    )
    channel = ChannelChoice(label=_("Channel"))
    tag = forms.CharField(
        label=_("Tag"),
        max_length=64,
        required=False,
        widget=forms.TextInput(
            attrs={"class": "tag", "list": "tags-known", "placeholder": _("any"), "autocomplete": "off"}
        ),
    )
    operator = forms.ChoiceField(
        label=_("Comparison"),
        required=False,
        choices=[("", "–"), *((value, SIGNS.get(value, value)) for value in Rule.Operator.values)],
    )
    threshold = forms.CharField(
        label=_("Threshold"),
        max_length=256,
        required=False,
        widget=forms.TextInput(attrs={"class": "level", "autocomplete": "off", "placeholder": "90"}),
    )
    for_n = CountField(_("For how long"))
    for_unit = UnitField()
    clear_threshold = forms.CharField(
        label=_("Clear at"),
        max_length=256,
        required=False,
        widget=forms.TextInput(attrs={"class": "level", "autocomplete": "off"}),
    )
    ahead_n = CountField(_("Ahead by its trend"))
    ahead_unit = UnitField("h")
    absent = forms.ChoiceField(
        label=_("When nothing comes"),
        required=False,
        choices=[
            (NEVER, _("never mind")),
            (USUAL, _("for longer than usual")),
            (AFTER, _("for")),
        ],
    )
    absent_n = CountField(_("Nothing for how long"))
    absent_unit = UnitField()
    notifiers = NotifierChoice()
    post_url = forms.CharField(
        label=_("Webhook of this event alone"),
        max_length=2000,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "https://", "inputmode": "url", "autocomplete": "off"}),
    )
    severity = forms.ChoiceField(label=_("Severity"), choices=Severity.choices, initial=Severity.WARNING)
    repeat_n = CountField(_("Again every"))
    repeat_unit = UnitField()
    description = forms.CharField(label=_("Name"), max_length=256, required=False)
    enabled = forms.BooleanField(label=_("Enabled"), required=False, initial=True)

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.account = account
        channels = Channel.objects.filter(account=account, deleted_at=None).order_by("number")
        field: Any = self.fields["channel"]
        field.queryset, field.empty_label = channels, None if channels else _("no channel yet")
        told: Any = self.fields["notifiers"]
        told.queryset = Notifier.objects.filter(account=account, implicit=False, deleted_at=None).order_by(
            "name", "pk"
        )

    def clean_device(self) -> Device | None:
        text = self.cleaned_data["device"].strip()
        if not text:
            return None
        try:
            return device_get_for_account(self.account, text)
        except ServwatchError as error:
            raise forms.ValidationError(error.message) from None

    def clean_tag(self) -> str:
        text = self.cleaned_data["tag"].strip()
        if not text:
            return ""
        try:
            return tag_check(text)
        except ServwatchError as error:
            raise forms.ValidationError(error.fields.get("tag") or error.message) from None

    def changes(self) -> dict[str, Any]:
        """What was typed, as the services take it."""
        data = self.cleaned_data
        operator = data["operator"]
        return {
            "channel": data["channel"],
            "device": data["device"],
            "tag": data["tag"],
            "source": data["source"].strip(),
            "operator": operator,
            "threshold": data["threshold"] if operator else "",
            "for_s": self._seconds("for") if operator else 0,
            "clear_threshold": (data["clear_threshold"] or None) if operator else None,
            "ahead_s": (self._seconds("ahead") or None) if operator else None,
            "absent_s": {NEVER: None, USUAL: 0}.get(data["absent"] or NEVER, self._seconds("absent")),
            "severity": data["severity"],
            "repeat_s": self._seconds("repeat") or None,
            "description": data["description"],
            "enabled": data["enabled"],
            "notify_type": Rule.NotifyType.HTTP if data["post_url"] else Rule.NotifyType.EMAIL,
            "post_url": data["post_url"].strip(),
            "notifiers": list(data["notifiers"]),
        }

    def _seconds(self, name: str) -> int:
        number, unit = self.cleaned_data[f"{name}_n"], self.cleaned_data[f"{name}_unit"] or "min"
        return (number or 0) * UNITS_S[unit]

    def take_error(self, error: ServwatchError) -> None:
        """Show what the services refused beside the fields it is about."""
        for name, text in error.fields.items():
            name = FIELD_OF.get(name, name)
            self.add_error(name if name in self.fields else None, text)
        if not error.fields:
            self.add_error(None, error.message)


def rule_initial(rule: Rule) -> dict[str, Any]:
    """What the form shows of a rule that is there."""
    given: dict[str, Any] = {
        "source": rule.source,
        "device": rule.device.device_id if rule.device else "",
        "channel": rule.channel_id,
        "tag": rule.tag,
        "operator": rule.operator,
        "threshold": rule.threshold,
        "clear_threshold": rule.clear_threshold,
        "absent": NEVER if rule.absent_s is None else AFTER if rule.absent_s else USUAL,
        "severity": rule.severity,
        "description": rule.description,
        "enabled": rule.enabled,
        "post_url": rule.post_url,
        "notifiers": list(rule.notifiers.values_list("pk", flat=True)),
    }
    for name, default in (("for", "min"), ("ahead", "h"), ("absent", "min"), ("repeat", "min")):
        seconds = getattr(rule, f"{name}_s")
        number, given[f"{name}_unit"] = length_split(seconds or 0, default=default)
        given[f"{name}_n"] = number or None
    return given
