"""``init``, ``check``, ``plugins`` and the list of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsearch.spec.templates import read_template
from tests.engine.fake_study import study_values, write_study_yaml


def test_init_writes_a_ready_study(
    qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = qsearch("init")
    assert code == 0
    assert "qsearch check quickstart.yaml" in output
    assert (tmp_path / "quickstart.yaml").read_text() == read_template("quickstart")


def test_check_applies_assignments(qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml")
    assert "20 quantizable" in qsearch("check", study, "--set", "trainer.blocks=5").output


def test_check_refuses_what_an_export_format_could_not_hold(qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml")
    assert qsearch("check", study, "--format", "json").code == 0
    code, _, error = qsearch("check", study, "--format", "json", "--format", "adapter")
    assert code == 2
    assert "--format 'adapter': it is for trainers" in error


def test_the_study_yaml_in_a_directory_is_itself_a_study(finished: Path, qsearch) -> None:
    assert qsearch("check", finished / "study.yaml").code == 0
    assert study_values()["name"] in (finished / "study.yaml").read_text()


def test_plugins_names_kind_class_and_package(qsearch) -> None:
    code, output, _ = qsearch("plugins")
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    assert ["trainer", "fake", "qsearch_fake:FakeTrainer", "qsearch-fake", "1.0"] in lines
    named = {tuple(line[:2]) for line in lines}
    assert {("quantizer", "integer"), ("task", "causal-lm"), ("logger", "mlflow")} <= named


def test_help_lists_every_command(qsearch) -> None:
    output = qsearch("--help").output
    for name in ("init", "check", "run", "status", "serve", "report", "pick", "export", "list",
                 "index", "archive", "restore", "plugins"):  # fmt: skip
        assert f" {name} " in output
