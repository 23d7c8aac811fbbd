"""What tells people and programs of alerts: one folder for each kind, all of one shape (events/notifiers/shape.py)."""

from collections.abc import Mapping

from events.notifiers import email, ntfy, pagerduty, slack, teams, telegram, webhook
from events.notifiers.shape import Kind

KINDS: Mapping[str, Kind] = {
    module.KIND.name: module.KIND for module in (email, webhook, slack, teams, telegram, ntfy, pagerduty)
}


def kind_of(name: str) -> Kind:
    """The kind of this name. Raises LookupError: a notifier whose kind is unknown must not be silent."""
    try:
        return KINDS[name]
    except KeyError:
        raise LookupError(f"There is no kind of notifier named {name!r}; see events/notifiers/.") from None
