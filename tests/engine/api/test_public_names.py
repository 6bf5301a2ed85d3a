"""What ``import qsearch`` offers: its names, what importing them costs, and their examples."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import qsearch
from tests.engine.api.conftest import Loss

NAMES = [
    "InputError",
    "Metric",
    "ObjectiveError",
    "Observation",
    "QsearchError",
    "Space",
    "Study",
    "Trial",
    "__version__",
    "create_study",
    "load_study",
    "quantized",
    "run_study",
]
METHODS = {
    "Space": [
        "average_bits",
        "correlation",
        "decode",
        "digest",
        "file_bytes",
        "file_bytes_interval",
        "footprint",
        "from_model",
        "interval",
        "quantization_error",
        "sample",
        "scores",
    ],
    "Study": [
        "ask",
        "best",
        "close",
        "configurations_dataframe",
        "front",
        "optimize",
        "plot_front",
        "report",
        "tell",
        "trials_dataframe",
    ],
}
EXAMPLES = doctest.DocTestFinder(recurse=False)


def test_the_public_names_are_these() -> None:
    assert qsearch.__all__ == NAMES
    assert set(NAMES) <= set(dir(qsearch))


@pytest.mark.parametrize("name", METHODS)
def test_the_public_methods_are_these(name: str) -> None:
    # Cached properties count as routines.
    members = inspect.getmembers(getattr(qsearch, name), inspect.isroutine)
    assert [member for member, _ in members if not member.startswith("_")] == METHODS[name]


def test_the_version_is_that_of_the_distribution() -> None:
    assert qsearch.__version__ == version("qsearch-llm")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'qsearch' has no attribute 'optimise'"):
        qsearch.optimise  # noqa: B018


def test_importing_qsearch_imports_no_other_package() -> None:
    script = "import sys; old = set(sys.modules); import qsearch; print(*set(sys.modules) - old)"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in loaded} <= {"qsearch", *sys.stdlib_module_names}


def documented() -> list[tuple[str, object]]:
    """Public functions, classes and methods."""
    own = [(name, getattr(qsearch, name)) for name in NAMES if name != "__version__"]
    methods = [
        (f"{name}.{method}", getattr(getattr(qsearch, name), method))
        for name, methods in METHODS.items()
        for method in methods
    ]
    return own + methods


@pytest.fixture(scope="module")
def study(
    space: qsearch.Space, loss: Loss, tmp_path_factory: pytest.TempPathFactory
) -> qsearch.Study:
    """A study with results, which examples add to."""
    directory = tmp_path_factory.mktemp("examples") / "study"
    study = qsearch.create_study(space, directory, bits=(3.0, 7.0), initial=4)
    study.optimize(loss, trials=4)
    return study


@pytest.mark.parametrize(("name", "member"), documented(), ids=[name for name, _ in documented()])
def test_each_name_has_an_example_that_works(
    name: str,
    member: object,
    space: qsearch.Space,
    study: qsearch.Study,
    loss: Loss,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"space": space, "study": study, "loss": loss, "configuration": space.sample()}
    tests = [test for test in EXAMPLES.find(member, name, globs=names) if test.examples]
    assert tests, "its docstring has no example"
    for test in tests:
        report: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(
            test, out=report.append
        )
        assert not report, "".join(report)
