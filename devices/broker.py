"""Who may sign in to the broker, and to which topics: one entry per account, and the listener's own."""

from typing import NamedTuple

from django.conf import settings

from tokens.crypto import keyed_digest
from tokens.selectors import device_tokens_in_force

LISTENER_USER = "servwatch-listener"
COMMANDS_USER = "servwatch-commands"
BROKER_LOG_TOPIC = "$SYS/broker/log/#"
BROKER_UPTIME_TOPIC = "$SYS/broker/uptime"


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
    return ListenerLogin(
        client_id="sw-" + keyed_digest("listener-client-id", f"{settings.INSTALLATION}/{slot}")[:32],
        username=LISTENER_USER,
        password=keyed_digest("listener-password", settings.INSTALLATION),
    )


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
    reads = ("read #", f"read {BROKER_LOG_TOPIC}", f"read {BROKER_UPTIME_TOPIC}")
    return [*logins, BrokerLogin(listener.username, listener.password, reads), commands_login()]
