from channels.keys import flatten, key_join, key_split, value_at


def test_it_names_every_number_by_its_path() -> None:
    value = {"cpu": {"idle": 93.1, "cores": [1, [2, {"x": 3}]]}, "up": True, "note": None}
    assert list(flatten(value)) == [
        ("cpu:idle", 93.1),
        ("cpu:cores", 1),
        ("cpu:cores", 2),
        ("cpu:cores:x", 3),
        ("up", True),
        ("note", None),
    ]


def test_a_bare_value_has_a_path_too() -> None:
    assert list(flatten(5)) == [("value", 5)]
    assert list(flatten([1, 2])) == [("value", 1), ("value", 2)]
    assert value_at(5, ("value",)) == [5]
    assert value_at(5, ("other",)) == []


def test_it_escapes_what_stands_between_levels() -> None:
    levels = ("a:b", "c\\d", "", "e")
    assert key_join(levels) == "a\\:b:c\\\\d::e"
    assert key_split(key_join(levels)) == levels
    assert key_split("lone\\") == ("lone\\",)


def test_flatten_and_value_at_agree_on_every_path() -> None:
    value = {"a:b": {"c\\": [1, {"d": 2}]}, "e": [[4], 5]}
    for path, scalar in flatten(value):
        assert scalar in value_at(value, key_split(path))


def test_nothing_lies_behind_an_empty_object_or_array() -> None:
    assert list(flatten({})) == list(flatten([])) == list(flatten({"a": {}, "b": []})) == []
    assert value_at({"a": {}}, ("a",)) == []
    assert value_at({"a": 1}, ("a", "b")) == []
