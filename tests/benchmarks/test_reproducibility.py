"""How two studies are compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from benchmarks.reproducibility import compare
from qsearch.plugins.evaluation import Metric
from qsearch.space.configuration import Choices, Knob
from qsearch.storage.study_record import TRIAL_COLUMNS, StudyRecord, write_study


def study(folder: Path, losses: list[float], configurations: str, tensor: float) -> Path:
    """Write a study of one round; the name of a configuration is a letter."""
    rows = [
        {
            **dict.fromkeys(TRIAL_COLUMNS, 0),
            **dict.fromkeys(("method", "reason"), "any"),
            **dict.fromkeys(("seen", "on_front"), True),
            "status": "completed",
            "round": 1,
            "trial": trial,
            "loss": loss,
            "standard_error": 0.5,
            "estimated_loss": float("nan"),
            "seconds": float(len(folder.name)),
            "configuration": json.dumps({configuration: {}}),
        }
        for trial, (loss, configuration) in enumerate(zip(losses, configurations, strict=True))
    ]
    record = StudyRecord(
        **dict.fromkeys(("name", "model", "task", "quantizer", "trainer"), "any"),
        metric=Metric("accuracy", "higher"),
        layers=(),
        choices=Choices((Knob("bits", (2, 3)),)),
        average_bits_range=(2.0, 3.0),
        segment_edges=(2.0, 3.0),
        reference_point=None,
        trials=pd.DataFrame(rows, columns=list(TRIAL_COLUMNS)),
    )
    write_study(folder, record)
    save_file({"a": np.zeros(2), "b": np.full(2, tensor)}, folder / "state" / "x.safetensors")
    return folder


def test_equal_studies_differ_in_nothing_whatever_time_they_took(tmp_path: Path) -> None:
    one = study(tmp_path / "one", [0.5, 0.6], "ab", 1.0)
    other = study(tmp_path / "another", [0.5, 0.6], "ab", 1.0)
    assert compare(one, other) == {
        "rows": 2,
        "equal rows": 2,
        "rows of the same configuration": 2,
        "tensors": 2,
        "equal tensors": 2,
        "loss apart": 0.0,
        "standard errors apart": 0.0,
    }


def test_what_differs_is_counted(tmp_path: Path) -> None:
    one = study(tmp_path / "one", [0.5, 0.6, 0.7], "abc", 1.0)
    other = study(tmp_path / "other", [0.5, 0.7, 0.7], "abd", 2.0)
    found = compare(one, other)
    assert (found["rows"], found["equal rows"]) == (3, 1)
    assert found["rows of the same configuration"] == 2
    assert found["equal tensors"] == 1
    assert found["loss apart"] == pytest.approx(0.1)
    assert found["standard errors apart"] == pytest.approx(0.2)
