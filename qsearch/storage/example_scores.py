"""What each example scored in each evaluation of a study: small files, one an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from qsearch.errors import InputError
from qsearch.plugins.evaluation import ExampleScores
from qsearch.storage.checksums import damage, read_checked
from qsearch.storage.mapped_arrays import Array
from qsearch.storage.paths import examples_path, reference_examples_path
from qsearch.storage.tensor_files import write_tensors

MAX_EXAMPLES = 100_000
"""Of an evaluation that is kept: a file of them takes a megabyte or two."""

FULL_PRECISION: Literal["full-precision"] = "full-precision"
"""The evaluation of a round without quantization, instead of a trial's number."""

Of = int | Literal["full-precision"]
"""What was evaluated."""

_METRIC = "metric."


def write_example_scores(path: Path, scores: ExampleScores | None) -> None:
    """Keep what the examples of an evaluation scored, unless there are none or too many."""
    if scores is None or len(scores.losses) > MAX_EXAMPLES:
        path.unlink(missing_ok=True)  # Of an evaluation that is repeated.
        return
    arrays = score_arrays(scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, lambda header: save(arrays, header), {})


def read_example_scores(directory: Path, round: int, trial: Of) -> ExampleScores:
    """Return what each validation example scored under a trial in a round of a study.

    They are in the split's own order, the same for all evaluations of a study.

    Raises:
        InputError: If the study does not have them: its trainer gives none, or there were too many.
        DamagedFileError: If the file is damaged.

    >>> from qsearch.storage.example_scores import read_example_scores
    >>> read_example_scores(Path("runs/mine"), 1, 3)
    Traceback (most recent call last):
    qsearch.errors.InputError: runs/mine: what examples scored was not kept of trial 3 in round 1
    """
    name = trial if isinstance(trial, str) else trial_name(trial)
    path = examples_path(directory, round, name)
    if not path.is_file():
        of = trial if isinstance(trial, str) else f"trial {trial}"
        raise InputError(f"{directory}: what examples scored was not kept of {of} in round {round}")
    return _read(path)


def read_reference_scores(directory: Path) -> ExampleScores:
    """Return what each validation example scored under the loaded model, without an adapter.

    Raises:
        InputError: If the study compares with no such model.
        DamagedFileError: If the file is damaged.
    """
    path = reference_examples_path(directory)
    if not path.is_file():
        raise InputError(f"{directory}: the study is not compared with the loaded model")
    return _read(path)


def trial_name(number: int) -> str:
    """Return the name of a trial's file."""
    return f"trial-{number:04d}"


def score_arrays(scores: ExampleScores) -> dict[str, Array]:
    """Return scores as the arrays by name that a file holds, float32."""
    columns = {"losses": scores.losses, "weights": scores.weights}
    columns |= {f"{_METRIC}{name}": values for name, values in scores.metrics.items()}
    return {name: np.array(values, dtype=np.float32) for name, values in columns.items()}


def scores_of_arrays(arrays: Mapping[str, Array]) -> ExampleScores:
    """Return the scores that a file holds as arrays.

    Raises:
        KeyError, ValueError: If they are not what :func:`score_arrays` gives.
    """
    values = {name: tuple(array.tolist()) for name, array in arrays.items()}
    scores = ExampleScores(
        values.pop("losses"),
        values.pop("weights"),
        {name.removeprefix(_METRIC): column for name, column in values.items()},
    )
    if any(len(column) != len(scores.losses) for column in (scores.weights, *values.values())):
        raise ValueError("it holds values of different numbers of examples")
    return scores


def _read(path: Path) -> ExampleScores:
    with damage(path, SafetensorError, KeyError, ValueError, OSError):
        return scores_of_arrays(load(read_checked(path)))
