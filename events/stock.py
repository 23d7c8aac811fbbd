"""Ready-made rules for servers, offered for each channel that has the keys they need.

A rule made from one is an ordinary rule: whoever edits it owns it, and nothing here changes it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from channels.models import Channel, Stream
from events.models import Notifier, Rule, Severity
from events.services import rule_create, rule_delete, rule_update
from events.sources import SourceIndex, source_levels
from servwatch_site.errors import Code, ServwatchError
from tokens.models import Account

# 10000 * major + 100 * minor + patch of the agent that comes with this release, and of those before it.
AGENT_VERSION = 200
EARLIER_AGENT_VERSIONS: tuple[int, ...] = ()
AGENT_OUTDATED = "agent_outdated"


@dataclass(frozen=True)
class Stock:
    """A ready-made rule. `name` and `about` are for people; `fields` are among services.EDITABLE."""

    key: str
    name: str | Promise
    about: str | Promise
    fields: Mapping[str, Any]

    @property
    def source(self) -> str:
        return str(self.fields.get("source", ""))


@dataclass(frozen=True)
class Offer:
    """A stock rule for a channel. `rule`: the one that was made from it and is not deleted, None: there is none.

    `is_changed`: somebody made it their own by editing its condition or severity.
    """

    channel: Channel
    stock: Stock
    rule: Rule | None
    is_changed: bool

    @property
    def is_on(self) -> bool:
        return self.rule is not None and self.rule.enabled


def _stock(key: str, name: str | Promise, about: str | Promise, severity: Severity, **fields: Any) -> Stock:
    return Stock(key, name, about, {"severity": severity, **fields})


STOCK: tuple[Stock, ...] = (
    _stock(
        "offline",
        gettext_lazy("Offline"),
        gettext_lazy("Nothing came for five times as long as is usual for the device, a minute at least."),
        Severity.CRITICAL,
        absent_s=0,
    ),
    _stock(
        "cpu",
        gettext_lazy("Processors busy"),
        gettext_lazy("All processors together are over 95 % busy for 15 minutes."),
        Severity.WARNING,
        source="cpu:total",
        operator=">",
        threshold="95",
        clear_threshold="85",
        for_s=900,
    ),
    _stock(
        "load",
        gettext_lazy("Load high"),
        gettext_lazy("Over two processes wait or run for each processor, for 10 minutes."),
        Severity.WARNING,
        source="load:load5_per_core",
        operator=">",
        threshold="2",
        clear_threshold="1.5",
        for_s=600,
    ),
    _stock(
        "memory",
        gettext_lazy("Memory short"),
        gettext_lazy("Over 95 % of the memory is in use for 5 minutes."),
        Severity.CRITICAL,
        source="memory:used_pct",
        operator=">",
        threshold="95",
        clear_threshold="90",
        for_s=300,
    ),
    _stock(
        "swap",
        gettext_lazy("Swap in use"),
        gettext_lazy("Over 80 % of the swap space is in use for 15 minutes."),
        Severity.WARNING,
        source="swap:used_pct",
        operator=">",
        threshold="80",
        clear_threshold="60",
        for_s=900,
    ),
    _stock(
        "disk_full",
        gettext_lazy("Disk full"),
        gettext_lazy("A disk is over 90 % full for 5 minutes."),
        Severity.CRITICAL,
        source="disks:*:used_pct",
        operator=">",
        threshold="90",
        clear_threshold="87",
        for_s=300,
    ),
    _stock(
        "inodes_full",
        gettext_lazy("Inodes used up"),
        gettext_lazy("A disk has used over 90 % of its inodes for 5 minutes: too many files."),
        Severity.CRITICAL,
        source="disks:*:inodes_used_pct",
        operator=">",
        threshold="90",
        clear_threshold="87",
        for_s=300,
    ),
    _stock(
        "disk_fills",
        gettext_lazy("Disk fills within a day"),
        gettext_lazy("As a disk has filled during the last day, it will be over 98 % full within another."),
        Severity.WARNING,
        source="disks:*:used_pct",
        operator=">",
        threshold="98",
        ahead_s=86_400,
        for_s=1_800,
    ),
    _stock(
        "rebooted",
        gettext_lazy("Started again"),
        gettext_lazy(
            "The machine started again within the last ten minutes. Its first start with the agent is none."
        ),
        Severity.INFO,
        source="boot:rebooted",
        operator=">=",
        threshold="1",
    ),
    _stock(
        "clock_off",
        gettext_lazy("Clock may be off"),
        gettext_lazy(
            "Nothing keeps the clock right: by the kernel's estimate it may be off by over 5 seconds."
        ),
        Severity.WARNING,
        source="clock:error_s",
        operator=">",
        threshold="5",
        clear_threshold="2",
        for_s=600,
    ),
    _stock(
        "temperature",
        gettext_lazy("Hot"),
        gettext_lazy("A sensor is over 85 °C for 5 minutes."),
        Severity.WARNING,
        source="temperatures:*",
        operator=">",
        threshold="85",
        clear_threshold="75",
        for_s=300,
    ),
    _stock(
        AGENT_OUTDATED,
        gettext_lazy("Agent outdated"),
        gettext_lazy("The agent is older than the one that comes with this Servwatch."),
        Severity.INFO,
        source="agent:version_number",
        operator="<",
        threshold=str(AGENT_VERSION),
    ),
)
_BY_KEY = {stock.key: stock for stock in STOCK}


def offers(account: Account, *, channel: Channel | None = None) -> list[Offer]:
    """What can be switched on or off, by channel (number) and in the order of STOCK.

    What was made from a stock rule is listed also where the keys are gone.
    """
    channels = Channel.objects.filter(account=account, deleted_at=None).order_by("number")
    if channel is not None:
        channels = channels.filter(pk=channel.pk)
    rules = {
        (rule.channel_id, rule.stock): rule
        for rule in Rule.objects.filter(account=account, deleted_at=None).exclude(stock="").order_by("-pk")
    }
    index = SourceIndex([(source_levels(stock.source), stock.key) for stock in STOCK if stock.source])
    found = []
    for one in channels:
        keys = Stream.objects.filter(channel=one).values_list("key", flat=True)
        usable = {key for path in keys for key in index.at(path)}
        if keys:
            usable |= {stock.key for stock in STOCK if not stock.source}
        for stock in STOCK:
            rule = rules.get((one.pk, stock.key))
            if rule is not None or stock.key in usable:
                found.append(Offer(one, stock, rule, rule is not None and _is_changed(rule, stock)))
    return found


@transaction.atomic
def stock_enable(account: Account, channel: Channel, key: str, notifiers: Sequence[Notifier] = ()) -> Rule:
    """Switch a stock rule on; one that is there already is enabled as it is. Twice changes nothing.

    `notifiers`: who is told by a new one. Raises NOT_FOUND when there is no such stock rule, or the channel lacks its
    keys.
    """
    Channel.objects.select_for_update().get(pk=channel.pk)  # two clicks at once make one rule
    offer = _offer(account, channel, key)
    if offer.rule is not None:
        if not offer.rule.enabled:
            rule_update(offer.rule, changes={"enabled": True}, now=timezone.now())
        return offer.rule
    stock = offer.stock
    rule = rule_create(
        account, changes={**stock.fields, "channel": channel, "description": str(stock.name), "enabled": True}
    )
    Rule.objects.filter(pk=rule.pk).update(stock=stock.key)
    rule.stock = stock.key
    rule.notifiers.set(notifiers)
    return rule


@transaction.atomic
def stock_disable(account: Account, channel: Channel, key: str, *, now: datetime) -> None:
    """Switch it off: one as it came is deleted, one that was edited is disabled and keeps its edits.

    Raises NOT_FOUND when there is no such stock rule.
    """
    Channel.objects.select_for_update().get(pk=channel.pk)
    offer = _offer(account, channel, key)
    if offer.rule is None:
        return
    if offer.is_changed:
        rule_update(offer.rule, changes={"enabled": False}, now=now)
    else:
        rule_delete(offer.rule, now=now)


def agent_rules_follow(*, now: datetime) -> int:
    """After an upgrade: rules about outdated agents that nobody edited ask for the new one; returns how many."""
    earlier = [str(number) for number in EARLIER_AGENT_VERSIONS]
    rules = Rule.objects.filter(stock=AGENT_OUTDATED, deleted_at=None, threshold__in=earlier)
    for rule in rules:
        rule_update(rule, changes={"threshold": str(AGENT_VERSION)}, now=now)
    return len(rules)


def _offer(account: Account, channel: Channel, key: str) -> Offer:
    for offer in offers(account, channel=channel):
        if offer.stock.key == key:
            return offer
    raise ServwatchError(
        Code.NOT_FOUND,
        _("This channel is offered no such stock rule. GET /v2/event/stock lists those there are."),
    )


def _is_changed(rule: Rule, stock: Stock) -> bool:
    usual: dict[str, Any] = {
        "source": "",
        "operator": "",
        "threshold": "",
        "clear_threshold": None,
        "for_s": 0,
        "absent_s": None,
        "ahead_s": None,
        "tag": "",
        "device_id": None,
        "repeat_s": None,
    }
    return any(getattr(rule, name) != value for name, value in (usual | dict(stock.fields)).items())
