"""Rules that shipped code keeps so that files of others stay data: found by reading the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qsearch import experiment

ROOT = Path(__file__).parent.parent.parent
SHIPPED = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("qsearch", "adapters", "reports")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
"""Code by the name of its file."""
TEMPLATES = sorted(
    path
    for path in (ROOT / "reports" / "qsearch_reports" / "page" / "templates").iterdir()
    if path.name.endswith((".html", ".j2"))
)
MODEL_SOURCE = "adapters/qsearch_coalora/models/source.py"


def calls(code: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call in code, with what is called as it is written."""
    for node in ast.walk(code):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def given(code: ast.AST, name: str) -> list[str]:
    """What code gives under a name, as an argument or in a dictionary, as it is written."""
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.keyword) and node.arg == name:
            found.append(ast.unparse(node.value))
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name:
                    found.append(ast.unparse(value))
    return found


def test_shipped_code_and_templates_are_found() -> None:
    assert len(SHIPPED) > 100
    assert len(TEMPLATES) >= 2


def test_code_of_models_runs_in_one_place_where_the_study_says_so() -> None:
    """``trust_remote_code`` is false but in :class:`ModelSource`, which has it of the study."""
    for name, code in SHIPPED.items():
        allowed = ["self.remote_code"] if name == MODEL_SOURCE else []
        assert [value for value in given(code, "trust_remote_code") if value != "False"] == allowed
    source = SHIPPED[MODEL_SOURCE]
    assert given(source, "remote_code") == ["remote_code"]
    assert "remote_code = model.remote_code is not None" in ast.unparse(source)
    importing = [n for n in SHIPPED if "get_class_from_dynamic_module" in (ROOT / n).read_text()]
    assert importing == ["adapters/qsearch_coalora/models/loading.py"]


FORBIDDEN = re.compile(
    r"os\.(system|popen|exec\w+|spawn\w+)|tempfile\.mktemp|mktemp|shutil\.unpack_archive"
    r"|.*\.(extract|extractall)|tarfile\..*|eval|exec|compile|__import__|.*\.to_pickle"
    r"|(.*\.)?(c?[pP]ickle|dill|cloudpickle|joblib|shelve|marshal)\..*|.*\.(Unpickler|read_pickle)"
    r"|torch\.save|yaml\.(unsafe|full)_load(_all)?|.*\.load_module|runpy\..*"
)
"""Calls that hand data to a shell or an interpreter, or unpack archives unchecked."""

UNPICKLING = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
"""Loaders that unpickle unless they are told not to, and how they are told."""


def unpickles(name: str, call: ast.Call) -> bool:
    """Whether a loader may unpickle what it loads; it must say itself that it does not."""
    loader = name.replace("numpy.", "np.")
    if loader not in UNPICKLING:
        return False
    option, safe = UNPICKLING[loader]
    said = [ast.unparse(word.value) for word in call.keywords if word.arg == option]
    return said != [safe]


def hands_over(code: ast.AST) -> list[str]:
    """Calls in code that hand data to a shell, an interpreter, an unpickler or an unpacker."""
    return [
        name
        for name, call in calls(code)
        if FORBIDDEN.fullmatch(name)
        or unpickles(name, call)
        or any(
            word.arg in ("shell", "allow_pickle") and ast.unparse(word.value) != "False"
            for word in call.keywords
        )
    ]


def test_no_call_hands_data_to_a_shell_an_interpreter_or_an_unpacker() -> None:
    assert {name: found for name, code in SHIPPED.items() if (found := hands_over(code))} == {}
    assert [name for name, code in SHIPPED.items() if {*given(code, "shell")} - {"False"}] == []


@pytest.mark.parametrize(
    ("code", "is_seen"),
    [
        ("pickle.load(stream)", True),
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True), np.load(path, allow_pickle=False)", False),
        ("numpy.load(path)", True),
        ("np.lib.npyio.anything(path, allow_pickle=flag)", True),
        ("yaml.unsafe_load(text)", True),
        ("subprocess.run(text, shell=True)", True),
        ("eval(text)", True),
        ("archive.extractall(path)", True),
    ],
)
def test_a_call_that_hands_data_over_is_seen(code: str, is_seen: bool) -> None:
    assert bool(hands_over(ast.parse(code))) == is_seen


