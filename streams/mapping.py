"""Where a device's message goes: into its channel, or among the refused with the reason. Pure."""

from devices.registry import DeviceEntry
from servwatch_site.errors import Code
from streams.payload import Refusal

_DISABLED = Refusal(Code.DEVICE_DISABLED, "the device is disabled; enable it in the console or by PUT")
_PENDING = Refusal(Code.DEVICE_DISABLED, "the device waits for approval in the console")
_UNMAPPED = Refusal(Code.NO_MAPPED_CH, "the device has no channel; map it in the console or by PUT mapped_ch")


def route(device: DeviceEntry) -> int | Refusal:
    """The key of the channel to store into, or why not; "disabled" wins over "unmapped"."""
    if device.pending:
        return _PENDING
    if not device.enabled:
        return _DISABLED
    return _UNMAPPED if device.channel_key is None else device.channel_key
