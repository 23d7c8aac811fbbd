"""The newest values of a device as tiles, grouped by the first level of their key. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from channels.keys import Scalar, key_split
from channels.models import Stream
from channels.selectors import ValueNow

MOST_TILES = 200


@dataclass(frozen=True)
class Tile:
    key: str
    label: str
    value: Scalar
    unit: str
    at: datetime


def tile_groups(values: Sequence[ValueNow], meta: Mapping[str, Stream]) -> list[tuple[str, list[Tile]]]:
    """(group, tiles) in the order of keys; at most MOST_TILES in all."""
    groups: dict[str, list[Tile]] = {}
    for now in values[:MOST_TILES]:
        levels = key_split(now.key)
        stream = meta.get(now.key)
        label = (stream.label if stream else "") or " ".join(levels[1:]) or levels[0]
        tile = Tile(now.key, label, now.value, stream.unit if stream else "", now.at)
        groups.setdefault(levels[0], []).append(tile)
    return list(groups.items())
