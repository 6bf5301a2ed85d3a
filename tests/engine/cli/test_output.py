"""What is printed of files that others wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsearch._text import without_controls
from qsearch.cli.output import fail, print_line, print_table
from tests.engine.support import command, write_study_yaml

CLEAR_SCREEN = "\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CLEAR_SCREEN, "\\x1b[2J"),
        ("a\rb", "a\\rb"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("ü → 東京", "ü → 東京"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert without_controls(text) == shown


def test_lines_and_cells_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(f"one{CLEAR_SCREEN}\ntwo")
    print_table(("name",), [(f"three{CLEAR_SCREEN}",)])
    assert capsys.readouterr().out.split() == ["one\\x1b[2J", "two", "name", "three\\x1b[2J"]


def test_an_error_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(f"no field\nqsearch: all is well{CLEAR_SCREEN}", 2) == 2
    assert capsys.readouterr().err == "qsearch: no field qsearch: all is well\\x1b[2J\n"


def test_a_studys_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "study.yaml", name=f"quiet{CLEAR_SCREEN}")
    done = command(["check", study])
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "quiet\\x1b[2J" in done.stdout
