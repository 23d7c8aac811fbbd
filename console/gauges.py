"""The three values a fleet table shows of every server, whatever names its agent gives them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from channels.selectors import ValueNow


@dataclass(frozen=True)
class Gauge:
    """A value by its key paths, the first that is there counts. `full` is where the bar ends."""

    name: str | Promise
    paths: tuple[str, ...]
    unit: str
    full: float


@dataclass(frozen=True)
class Reading:
    """One device's value of a gauge, None when it sends none; `share` of the bar in percent."""

    gauge: Gauge
    value: float | None
    share: int

    @property
    def level(self) -> str:
        return "high" if self.share >= 90 else "raised" if self.share >= 75 else "calm"


GAUGES = (
    Gauge(_("CPU"), ("cpu:total", "cpu:used_pct", "cpu:user"), "%", 100.0),
    Gauge(_("Memory"), ("memory:used_pct", "mem:used_pct"), "%", 100.0),
    Gauge(_("Load per core"), ("load:load1_per_core", "load:load1", "load1"), "", 1.0),
)


def gauge_of(gauge: Gauge, latest: Mapping[str, ValueNow]) -> Reading:
    for path in gauge.paths:
        found = latest.get(path)
        if found is not None and isinstance(found.value, (int, float)):
            value = float(found.value)
            return Reading(gauge, value, max(0, min(100, round(100 * value / gauge.full))))
    return Reading(gauge, None, 0)