WRITTEN_SQL = re.compile(r"((sqlalchemy|sa)\.)?text|(.*\.)?(exec_driver_sql|literal_column)")
"""What takes SQL as text: that must be written where it is called."""

EXECUTES = re.compile(r".*\.(execute|executemany|executescript|scalar|scalars)")
"""What takes a statement: an expression of SQLAlchemy."""

BUILDS_TEXT = {"format", "join", "replace", "strip", "str", "dumps", "read", "read_text"}


def is_expression(node: ast.AST, whole: ast.AST, depth: int = 0) -> bool:
    """Whether something is an expression of SQLAlchemy, and no text, as far as code tells.

    That is a call of anything but what makes text, or a name that is given nothing else.
    """
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).rpartition(".")[2] not in BUILDS_TEXT
    if not isinstance(node, ast.Name) or depth > 3:
        return False
    values = [
        found.value
        for found in ast.walk(whole)
        if isinstance(found, ast.Assign)
        and any(isinstance(to, ast.Name) and to.id == node.id for to in found.targets)
    ]
    return bool(values) and all(is_expression(value, whole, depth + 1) for value in values)


OF_DATABASES = re.compile(rf"sqlalchemy|sqlite3|psycopg|{re.escape(experiment.__name__)}\b")
"""What code imports that may have a database run something."""


def puts_sql_together(code: ast.AST) -> list[int]:
    """Lines of code that have a database run what is not written there."""
    uses_sql = any(
        isinstance(node, ast.ImportFrom | ast.Import) and OF_DATABASES.search(ast.unparse(node))
        for node in ast.walk(code)
    )
    found = []
    for name, call in calls(code) if uses_sql else ():
        if not call.args:
            continue
        first = call.args[0]
        if WRITTEN_SQL.fullmatch(name) and not isinstance(first, ast.Constant):
            found.append(call.lineno)
        if EXECUTES.fullmatch(name) and not is_expression(first, code):
            found.append(call.lineno)
    return found


def test_sql_is_never_put_together_from_strings() -> None:
    """Values are bound: no statement is formatted, added up or interpolated."""
    assert {n: lines for n, code in SHIPPED.items() if (lines := puts_sql_together(code))} == {}


@pytest.mark.parametrize(
    "import_", ["from sqlalchemy import text", "from qsearch.experiment.url import open_engine"]
)
@pytest.mark.parametrize(
    ("code", "is_seen"),
    [
        ("connection.execute(text(f'DROP {name}'))", True),
        ("query = f'SELECT {name}'\nconnection.execute(text(query))", True),
        ("connection.execute(' '.join(words))", True),
        ("connection.execute('SELECT ' + name)", True),
        ("query = 'SELECT %s' % name\nconnection.execute(query)", True),
        ("def ask(query):\n    return connection.execute(query)", True),
        ("connection.exec_driver_sql(query)", True),
        ("query = text('SELECT 1')\nconnection.execute(query, {'key': key})", False),
        ("connection.execute(select(table).where(table.c.name == name))", False),
    ],
)
def test_sql_that_is_put_together_is_seen(code: str, is_seen: bool, import_: str) -> None:
    assert bool(puts_sql_together(ast.parse(f"{import_}\n{code}"))) == is_seen


def test_templates_are_rendered_in_one_place_with_escapes() -> None:
    # Prompts of users' task files are text for a model, rendered in a sandbox.
    (escapes,) = [
        {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}.get("autoescape")
        for code in SHIPPED.values()
        for name, call in calls(code)
        if re.fullmatch(r"(jinja2\.)?((?!Sandboxed)\w*Environment|Template)", name)
    ]
    assert escapes == "True"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_switches_escapes_off(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape", text)
    if '<script type="module">' in text:  # A page that is one file brings its policy.
        assert '<meta http-equiv="Content-Security-Policy" content="{{ content_policy }}">' in text
    else:  # Others are parts of such a page, or served with one, which lets no inline script run.
        assert re.findall(r"<script(?! src=)|\son\w+=|javascript:", text) == []
