"""Rules that shipped code keeps so that files of others stay data: found by reading the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted(
    path for folder in ("qsearch", "adapters", "reports") for path in (ROOT / folder).rglob("*.py")
)
TEMPLATES = sorted(
    path
    for path in (ROOT / "reports" / "qsearch_reports" / "templates").iterdir()
    if path.name.endswith((".html", ".j2"))
)
MODEL_SOURCE = ROOT / "adapters" / "qsearch_coalora" / "model_source.py"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with what is called as it is written."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def given(path: Path, name: str) -> list[str]:
    """What a file gives under a name, as an argument or in a dictionary, as it is written."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg == name:
            found.append(ast.unparse(node.value))
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name:
                    found.append(ast.unparse(value))
    return found


def test_the_files_are_found() -> None:
    assert len(SHIPPED) > 100
    assert len(TEMPLATES) >= 2


def test_code_of_models_runs_in_one_place_where_the_study_says_so() -> None:
    """``trust_remote_code`` is false but in :class:`ModelSource`, which has it of the study."""
    for path in SHIPPED:
        allowed = ["self.remote_code"] if path == MODEL_SOURCE else []
        assert [value for value in given(path, "trust_remote_code") if value != "False"] == allowed
    assert given(MODEL_SOURCE, "remote_code") == ["remote_code"]
    assert "remote_code = model.remote_code is not None" in MODEL_SOURCE.read_text(encoding="utf-8")
    importing = [
        name_of(path)
        for path in SHIPPED
        if "get_class_from_dynamic_module" in path.read_text(encoding="utf-8")
    ]
    assert importing == ["adapters/qsearch_coalora/models.py"]


FORBIDDEN = re.compile(
    r"os\.(system|popen|exec\w+|spawn\w+)|tempfile\.mktemp|mktemp|shutil\.unpack_archive"
    r"|.*\.(extract|extractall)|tarfile\..*|eval|exec|compile|__import__|.*\.to_pickle"
)
"""Calls that hand text to a shell or an interpreter, or unpack archives unchecked."""


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_no_call_hands_data_to_a_shell_an_interpreter_or_an_unpacker(path: Path) -> None:
    assert [name for name, _ in calls(path) if FORBIDDEN.fullmatch(name)] == []
    assert [value for value in given(path, "shell") if value != "False"] == []


SQL = re.compile(r"(.*\.)?(text|execute|executemany|executescript|exec_driver_sql|literal_column)")


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_sql_is_never_put_together_from_strings(path: Path) -> None:
    """Values are bound: no statement is formatted, added up or interpolated."""
    for name, call in calls(path):
        if not SQL.fullmatch(name) or not call.args:
            continue
        for node in ast.walk(call.args[0]):
            formatted = isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "format"
            )
            joined = isinstance(node, ast.BinOp) and any(
                isinstance(side, ast.Constant) and isinstance(side.value, str)
                for side in (node.left, node.right)
            )
            assert not formatted, f"{path}:{call.lineno}"
            assert not joined, f"{path}:{call.lineno}"


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_templates_are_rendered_with_escapes(path: Path) -> None:
    for name, call in calls(path):
        if name.endswith(("jinja2.Environment", "jinja2.Template")):
            found = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert found.get("autoescape") == "True", f"{path}:{call.lineno}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_switches_escapes_off(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape", text)
    if path.suffix == ".j2":  # A page that is one file brings its policy.
        assert '<meta http-equiv="Content-Security-Policy" content="{{ content_policy }}">' in text
    else:  # Others are served with one, which lets no inline script run.
        assert re.findall(r"<script(?! src=)|\son\w+=|javascript:", text) == []
