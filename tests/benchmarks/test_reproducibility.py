"""How two studies are compared."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.reproducibility import compare, tensors_of
from qsearch.storage.study_record import read_study, write_study


def with_trials(finished: Path, folder: Path, trials: pd.DataFrame) -> Path:
    """Write a copy of a study that has other trials."""
    copy = Path(shutil.copytree(finished, folder / "copy"))
    write_study(copy, replace(read_study(copy), trials=trials))
    return copy


def test_equal_studies_differ_in_nothing_whatever_time_they_took(
    finished: Path, tmp_path: Path
) -> None:
    trials = read_study(finished).trials
    copy = with_trials(finished, tmp_path, trials.assign(seconds=99.0))
    assert compare(finished, copy) == {
        **dict.fromkeys(("rows", "equal rows", "rows of the same configuration"), len(trials)),
        **dict.fromkeys(("tensors", "equal tensors"), len(tensors_of(finished))),
        "loss apart": 0.0,
        "standard errors apart": 0.0,
    }


def test_what_differs_is_counted(finished: Path, tmp_path: Path) -> None:
    trials = read_study(finished).trials.copy()
    trials.loc[0, "loss"] += 0.1
    copy = with_trials(finished, tmp_path, trials)
    adapter = copy / "state" / "adapter-1.safetensors"
    save_file({name: values + 1 for name, values in load_file(adapter).items()}, adapter)
    differing = compare(finished, copy)
    assert differing["rows"] - differing["equal rows"] == 1
    assert differing["tensors"] - differing["equal tensors"] == len(load_file(adapter))
    assert differing["loss apart"] == pytest.approx(0.1)
    expected = 0.1 / trials.loc[0, "standard_error"]
    assert differing["standard errors apart"] == pytest.approx(expected)
