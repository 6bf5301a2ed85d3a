"""The texts of the paper's comparison: training shares no sentence with what is evaluated.

Nine in ten of SST-2's validation phrases stand word for word within a training phrase, so a loss
on them says how well training phrases are remembered. Here validation has the first of the longer
ones, the others join the test sentences, which are few, and training has no phrase that shares a
run of words with any of them. WikiText-2's training file is out of reach where there is no model
hub; nine tenths of its validation lines stand in.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from qsearch_coalora.tasks.data_files import read_table

from benchmarks.objectives import ROOT, SHARED
from qsearch.errors import InputError
from qsearch.storage.files import write_atomically

MIN_WORDS = 10
"""Words of a phrase that is evaluated; test sentences have 20 on average, all phrases 9."""

VALIDATION_PHRASES = 512

SHARED_WORDS = 4
"""Words in a row that no training phrase shares with one that is evaluated."""

TRAINING_SHARE = 0.9
"""Share of the lines of running text that is trained on."""

RULES = (MIN_WORDS, VALIDATION_PHRASES, SHARED_WORDS, TRAINING_SHARE)
"""What decides the texts."""


def environment() -> dict[str, str]:
    """Return the environment that plans are read with: where data and prepared texts are."""
    text = ROOT / "runs" / "paper" / "text"
    return {"QSEARCH_DATA": str(SHARED), "PAPER_TEXT": str(text), **os.environ}


def prepare_text(study: Path) -> None:
    """Write the texts that a plan trains and validates on, where it has its own.

    Args:
        study: YAML of the plan.

    Raises:
        InputError: If the data is absent.
    """
    found = environment()
    text = study.read_text(encoding="utf-8")
    for source, write in _TEXTS.items():
        if f"${{PAPER_TEXT}}/{source}-" in text:
            write(Path(found["QSEARCH_DATA"]) / source, Path(found["PAPER_TEXT"]))


def _write_sst2(data: Path, folder: Path) -> None:
    train, dev, test = (
        read_table(_existing(data / f"{name}.tsv")) for name in ("train", "dev", "test")
    )
    long = dev[[len(text.split()) >= MIN_WORDS for text in dev["sentence"]]]
    validation, rest = long.head(VALIDATION_PHRASES), long.iloc[VALIDATION_PHRASES:]
    test = pd.concat([test, _apart(rest, validation)])
    tables = {
        "train": _apart(train, pd.concat([validation, test])),
        "validation": validation,
        "test": test,
    }
    for name, table in tables.items():
        text = table.to_csv(sep="\t", index=False, quoting=csv.QUOTE_NONE)
        _write(folder / f"sst2-{name}.tsv", text)


def _apart(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose sentence shares no run of words with any of another table."""
    taken = {run for text in other["sentence"] for run in _runs(text)}
    return table[[taken.isdisjoint(_runs(text)) for text in table["sentence"]]]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {
        tuple(words[start : start + SHARED_WORDS]) for start in range(len(words) - SHARED_WORDS + 1)
    }


def _write_wikitext2(data: Path, folder: Path) -> None:
    text = _existing(data / "valid.txt").read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    cut = int(TRAINING_SHARE * len(lines))
    for name, part in (("train", lines[:cut]), ("validation", lines[cut:])):
        _write(folder / f"wikitext2-{name}.txt", "".join(part))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} does not exist; name its data folder by QSEARCH_DATA")
    return path


_TEXTS: Mapping[str, Callable[[Path, Path], None]] = {
    "sst2": _write_sst2,
    "wikitext2": _write_wikitext2,
}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of two runs side by side, each puts a whole file in place.
    write_atomically(path, lambda own: own.write_text(text, encoding="utf-8"))
