"""Exit codes: 2 with one line for bad input, 1 for a failure, and no traceback."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from qsearch.cli.rare_collection import rare_collection
from tests.engine.fake_study import imported_by, write_study_yaml


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"search__rounds": 0}, "search.rounds"), ({"trainer__block": 1}, "trainer.block: unknown")],
)
def test_a_wrong_study_is_refused_and_named(
    changes: dict[str, int], error: str, qsearch, tmp_path: Path
) -> None:
    study = write_study_yaml(tmp_path / "my.yaml", **changes)
    for arguments in (["check", study], ["run", study, "--out", tmp_path / "run"]):
        assert f"{study}: {error}" in qsearch(*arguments).refused()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["check", "none.yaml"], "none.yaml"),
        (["run", "none.yaml", "--out", "run"], "none.yaml"),
        (["status", "none"], "none"),
        (["pick", "none", "--bits", "3"], "none"),
        (["report", "none"], "none"),
        (["export", "none", "--bits", "3", "--to", "out"], "none"),
        (["init", "nope"], "no ready study is called 'nope'; there are: ["),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_does_not_exist_is_refused(
    arguments: list[str], error: str, qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error in qsearch(*arguments).refused()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["pick"], ["pick", ".", "--bits", "x"], ["pick", ".", "--bits", "-1"], ["nope"]]
)
def test_wrong_usage_exits_2(arguments: list[str], qsearch) -> None:
    code, _, errors = qsearch(*arguments)
    assert code == 2
    assert "Usage:" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["run", "my.yaml", "--out", "my.yaml/run"], "cannot be written"),
        (["run", "my.yaml", "--out", "run", "--worker-gpus", "1"], "need --workers or --address"),
        (["run", "my.yaml", "--out", "run", "--logger", "paper"], "no logger is called 'paper'"),
        (["init", "--out", "my.yaml"], "my.yaml exists; give another file by --out"),
        (["init", "--out", "my.yaml/x"], "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    arguments: list[str], error: str, qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study_yaml(tmp_path / "my.yaml")
    monkeypatch.chdir(tmp_path)
    assert error in qsearch(*arguments).refused()
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_a_failure_exits_1(qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml", trainer__faults=[{"kind": "error"}])
    code, _, errors = qsearch("run", study, "--out", tmp_path / "run")
    assert code == 1
    assert "qsearch: round 1: 5 of 8 evaluations failed" in errors
    assert "Traceback" not in errors


def test_light_commands_start_without_heavy_imports(finished: Path) -> None:
    heavy = {"torch", "ax", "transformers", "botorch"}
    also = {"gpytorch", "numpy", "pandas", "scipy", "sqlalchemy", "ray"}
    for command, modules in (
        (["--help"], heavy | also),
        (["pick", str(finished), "--bits", "3", "--json"], heavy),
        (["status", str(finished)], heavy),
    ):
        assert imported_by(command, modules) == "[]"


def test_garbage_is_searched_for_rarely_while_a_command_imports_and_then_as_before() -> None:
    before = gc.get_threshold()
    with rare_collection():
        assert gc.get_threshold()[0] >= 100 * before[0]
    assert gc.get_threshold() == before
