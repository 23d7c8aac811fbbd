"""The only place that writes devices on a person's or program's wish; devices/registry.py activates them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from devices.ids import device_id_check
from devices.models import Device, UnknownDevice
from servwatch_site.errors import Code, ServwatchError
from tokens.config import config_bump
from tokens.models import Account

EDITABLE = (
    "description",
    "enabled",
    "channel",
    "device_type",
    "location",
    "manufacturer",
    "replay_when_mapped",
)


@transaction.atomic
def device_create(
    account: Account, device_id: str, *, now: datetime, changes: Mapping[str, Any] | None = None
) -> Device:
    """A new device, disabled and unmapped unless `changes` (fields of EDITABLE) says otherwise.

    Raises DEVICE_INUSE, MAX_DEVICE_REACH, DEVICE_ID_ZERO, INVALID_VALUE.
    """
    device_id_check(device_id)
    version = config_bump()  # one creation at a time: the limit is counted exactly
    if Device.objects.filter(account=account, device_id=device_id, deleted_at=None).exists():
        raise _in_use(device_id)
    if Device.objects.filter(account=account, deleted_at=None).count() >= account.max_devices:
        raise ServwatchError(
            Code.MAX_DEVICE_REACH,
            _("The account may have %(limit)d devices and has them. Delete one or raise the limit.")
            % {"limit": account.max_devices},
        )
    device = Device(account=account, device_id=device_id, config_version=version)
    _apply(device, changes or {}, now=now)
    try:
        with transaction.atomic():
            device.save(force_insert=True)
    except IntegrityError:  # a first contact was faster
        raise _in_use(device_id) from None
    UnknownDevice.objects.filter(account=account, device_id=device_id).delete()
    return device


@transaction.atomic
def device_update(device: Device, *, changes: Mapping[str, Any], now: datetime) -> Device:
    """Change fields of EDITABLE; enabling is the activation. Raises INVALID_VALUE with the fields."""
    _apply(device, changes, now=now)
    device.config_version = config_bump()
    # Only these fields: the listener writes the state meanwhile.
    device.save(update_fields=[*EDITABLE, "pending", "activate_at", "config_version"])
    return device


@transaction.atomic
def device_refuse(device: Device) -> None:
    """Turn a new device down: it stays known and disabled, so that it does not come back as a new one."""
    Device.objects.filter(pk=device.pk).update(enabled=False, pending=False, config_version=config_bump())


@transaction.atomic
def device_delete(device: Device, *, now: datetime, with_records: bool = False) -> None:
    """Take the device away at once: its id is free. Its records stay in their channel, or go in the background."""
    Device.objects.filter(pk=device.pk, deleted_at=None).update(
        deleted_at=now, enabled=False, purge_wanted=with_records, config_version=config_bump()
    )


def _in_use(device_id: str) -> ServwatchError:
    return ServwatchError(
        Code.DEVICE_INUSE, _("Device %(id)s exists already. Change it with PUT.") % {"id": device_id}
    )


def _apply(device: Device, changes: Mapping[str, Any], *, now: datetime) -> None:
    for name in EDITABLE:
        if name in changes:
            setattr(device, name, changes[name])
    if device.enabled:
        device.pending = False
        device.activate_at = device.activate_at or now
    try:
        device.full_clean(exclude=["account", "channel"], validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        fields = {name: " ".join(texts) for name, texts in error.message_dict.items()}
        raise ServwatchError(Code.INVALID_VALUE, _("Some fields do not fit."), fields=fields) from None
