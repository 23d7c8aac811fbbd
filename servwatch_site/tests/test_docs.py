"""What the documents name exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def functions_of(path: Path) -> set[str]:
    """The names of the test functions in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_test_that_the_contracts_table_names_exists() -> None:
    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 80
    for row in rows:
        shown = row.split(" | ")[-1].strip(" |")
        for part in shown.split("<br>"):
            file, names = part.split(": ", 1)
            named = set(re.findall(r"`(test_\w+)`", names))
            assert named, row
            assert named <= functions_of(ROOT / file.strip("`")), (
                file,
                named - functions_of(ROOT / file.strip("`")),
            )


def test_every_command_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"manage\.py ([a-z_]+)", text)) - {"check", "migrate", "createsuperuser"}
    known = {path.stem for path in ROOT.glob("*/management/commands/*.py")}
    assert commands and commands <= known
    for module in set(re.findall(r"python -m bench\.(\w+)", text)):
        assert (ROOT / "bench" / f"{module}.py").exists(), module
