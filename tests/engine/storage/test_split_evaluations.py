"""Evaluations on a split, as files with what they were measured from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from qsearch.errors import DamagedFileError
from qsearch.plugins.evaluation import Evaluation, ExampleScores, MetricValue
from qsearch.storage.split_evaluations import (
    KeptEvaluation,
    delete_evaluation,
    evaluations_folder,
    read_evaluations,
    write_evaluation,
)
from qsearch.storage.tensor_files import write_tensors

METRICS = {"perplexity": MetricValue(2.5, 0.25), "kl_p99": MetricValue(0.5)}
SCORES = ExampleScores((0.5, 1.0), (1.0, 2.0), {"kl": (0.25, 0.5)})


def kept(examples: ExampleScores | None) -> KeptEvaluation:
    return KeptEvaluation({"round": "2"}, Evaluation(0.75, 0.1, METRICS, 1.5, examples))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path, "test-24") == {}
    for of, examples in ((12345, SCORES), ("full-precision", None), ("loaded", SCORES)):
        assert write_evaluation(tmp_path, "test-24", of, kept(examples))  # type: ignore[arg-type]
    (evaluations_folder(tmp_path, "test-24") / "trial-7.safetensors").touch()  # Not one of these.
    found = read_evaluations(tmp_path, "test-24")
    assert {of: one.evaluation.examples for of, one in found.items()} == {
        12345: SCORES,
        "full-precision": None,
        "loaded": SCORES,
    }
    for one in found.values():
        assert one.origin == {"round": "2"}
        assert one.evaluation.metrics["perplexity"] == METRICS["perplexity"]
        assert math.isnan(one.evaluation.metrics["kl_p99"].standard_error)
    delete_evaluation(tmp_path, "test-24", "loaded")
    delete_evaluation(tmp_path, "test-24", "loaded")
    assert set(read_evaluations(tmp_path, "test-24")) == {12345, "full-precision"}
    assert read_evaluations(tmp_path, "test") == {}


WHOLE = '{"origin": {}, "evaluation": {"loss": 1, "standard_error": 1, "metrics": {}, "seconds": 1'


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        (None, {}),
        ("[", {}),
        ("[" * 100_000, {}),
        ('{"origin": {"round": 2}}', {}),
        (WHOLE + "}}", {"losses": 2}),
        (WHOLE + "}}", {"losses": 2, "weights": 3}),
        (WHOLE.replace("1", '"1"') + "}}", {}),
        (WHOLE + "}, " + '"more": 1}', {}),
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, text: str | None, lengths: dict[str, int]
) -> None:
    path = evaluations_folder(tmp_path, "test") / "trial-0003.safetensors"
    path.parent.mkdir(parents=True)
    arrays = {name: np.zeros(count, dtype=np.float32) for name, count in lengths.items()}
    header = {} if text is None else {"evaluation": text}
    write_tensors(path, lambda facts: save(arrays, facts), header)
    with pytest.raises(DamagedFileError, match=r"trial-0003\.safetensors: damaged: .*; delete it"):
        read_evaluations(tmp_path, "test")
