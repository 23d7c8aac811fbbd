"""Every text that people read is in the Japanese catalogue, translated, with its placeholders.

A text is told by its context and its singular: gettext looks it up under these.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po

Text = tuple[str, str]

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "locale" / "ja" / "LC_MESSAGES" / "django.po"
ROOMS = ("servwatch_site", "tokens", "channels", "devices", "events", "streams", "console")

PLAIN_CALLS = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy"}
CONTEXT_CALLS = {"pgettext", "pgettext_lazy", "npgettext", "npgettext_lazy"}

PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%%|\{\w*\}")
QUOTED = r"""(?:"[^"]*"|'[^']*')"""
CONTEXT = re.compile(rf"\bcontext\s+({QUOTED})")
TRANSLATE = re.compile(rf"\{{%\s*trans(?:late)?\s+({QUOTED})(.*?)%\}}")
UNDERSCORE = re.compile(rf"\b_\(({QUOTED})\)")
BLOCK = re.compile(
    r"\{%\s*blocktrans(?:late)?\b(.*?)%\}(.*?)\{%\s*(?:plural|endblocktrans(?:late)?)\b", re.DOTALL
)
VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def test_every_entry_of_the_catalogue_is_translated() -> None:
    assert [message.id for message in _messages() if not all(_strings(message))] == []


def test_no_entry_of_the_catalogue_is_a_guess() -> None:
    assert not _catalogue().fuzzy
    assert [message.id for message in _messages() if message.fuzzy] == []


def test_every_translation_has_the_placeholders_of_its_text() -> None:
    wrong = [
        (message.id, text)
        for message in _messages()
        for text in _strings(message)
        if _placeholders(text) != _placeholders(_ids(message)[-1])
    ]
    assert wrong == []


def test_every_text_of_the_templates_is_translated() -> None:
    found = {
        text
        for ending in ("html", "txt")
        for path in (ROOT / "templates").rglob(f"*.{ending}")
        for text in _texts_of_template(path.read_text(encoding="utf-8"))
    }
    assert found, "no template has a text any more: this test guards nothing"
    assert found - _catalogued() == set()


def test_every_text_of_the_python_rooms_is_translated() -> None:
    found = {
        text
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if "tests" not in path.parts
        for text in _texts_of_python(path.read_text(encoding="utf-8"))
    }
    assert found, "no room has a text any more: this test guards nothing"
    assert found - _catalogued() == set()


def test_texts_of_templates_are_found_in_every_way_of_writing_them() -> None:
    template = """{% translate "a" %}{% translate 'b' context "c" as d %}{{ _("e") }}
        {% blocktranslate count n=f %}{{ n }} g{% plural %}{{ n }} gs{% endblocktranslate %}
        {% blocktranslate trimmed context 'h' %}
            i is
            5%
        {% endblocktranslate %}"""
    expected = {("", "a"), ("c", "b"), ("", "e"), ("", "%(n)s g"), ("h", "i is 5%%")}
    assert set(_texts_of_template(template)) == expected


def test_texts_of_python_are_found_in_every_way_of_writing_them() -> None:
    source = """_("a" "b"); translation.gettext("c"); ngettext("d", "ds", n); pgettext("e", "f"); _(g); other("h")"""
    assert set(_texts_of_python(source)) == {("", "ab"), ("", "c"), ("", "d"), ("e", "f")}


@cache
def _catalogue() -> Catalog:
    with CATALOGUE.open("rb") as source:
        return read_po(source, locale="ja")


def _messages() -> Iterator[Message]:
    """The entries but the first, which is the head of the file."""
    return (message for message in _catalogue() if message.id)


def _ids(message: Message) -> tuple[str, ...]:
    return (message.id,) if isinstance(message.id, str) else tuple(message.id)


def _strings(message: Message) -> tuple[str, ...]:
    text = message.string or ""
    return (text,) if isinstance(text, str) else tuple(text)


def _placeholders(text: str) -> list[str]:
    return sorted(PLACEHOLDER.findall(text))


def _catalogued() -> set[Text]:
    return {(message.context or "", _ids(message)[0]) for message in _messages()}


def _texts_of_template(template: str) -> Iterator[Text]:
    for text, options in TRANSLATE.findall(template):
        yield _context(options), _escaped(text[1:-1])
    for text in UNDERSCORE.findall(template):
        yield "", _escaped(text[1:-1])
    for options, body in BLOCK.findall(template):
        yield _context(options), _text_of_block(body, trimmed="trimmed" in options.split())


def _context(options: str) -> str:
    found = CONTEXT.search(options)
    return found[1][1:-1] if found else ""


def _escaped(text: str) -> str:
    """Django doubles percent signs of templates, as the catalogue's texts are formats."""
    return text.replace("%", "%%")


def _text_of_block(body: str, *, trimmed: bool) -> str:
    text = VARIABLE.sub(r"%(\1)s", _escaped(body))
    return re.sub(r"\s*\n\s*", " ", text.strip()) if trimmed else text


def _texts_of_python(source: str) -> Iterator[Text]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        literals = [one.value for one in node.args if isinstance(one, ast.Constant)]
        match _name(node.func), literals:
            case name, [str(text), *_] if name in PLAIN_CALLS:
                yield "", text
            case name, [str(context), str(text), *_] if name in CONTEXT_CALLS:
                yield context, text


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
