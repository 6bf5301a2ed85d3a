"""What may import what, and what may not be used at all."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted(
    path for folder in ("qsearch", "adapters", "reports") for path in (ROOT / folder).rglob("*.py")
)
UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, functions included, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno
            # ``from package import module`` imports the module too.
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_small_say_what_they_are_and_import_nothing_that_unpickles(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    assert ast.get_docstring(ast.parse(text))
    assert [name for name, _ in imports(path) if name.split(".")[0] in UNSAFE] == []


def test_yaml_is_read_by_safe_loaders_alone() -> None:
    for path in SHIPPED:
        assert "yaml" not in {name.split(".")[0] for name, _ in imports(path)}, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "YAML":
                assert "typ='safe'" in ast.unparse(node), path


def entry_points() -> list[tuple[str, str, str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {**project["entry-points"], "scripts": project["scripts"]}
    return [(group, name, value) for group, v in groups.items() for name, value in v.items()]


@pytest.mark.parametrize(("group", "name", "value"), entry_points())
def test_entry_points_resolve(group: str, name: str, value: str) -> None:
    module, _, attribute = value.partition(":")
    found = getattr(import_module(module), attribute)
    assert callable(found)
    if group.removeprefix("qsearch.") in ("quantizers", "trainers", "tasks"):
        assert issubclass(found.Options, object)
        assert found.Options.model_config["extra"] == "forbid"
