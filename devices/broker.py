"""Who may sign in to the broker, and to which topics: one entry per account, and the listener's own."""

import secrets
from typing import NamedTuple

from django.conf import settings

from tokens.crypto import keyed_digest
from tokens.selectors import device_tokens_in_force

LISTENER_USER = "servwatch-listener"
COMMANDS_USER = "servwatch-commands"
BROKER_LOG_TOPIC = "$SYS/broker/log/#"
BROKER_UPTIME_TOPIC = "$SYS/broker/uptime"
BROKER_STORED_TOPIC = "$SYS/broker/store/messages/count"
BROKER_STORED_BYTES_TOPIC = "$SYS/broker/store/messages/bytes"
BROKER_RETAINED_TOPIC = "$SYS/broker/retained messages/count"
BROKER_DROPPED_TOPIC = "$SYS/broker/publish/messages/dropped"
BROKER_LOAD_TOPICS = (
    BROKER_STORED_TOPIC,
    BROKER_STORED_BYTES_TOPIC,
    BROKER_RETAINED_TOPIC,
    BROKER_DROPPED_TOPIC,
)


class BrokerLogin(NamedTuple):
    """A user of the broker. `topics` are ACL lines such as `readwrite TOKEN/#`."""

    username: str
    password: str
    topics: tuple[str, ...]


class ListenerLogin(NamedTuple):
    """How the listener of a slot signs in. Nobody may guess the client id: with it one could take its session."""

    client_id: str
    username: str
    password: str


def listener_login(slot: int) -> ListenerLogin:
    """Of the durable session of a slot."""
    return _login(keyed_digest("listener-client-id", f"{settings.INSTALLATION}/{slot}")[:32])


def leader_login() -> ListenerLogin:
    """Of the connection on which one listener gives the marks; its session ends with it."""
    return _login(f"leader-{secrets.token_hex(8)}")


def listener_mark_topic() -> str:
    """The topic of the marks among the listeners: no device's, and nobody else may write to it."""
    return keyed_digest("listener-marks", settings.INSTALLATION)[:32] + "/listeners/mark"


def _login(name: str) -> ListenerLogin:
    password = keyed_digest("listener-password", settings.INSTALLATION)
    return ListenerLogin(f"sw-{name}", LISTENER_USER, password)


def commands_login() -> BrokerLogin:
    """How the sender of commands signs in: it may write to devices' command topics, and read nothing."""
    password = keyed_digest("commands-password", settings.INSTALLATION)
    return BrokerLogin(COMMANDS_USER, password, ("write +/+/subscribe",))


def broker_accounts() -> list[BrokerLogin]:
    """Everybody the broker lets in now. An account reaches its own topics only, the listener reads all."""
    logins = [
        BrokerLogin(user_id, token, (f"readwrite {token}/#",))
        for user_id, token in device_tokens_in_force().items()
    ]
    listener = listener_login(0)
    topics = (
        "read #",
        f"write {listener_mark_topic()}",
        *(f"read {topic}" for topic in (BROKER_LOG_TOPIC, BROKER_UPTIME_TOPIC, *BROKER_LOAD_TOPICS)),
    )
    return [*logins, BrokerLogin(listener.username, listener.password, topics), commands_login()]
