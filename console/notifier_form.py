"""The form of a notifier: its name, and the settings that its kind asks for."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from events.models import Notifier
from events.notifiers import kind_of
from events.notifiers.shape import Field
from events.selectors_deliveries import notifier_shown
from servwatch_site.errors import ServwatchError

SETTING = "setting-"  # before the names of settings, which could be those of our own fields


class NotifierForm(forms.Form):
    """Secrets are shown by their ends only; one that is left as it is shown stays."""

    name = forms.CharField(label=_("Name"), max_length=64, required=False)
    enabled = forms.BooleanField(label=_("Enabled"), required=False, initial=True)
    group_s = forms.IntegerField(
        label=_("Alerts of one event that come within so many seconds are one message"),
        min_value=0,
        required=False,
        help_text=_("0 sends each on its own."),
    )

    def __init__(self, *args: Any, kind: str, notifier: Notifier | None = None, **kwargs: Any) -> None:
        self.kind = kind_of(kind)
        initial: dict[str, Any] = {"group_s": self.kind.group_s}
        if notifier is not None:
            initial = {"name": notifier.name, "enabled": notifier.enabled, "group_s": notifier.group_s}
            initial |= {SETTING + name: _as_text(value) for name, value in notifier_shown(notifier).items()}
        super().__init__(*args, **kwargs | {"initial": initial})
        for name, field in self.kind.fields.items():
            self.fields[SETTING + name] = _form_field(field)
        if not self.kind.groups:
            del self.fields["group_s"]
        self.order_fields(["name", *(SETTING + name for name in self.kind.fields), "group_s", "enabled"])

    def settings(self) -> dict[str, Any]:
        return {name: self.cleaned_data[SETTING + name] for name in self.kind.fields}

    def fields_changed(self) -> dict[str, Any]:
        """What is not a setting, as the services take it."""
        given = {"name": self.cleaned_data["name"], "enabled": self.cleaned_data["enabled"]}
        if self.kind.groups:
            given["group_s"] = self.cleaned_data["group_s"] or 0
        return given

    def take_error(self, error: ServwatchError) -> None:
        for name, text in error.fields.items():
            name = name if name in self.fields else SETTING + name
            self.add_error(name if name in self.fields else None, text)
        if not error.fields:
            self.add_error(None, error.message)


def _as_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _form_field(field: Field) -> forms.Field:
    told = {"label": field.label, "required": field.required, "help_text": field.help}
    if field.choices:
        choices = [(choice, choice) for choice in field.choices]
        if not field.required:
            choices.insert(0, ("", "–"))
        return forms.ChoiceField(choices=choices, **told)
    attrs = {"autocomplete": "off", "spellcheck": "false"}
    return forms.CharField(max_length=4000, widget=forms.TextInput(attrs=attrs), **told)
