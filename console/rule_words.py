"""A rule as a sentence. Pure."""

from django.utils.translation import gettext as _

from console.lengths import length_words
from console.templatetags.console import sign
from events.models import Rule


def rule_words(rule: Rule) -> str:
    """When it fires: "cpu:total > 90 for 5 min, clear at 85, or when nothing comes for 10 min"."""
    parts = []
    if rule.operator:
        parts.append(f"{rule.source} {sign(rule.operator)} {rule.threshold}")
        if rule.ahead_s:
            parts[-1] += " " + _("by its trend within %(span)s") % {"span": length_words(rule.ahead_s)}
        if rule.for_s:
            parts[-1] += " " + _("for %(span)s") % {"span": length_words(rule.for_s)}
        if rule.clear_threshold is not None:
            parts.append(_("clear at %(level)s") % {"level": rule.clear_threshold})
    if rule.absent_s is not None:
        parts.append(_silence(rule))
    return ", ".join(parts) or _("no condition yet")


def _silence(rule: Rule) -> str:
    span = length_words(rule.absent_s) if rule.absent_s else _("longer than usual")
    if rule.operator:
        return _("or when nothing comes for %(span)s") % {"span": span}
    if rule.source:
        return _("%(stream)s does not come for %(span)s") % {"stream": rule.source, "span": span}
    return _("nothing comes for %(span)s") % {"span": span}
