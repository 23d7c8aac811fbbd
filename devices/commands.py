"""Commands to devices: kept until they can be handed to the broker, with a state that claims nothing it does not know.

queued: with us, because nobody takes the device's commands now. sent: with the broker, which had a subscriber for it.
delivered: the device itself has acknowledged it, which it can over MQTT 5. expired: its time ran out before it could
be sent; one that was not to be kept expires at once when nobody is there.
"""

import json
import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from devices.command_sender import Message, sender
from devices.models import Command, Device
from devices.sessions import device_listens
from servwatch_site.errors import Code, ServwatchError
from tokens.selectors import device_token_reveal

logger = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 256 * 1024
MOST_QUEUED = 1_000  # for one device
HISTORY = timedelta(days=30)


def command_send(device: Device, *, payload: bytes, qos: int, keep_s: int, now: datetime) -> Command:
    """Send a command, or keep it for at most `keep_s` seconds until the device takes commands again.

    Raises BROKER_UNAVAILABLE when it is not to be kept and the broker does not take it; it is forgotten then.
    """
    waiting = Command.objects.filter(device=device, state=Command.State.QUEUED, expires_at__gt=now)
    if keep_s and waiting.count() >= MOST_QUEUED:
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("%(most)d commands wait for this device already. Wait until it has come back.")
            % {"most": MOST_QUEUED},
        )
    command = Command.objects.create(
        device=device,
        payload=payload,
        qos=qos,
        state=Command.State.QUEUED,
        created_at=now,
        expires_at=now + timedelta(seconds=keep_s),
    )
    if not keep_s:
        try:
            heard = _publish(command, expires_s=None)
        except ServwatchError:
            command.delete()
            raise
        _end(command, Command.State.SENT if heard else Command.State.EXPIRED, now=now)
        return command
    device_commands_send(device, now=now)
    command.refresh_from_db()
    return command


def commands_due_send(*, now: datetime) -> int:
    """Send what waits for devices that take commands now; returns how many. Several processes may do it at once."""
    expired = Command.objects.filter(state=Command.State.QUEUED, expires_at__lte=now)
    expired.update(state=Command.State.EXPIRED)
    waiting = Device.objects.filter(
        deleted_at=None, commands__state=Command.State.QUEUED, commands__expires_at__gt=now
    )
    return sum(device_commands_send(device, now=now) for device in waiting.distinct())


def commands_forget(*, now: datetime) -> int:
    """Delete commands long over; returns how many."""
    return (
        Command.objects.filter(created_at__lt=now - HISTORY).exclude(state=Command.State.QUEUED).delete()[0]
    )


def device_commands_send(device: Device, *, now: datetime) -> int:
    """Send what waits for this device in the order it was given, if the device takes commands now."""
    sent = 0
    while device_listens(device.account_id, device.device_id):
        with transaction.atomic():
            command = (
                Command.objects.select_for_update(of=("self",))  # another process waits, to keep the order
                .filter(device=device, state=Command.State.QUEUED, expires_at__gt=now)
                .order_by("pk")
                .first()
            )
            if command is None:
                break
            left_s = max(1, int((command.expires_at - now).total_seconds()))
            try:
                heard = _publish(command, expires_s=left_s)
            except ServwatchError as error:
                logger.info("A command waits on: %s", error.message)
                break
            if not heard:
                break  # gone again meanwhile
            _end(command, Command.State.SENT, now=now)
            sent += 1
    return sent


def payload_bytes(payload: Any) -> bytes:
    """Text as it is, everything else as JSON. Raises PAYLOAD_TOO_LARGE, INVALID_VALUE."""
    text = (
        payload
        if isinstance(payload, str)
        else json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    )
    try:
        found = text.encode()
    except UnicodeEncodeError:
        raise ServwatchError(
            Code.INVALID_VALUE,
            _("The payload holds half of a surrogate pair."),
            fields={"payload": _("not readable text")},
        ) from None
    if len(found) > MAX_PAYLOAD_BYTES:
        raise ServwatchError(
            Code.PAYLOAD_TOO_LARGE,
            _("The payload is larger than %(limit)d bytes. Send less at once.")
            % {"limit": MAX_PAYLOAD_BYTES},
        )
    return found


def _publish(command: Command, *, expires_s: int | None) -> bool:
    device = command.device
    token = device_token_reveal(device.account)
    return sender.send(
        Message(
            topic=f"{token}/{device.device_id}/subscribe",
            payload=bytes(command.payload),
            qos=command.qos,
            expires_s=expires_s,
            response_topic=f"{token}/ack/{device.device_id}",
            correlation=str(command.pk).encode(),
        )
    )


def _end(command: Command, state: str, *, now: datetime) -> None:
    """The device may have acknowledged before we are back: that stays."""
    changes: dict[str, Any] = {"state": state}
    if state == Command.State.SENT:
        changes["sent_at"] = now
    Command.objects.filter(pk=command.pk, state=Command.State.QUEUED).update(**changes)
    command.refresh_from_db()
