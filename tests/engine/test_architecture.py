"""What may import what, and what may not be used at all."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ENGINE = sorted((ROOT / "qsearch").rglob("*.py"))
PACKAGES = {
    "adapters": sorted((ROOT / "adapters").rglob("*.py")),
    "reports": sorted((ROOT / "reports").rglob("*.py")),
}
ANALYSES = ROOT / "reports" / "qsearch_analyses"
SHIPPED = [*ENGINE, *PACKAGES["adapters"], *PACKAGES["reports"]]
FOREIGN = {"transformers", "peft", "plotly", "datasets", "bitsandbytes", "accelerate"} | {
    "tensorboard",
    "mlflow",
    "qsearch_coalora",
    "qsearch_loggers",
    "qsearch_quantizers",
    "qsearch_analyses",
    "qsearch_reports",
}
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


def top_level_imports(path: Path) -> set[str]:
    """Modules that a file imports when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_files_are_found() -> None:
    assert len(ENGINE) > 20
    assert all(len(files) > 3 for files in PACKAGES.values())


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: str(path.relative_to(ROOT)))
def test_engine_imports_no_model_library_and_no_adapter(path: Path) -> None:
    found = [(name, line) for name, line in imports(path) if name.split(".")[0] in FOREIGN]
    assert found == []


def test_reports_import_no_adapter_and_no_trainer_library() -> None:
    forbidden = FOREIGN - {"plotly", "qsearch_reports"} | {"torch", "ax", "botorch"}
    found = [
        (str(path), name)
        for path in PACKAGES["reports"]
        if not path.is_relative_to(ANALYSES)
        for name, _ in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert found == []


def test_of_the_reports_only_the_analyses_import_ax_and_no_adapter() -> None:
    forbidden = FOREIGN - {"plotly", "qsearch_reports", "qsearch_analyses"} | {"torch", "botorch"}
    found = {name.split(".")[0] for path in ANALYSES.glob("*.py") for name, _ in imports(path)}
    assert "ax" in found
    assert not found & forbidden


def test_quantizers_do_not_import_the_trainer_or_reports() -> None:
    found = [
        (str(path), name)
        for path in (ROOT / "adapters" / "qsearch_quantizers").rglob("*.py")
        for name, _ in imports(path)
        if name.split(".")[0] in ("qsearch_coalora", "qsearch_reports")
    ]
    assert found == []


def test_engine_has_no_import_cycle() -> None:
    """Counting imports inside functions too, so none hides a circle."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in ENGINE
        if path.stem != "__init__"
    }
    needs = {
        name: {used for used, _ in imports(path) if used in modules}
        for name, path in modules.items()
    }
    while needs:
        leaves = {name for name, used in needs.items() if not used & needs.keys()}
        assert leaves, f"modules import each other: {sorted(needs)}"
        needs = {name: used for name, used in needs.items() if name not in leaves}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    assert [name for name, _ in imports(path) if name.split(".")[0] in UNSAFE] == []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "torch.save", "pd.read_pickle", "yaml.unsafe_load")
            assert not called.endswith(("read_pickle", "to_pickle")), f"{path}:{node.lineno}"
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec"), f"{path}:{node.lineno}"
        elif isinstance(node, ast.keyword):
            allowed = node.arg != "allow_pickle" or ast.unparse(node.value) == "False"
            assert allowed, f"{path}:{node.value.lineno}"


def test_yaml_is_read_by_safe_loaders_alone() -> None:
    import yaml

    from qsearch.safe_yaml import SafeLoader

    assert issubclass(SafeLoader, yaml.SafeLoader)
    for path in SHIPPED:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "yaml.load":
                assert [ast.unparse(k.value) for k in node.keywords] == ["SafeLoader"], path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted((ROOT / "qsearch").glob("cli*.py")), ids=lambda p: p.stem)
def test_command_line_imports_heavy_libraries_only_in_commands(path: Path) -> None:
    heavy = {"torch", "ax", "botorch", "gpytorch", "pandas", "numpy", "scipy", "sqlalchemy", "ray"}
    light = {"qsearch.errors"}
    found = top_level_imports(path)
    assert not {name.split(".")[0] for name in found} & heavy
    assert {n for n in found if importlib_finds(n) and not n.startswith("qsearch.cli_")} <= light


def importlib_finds(name: str) -> bool:
    """Whether a name is a module of the engine."""
    path = ROOT.joinpath(*name.split("."))
    return name.startswith("qsearch.") and (path.is_dir() or path.with_suffix(".py").is_file())


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


def test_every_package_is_declared() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    declared = set(tool["setuptools"]["packages"])
    found = {"qsearch_studies"}
    sources = {"adapters": ROOT / "adapters", "reports": ROOT / "reports", "qsearch": ROOT}
    for folder, source in sources.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join(init.parent.relative_to(source).parts))
    assert declared == found
    assert all(importlib.util.find_spec(name) for name in declared)
