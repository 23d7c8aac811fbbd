"""Sending a command to a device."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from console.access import account_of, account_page
from console.forms import CommandForm
from console.views.devices import device_page
from devices.commands import command_send
from devices.models import Command
from devices.selectors import device_get_for_account
from servwatch_site.errors import ServwatchError


@require_http_methods(["GET", "POST"])
@account_page
def command_new(request: HttpRequest, device_id: str) -> HttpResponse:
    """Send it, or keep it; what cannot be sent stays in the form with the reason.

    That form is a page at this address; its range picker and a reload lead back to the device.
    """
    found = device_get_for_account(account_of(request), device_id)
    page = reverse("console:device", args=[device_id])
    if request.method == "GET":
        return redirect(f"{page}?{request.GET.urlencode()}")
    form = CommandForm(request.POST)
    if form.is_valid():
        try:
            command = command_send(found, **form.cleaned_data, now=timezone.now())
        except ServwatchError as error:
            form.add_error(None, error.message)
        else:
            _say_outcome(request, command)
            return redirect(page)
    form.fields["payload"].widget.attrs["autofocus"] = True  # far down the page, where the reason stands
    return device_page(request, found, command_form=form)


def _say_outcome(request: HttpRequest, command: Command) -> None:
    """What became of it, and no more than is known."""
    match command.state:
        case Command.State.QUEUED:
            until = f"{timezone.localtime(command.expires_at):%Y-%m-%d %H:%M}"
            text = _("The command is kept until %(until)s: it goes out when the device takes commands.")
            messages.info(request, text % {"until": until})
        case Command.State.EXPIRED:
            messages.warning(
                request, _("Nobody was listening: the command reached no device and is not kept.")
            )
        case Command.State.DELIVERED:
            messages.success(request, _("The device has confirmed the command."))
        case _ if command.qos == 0:
            messages.success(
                request,
                _("The command is sent. With QoS 0 the broker does not say whether anybody was listening."),
            )
        case _:
            messages.success(request, _("The command is sent: the broker has it for the device."))
