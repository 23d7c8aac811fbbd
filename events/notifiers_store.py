"""Who is told of a rule's alerts."""

from events.models import Notifier, Rule


def notifiers_of_rule(rule: Rule) -> list[Notifier]:
    """The notifiers that the rule names."""
    return list(rule.notifiers.filter(enabled=True, deleted_at=None).order_by("pk"))
