"""What is printed of files that others wrote cannot steer the terminal."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from qsearch._text import without_controls
from qsearch.cli import console as cli_console
from qsearch.cli.console import (
    SafeConsole,
    fail,
    label_table,
    print_line,
    print_table,
    write_any_character,
)

CLEAR_SCREEN = "\x1b[2J"
SHOWN = "\\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CLEAR_SCREEN, SHOWN),
        ("a\rb", "a\\rb"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("ü → 東京", "ü → 東京"),
    ],
)
def test_what_a_terminal_would_obey_is_an_escape(text: str, shown: str) -> None:
    assert without_controls(text) == shown


def titled_table() -> Table:
    """A table as the reports make them: of rich's own texts."""
    table = Table(title=Text(CLEAR_SCREEN))
    table.add_column(Text(CLEAR_SCREEN))
    table.add_row(Text("\u202ename"))
    return table


@pytest.mark.parametrize(
    "printed",
    [CLEAR_SCREEN, Text(CLEAR_SCREEN), titled_table(), label_table([("name", CLEAR_SCREEN)])],
    ids=["str", "Text", "Table", "label_table"],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_shows_it_wherever_it_is(printed: object, terminal: bool) -> None:
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=terminal, width=80).print(printed)
    assert SHOWN in stream.getvalue()
    assert CLEAR_SCREEN not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()


def test_lines_and_cells_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(f"one{CLEAR_SCREEN}\ntwo")
    print_table(("name", "[b]"), [(f"three{CLEAR_SCREEN}", "[red]x")])
    shown = capsys.readouterr().out.split()
    assert shown == [f"one{SHOWN}", "two", "name", "[b]", f"three{SHOWN}", "[red]x"]


def test_an_error_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(f"no field\nqsearch: all is well{CLEAR_SCREEN}", 2) == 2
    assert capsys.readouterr().err == "qsearch: no field qsearch: all is well\\x1b[2J\n"


@pytest.mark.parametrize(("width", "is_whole"), [(40, True), (22, False), (16, False)])
def test_on_a_narrow_terminal_headings_break_and_then_names_fold(
    width: int, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    console = SafeConsole(file=stream, width=width, force_terminal=True)
    monkeypatch.setattr(cli_console, "SafeConsole", lambda: console)
    print_table(("layer", "group_size"), [("block.1.output", "128")])
    lines = stream.getvalue().splitlines()
    assert ("group_size" in lines[0]) == is_whole
    assert "…" not in "".join(lines)
    assert "block.1.output" in "".join(line.split()[0] for line in lines if line.split())


def test_characters_that_the_output_lacks_are_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", output)
    write_any_character()
    print_line("東京 → …")
    assert output.buffer.getvalue() == b"\\u6771\\u4eac \\u2192 \\u2026\n"
