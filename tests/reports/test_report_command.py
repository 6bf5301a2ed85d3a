"""The command ``report`` and its formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from qsearch_reports.summaries.markdown import markdown_report
from qsearch_reports.summaries.text import text_report
from typer.testing import CliRunner

from qsearch.cli import main as cli
from qsearch.errors import InputError
from qsearch.storage.study_record import StudyRecord
from tests.reports.realistic_studies import make_record


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return make_record(rounds=1, trials_per_round=6)


@pytest.fixture
def directory(study: Callable[..., Path], record: StudyRecord) -> Path:
    return study(record)


@pytest.mark.parametrize(
    ("name", "function"), [("text", text_report), ("markdown", markdown_report)]
)
def test_summaries_go_to_standard_output_and_write_no_file(
    name: str, function: Callable[[list[Path]], str], directory: Path
) -> None:
    before = sorted(directory.rglob("*"))
    done = CliRunner().invoke(cli.app, ["report", str(directory), "--format", name])
    assert done.exit_code == 0
    assert done.stdout == function([directory])
    assert sorted(directory.rglob("*")) == before


def test_a_summary_goes_to_a_file_where_one_is_named(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "summary.md"
    arguments = ["report", str(directory), "--format", "markdown", "--out", str(out)]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.stdout == f"report: {out}\n"
    assert out.read_text(encoding="utf-8") == markdown_report([directory])


def test_a_page_is_in_its_study_and_that_of_several_replaces_none_of_their_own(
    study: Callable[..., Path], record: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directories = [str(study(record, name)) for name in ("a", "b")]
    done = CliRunner().invoke(cli.app, ["report", *directories])
    assert done.stdout == "report: compare.html\n"
    assert "2 studies compared" in (tmp_path / "compare.html").read_text(encoding="utf-8")
    pages = [Path(directory, "report.html") for directory in directories]
    assert not any(page.exists() for page in pages)
    CliRunner().invoke(cli.app, ["report", directories[0]])
    assert [page.exists() for page in pages] == [True, False]


@pytest.mark.parametrize("name", ["html", "text"])
def test_a_report_that_cannot_be_written_is_refused(
    name: str, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    out = str(tmp_path / "file" / "report")
    done = CliRunner().invoke(cli.app, ["report", str(directory), "--format", name, "--out", out])
    assert isinstance(done.exception, InputError)
    assert "cannot be written" in str(done.exception)


def test_other_formats_are_refused_and_named(directory: Path) -> None:
    done = CliRunner().invoke(cli.app, ["report", str(directory), "--format", "pdf"])
    assert done.exit_code == 2
    assert all(name in done.output for name in ("html", "text", "markdown"))
