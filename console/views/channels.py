"""Channels: the list, a channel with its streams, charts and devices."""

from datetime import UTC, datetime

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from channels.models import Channel
from channels.selectors import (
    StreamNow,
    channel_get_for_account,
    channel_list,
    stream_list,
    stream_meta,
    tag_updates,
)
from channels.services import channel_create, channel_delete, channel_update, tag_delete
from console.access import account_of, account_page, say_error
from console.charting import chart_groups, chart_json, first_query, range_of
from console.forms import ChannelEditForm, ChannelForm, TagForm
from devices.selectors import DeviceFilter, device_count, device_list
from servwatch_site.errors import ServwatchError
from streams.charts import Source
from streams.purges import records_delete
from streams.selectors import AHEAD, RecordFilter, channels_newest

DEVICES_SHOWN = 100


@require_GET
@account_page
def channels(request: HttpRequest) -> HttpResponse:
    found = channel_list(account_of(request))
    now = timezone.now()
    updates = channels_newest([channel.pk for channel in found], now=now)
    rows = [(channel, updates.get(channel.pk)) for channel in found]
    return render(request, "console/channels/channels.html", {"rows": rows, "now": now})


@require_GET
@account_page
def channel(request: HttpRequest, number: int) -> HttpResponse:
    found = channel_get_for_account(account_of(request), number)
    streams = stream_list(found)
    context = {"channel": found, "streams": streams, "now": timezone.now()}
    if request.GET.get("fragment"):
        return render(request, "console/channels/_streams.html", context)
    narrow = DeviceFilter(channel=number)
    now = timezone.now()
    tags = tag_updates(found)
    numbers = [stream.key for stream in streams if stream.type in ("number", "boolean", "mixed")]
    span, groups = range_of(request), chart_groups(numbers, stream_meta(found))
    context |= {
        "range": span,
        "groups": groups,
        "first_query": first_query(groups, span),
        "devices": device_list(account_of(request), narrow=narrow, now=now, limit=DEVICES_SHOWN),
        "device_count": device_count(account_of(request), narrow=narrow, now=now),
        "tag_form": TagForm(tags=tags) if tags else None,
        "form": ChannelEditForm(initial={"name": found.name, "retention_days": found.retention_days}),
    }
    return render(request, "console/channels/channel.html", context)


@gzip_page
@require_GET
@account_page
def channel_chart(request: HttpRequest, number: int) -> JsonResponse:
    found = channel_get_for_account(account_of(request), number)
    return chart_json(request, Source.channel(found.pk), channel=found)


@require_http_methods(["GET", "POST"])
@account_page
def channel_new(request: HttpRequest) -> HttpResponse:
    account = account_of(request)
    taken = {found.number for found in channel_list(account)}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    form = ChannelForm(request.POST or None, initial={"number": free})
    if request.method == "POST" and form.is_valid():
        try:
            made = channel_create(account, **form.cleaned_data)
        except ServwatchError as error:
            form.add_error("number", error.message)
        else:
            messages.success(request, _("Channel %(number)d is created.") % {"number": made.number})
            return redirect("console:channel", made.number)
    return render(request, "console/channels/new.html", {"form": form})


@require_POST
@account_page
def channel_edit(request: HttpRequest, number: int) -> HttpResponse:
    """Name, retention, and the labels and units of all streams in one form."""
    found = channel_get_for_account(account_of(request), number)
    form = ChannelEditForm(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(text) for texts in form.errors.values() for text in texts))
        return redirect("console:channel", number)
    try:
        channel_update(found, changes=form.cleaned_data, streams=_changed_streams(request, found))
    except ServwatchError as error:
        say_error(request, error)
    else:
        messages.success(request, _("Channel %(number)d is saved.") % {"number": number})
    return redirect("console:channel", number)


def _changed_streams(request: HttpRequest, found: Channel) -> list[dict[str, str]]:
    """The rows of the table that say something new; fields are `label:KEY` and `unit:KEY`."""
    return [row for stream in stream_list(found) if (row := _changed(request, stream)) is not None]


def _changed(request: HttpRequest, stream: StreamNow) -> dict[str, str] | None:
    label = request.POST.get(f"label:{stream.key}", stream.label).strip()
    unit = request.POST.get(f"unit:{stream.key}", stream.unit).strip()
    if (label, unit) == (stream.label, stream.unit):
        return None
    return {"key": stream.key, "label": label, "unit": unit}


@require_POST
@account_page
def channel_remove(request: HttpRequest, number: int) -> HttpResponse:
    channel_delete(channel_get_for_account(account_of(request), number), now=timezone.now())
    messages.success(
        request,
        _("Channel %(number)d is deleted; its records are removed in the background.") % {"number": number},
    )
    return redirect("console:channels")


@require_POST
@account_page
def tag_remove(request: HttpRequest, number: int) -> HttpResponse:
    """Delete one tag with its records; the page answers when they are gone."""
    found = channel_get_for_account(account_of(request), number)
    form = TagForm(request.POST, tags=tag_updates(found))
    if not form.is_valid():
        messages.error(request, _("Choose one of the channel's tags."))
        return redirect("console:channel", number)
    tag = form.cleaned_data["tag"]
    beginning = datetime.min.replace(tzinfo=UTC)
    count = records_delete(RecordFilter(found.pk, beginning, timezone.now() + AHEAD, tag=tag))
    tag_delete(found, tag)
    text = ngettext(
        "The tag %(tag)s is deleted with its %(n)d record.",
        "The tag %(tag)s is deleted with its %(n)d records.",
        count,
    )
    messages.success(request, text % {"tag": tag, "n": count})
    return redirect("console:channel", number)
