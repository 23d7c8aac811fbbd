"""Ready-made rules for servers, offered for each channel that has the keys they need."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from channels.models import Channel
from events.models import Notifier, Rule
from tokens.models import Account


@dataclass(frozen=True)
class Stock:
    """A ready-made rule. `name` and `about` are for people; `fields` are those of services.EDITABLE."""

    key: str
    name: str
    about: str
    fields: dict[str, object]


@dataclass(frozen=True)
class Offer:
    """A stock rule for a channel. `rule`: the one that was made from it and is not deleted, None: it is off.

    `is_on`: there is one and it is enabled. `is_changed`: somebody made it their own by editing it.
    """

    channel: Channel
    stock: Stock
    rule: Rule | None
    is_changed: bool

    @property
    def is_on(self) -> bool:
        return self.rule is not None and self.rule.enabled


def offers(account: Account, *, channel: Channel | None = None) -> list[Offer]:
    """What can be switched on or off, by channel (number) and in the order of the list of stock rules."""
    raise NotImplementedError


def stock_enable(account: Account, channel: Channel, key: str, notifiers: Sequence[Notifier] = ()) -> Rule:
    """Switch a stock rule on; one that was edited and disabled is enabled as it is. Twice changes nothing.

    Raises NOT_FOUND when there is no such stock rule, or the channel lacks its keys.
    """
    raise NotImplementedError


def stock_disable(account: Account, channel: Channel, key: str, *, now: datetime) -> None:
    """Switch it off: one as it came is deleted, one that was edited is disabled and keeps its edits."""
    raise NotImplementedError
