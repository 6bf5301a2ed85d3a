"""Broken study directories: every command answers in words, and a resumed study is never wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import strategies as st

from qsearch.storage.parquet import write_table
from tests.engine.fake_study import command_here, results, write_study_yaml
from tests.fuzz.broken_input import (
    Sandbox,
    changed_bytes,
    changed_table,
    changed_tree,
    fuzz,
    one_line,
    write_forged,
)

READERS: dict[str, Callable[[Path], list[str | Path]]] = {
    "status": lambda place: ["status", place],
    "status --json": lambda place: ["status", place, "--json"],
    "pick": lambda place: ["pick", place, "--bits", "4"],
    "pick --json": lambda place: ["pick", place, "--bits", "4", "--json"],
    "export": lambda place: [
        *("export", place, "--bits", "4", "--format", "json", "--to", place / "exported")
    ],
    "list": lambda place: ["list", place.parent],
    "archive": lambda place: ["archive", place, "--to", place / "archive.zip"],
    "report": lambda place: ["report", place],
}

SPECIAL: dict[str, Callable[[Path, Sandbox], object]] = {
    "missing": lambda path, sandbox: None,
    "folder": lambda path, sandbox: path.mkdir(),
    "pipe": lambda path, sandbox: os.mkfifo(path),
    "link outside": lambda path, sandbox: path.symlink_to(sandbox.root / "outside.txt"),
    "link to itself": lambda path, sandbox: path.symlink_to(path),
    "deep": lambda path, sandbox: path.write_text("[" * 100_000),
    "long": lambda path, sandbox: path.write_text("1" * 100_000),
}
"""What may be in the place of a file."""


def study_files(directory: Path) -> list[str]:
    """Every file of a study but its report, by its path in the directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(directory)) for path in files if path.suffix != ".html")


@st.composite
def break_file(draw: st.DrawFn, directory: Path) -> tuple[str, Any]:
    """Which file of a directory to break, and how: its new bytes, or what happens to it."""
    name = draw(st.sampled_from(study_files(directory)))
    kind = draw(st.sampled_from(["bytes", "bytes", "bytes", "values", "values", "special"]))
    if kind == "special":
        return name, draw(st.sampled_from(list(SPECIAL)))
    content = (directory / name).read_bytes()
    if kind == "values" and ".json" in name and content:
        lines = content.decode().splitlines() if ".jsonl" in name else [content.decode()]
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = json.dumps(draw(changed_tree(json.loads(lines[at]))))
        return name, "\n".join(lines).encode()
    if kind == "values" and ".parquet" in name:
        return name, draw(changed_table(pd.read_parquet(directory / name)))
    return name, draw(changed_bytes(content))


def apply(directory: Path, name: str, change: Any, sandbox: Sandbox) -> None:
    path = directory / name
    if isinstance(change, bytes):
        path.write_bytes(change)
        return
    if isinstance(change, pd.DataFrame):
        write_table(path, change)
        return
    path.unlink()
    SPECIAL[change](path, sandbox)


@fuzz("study directories: {reader}", 220, data=st.data(), reader=st.sampled_from(sorted(READERS)))
def test_a_broken_directory_is_read_or_refused_in_one_line(
    data: st.DataObject, reader: str, finished: Path, sandbox: Sandbox
) -> None:
    name, change = data.draw(break_file(finished))
    with sandbox.copy_of(finished) as place:
        apply(place, name, change, sandbox)
        one_line(command_here(*READERS[reader](place)))


@fuzz("study directories: forged", 200, data=st.data(), reader=st.sampled_from(sorted(READERS)))
def test_files_of_a_forger_are_read_or_refused_in_one_line(
    data: st.DataObject, reader: str, finished: Path, sandbox: Sandbox
) -> None:
    """Nothing but its values says that such a file is wrong."""
    readable = ["trials.parquet", "state/study.json", "state/footprint.json", "state/sessions.json"]
    name = data.draw(st.sampled_from(readable))
    with sandbox.copy_of(finished) as place:
        path = place / name
        if path.suffix == ".parquet":
            write_table(path, data.draw(changed_table(pd.read_parquet(path))))
        else:
            write_forged(path, data.draw(changed_tree(json.loads(path.read_text()))))
        one_line(command_here(*READERS[reader](place)))


@fuzz("study directories: run", 20, data=st.data())
def test_a_study_resumed_from_a_broken_directory_ends_as_it_would_have_or_says_why_not(
    data: st.DataObject, finished: Path, unfinished: Path, sandbox: Sandbox
) -> None:
    name, change = data.draw(break_file(unfinished))
    with sandbox.copy_of(unfinished) as place:
        study = write_study_yaml(place / "my.yaml")
        apply(place, name, change, sandbox)
        answer = command_here("run", study, "--out", place)
        if answer.code == 0:
            pd.testing.assert_frame_equal(results(place), results(finished))
        else:
            assert answer.code in (1, 2), answer
            last = answer.errors.rstrip("\n").rsplit("\n", 1)[-1]
            assert last.startswith("qsearch: "), answer
            assert "Traceback" not in answer.output + answer.errors
