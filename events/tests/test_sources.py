import pytest

from channels.keys import key_join
from events.sources import SourceIndex, source_levels


@pytest.mark.parametrize(
    ("source", "levels"),
    [
        ("cpu:idle", ("cpu", "idle")),
        ("disk:*:used_pct", ("disk", None, "used_pct")),
        ("*", (None,)),
        (r"a\:b:c", ("a:b", "c")),
        (r"a:\*:c", ("a", "*", "c")),
        (r"c\\:d", ("c\\", "d")),
        ("sd*", ("sd*",)),
        ("", ("",)),
        ("a:", ("a", "")),
        ("a\\", ("a\\",)),
    ],
)
def test_levels_of_a_source(source: str, levels: tuple[str | None, ...]) -> None:
    assert source_levels(source) == levels


def found(sources: list[str], path: str) -> list[str]:
    return sorted(SourceIndex([(source_levels(source), source) for source in sources]).at(path))


def test_it_finds_plain_sources_and_patterns() -> None:
    sources = ["disk:sda:used", "disk:*:used", "*:sda:*", "disk:*", "*:*:used", "disk", "*"]
    assert found(sources, "disk:sda:used") == ["*:*:used", "*:sda:*", "disk:*:used", "disk:sda:used"]
    assert found(sources, "disk:sdb:used") == ["*:*:used", "disk:*:used"]
    assert found(sources, "disk") == ["*", "disk"]
    assert found(sources, "cpu:idle") == []


def test_keys_with_colons_and_stars_are_told_apart() -> None:
    path = key_join(("disk", "C:\\", "used"))
    assert found([path, "disk:*:used"], path) == sorted([path, "disk:*:used"])
    assert found([r"disk:\*:used"], "disk:sda:used") == []
    assert found([r"disk:\*:used"], key_join(("disk", "*", "used"))) == [r"disk:\*:used"]
