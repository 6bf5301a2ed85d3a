"""What ``qsearch evaluate`` measured on a split, with what it was measured from: a file a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.checksums import damage, read_checked
from qsearch.storage.example_scores import (
    FULL_PRECISION,
    MAX_EXAMPLES,
    score_arrays,
    scores_of_arrays,
    trial_name,
)
from qsearch.storage.paths import EVALUATIONS
from qsearch.storage.tensor_files import tensors_header, write_tensors

LOADED: Literal["loaded"] = "loaded"
"""The model as it is loaded, without an adapter, instead of a trial's number."""

Evaluated = int | Literal["full-precision", "loaded"]
"""What was evaluated: a trial, the adapter without quantization, or the loaded model."""

_SUFFIX = ".safetensors"
_KEY = "evaluation"


@dataclass(frozen=True)
class KeptEvaluation:
    """An evaluation on a split, what each example scored included, if the trainer says it.

    Args:
        origin: What it was measured from, by name, such as ``round`` and ``examples``: it holds
            only as long as all of that is the same.
    """

    origin: Mapping[str, str]
    evaluation: Evaluation


def evaluations_folder(directory: Path, data: str) -> Path:
    """Return where evaluations on data are kept, such as ``test-512``: split and length."""
    return directory / EVALUATIONS / data


def write_evaluation(directory: Path, data: str, of: Evaluated, kept: KeptEvaluation) -> bool:
    """Keep an evaluation, and return whether it is: not one of too many examples."""
    scores = kept.evaluation.examples
    if scores is not None and len(scores.losses) > MAX_EXAMPLES:
        return False
    path = _path(directory, data, of)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = KeptEvaluation(kept.origin, kept.evaluation.without_examples())
    text = json.dumps(_adapter().dump_python(plain, mode="json"))
    arrays = {} if scores is None else score_arrays(scores)
    write_tensors(path, lambda header: save(arrays, header), {_KEY: text})
    return True


def read_evaluations(directory: Path, data: str) -> dict[Evaluated, KeptEvaluation]:
    """Return what is kept of evaluations on data, such as ``test-512``, whatever it is of.

    Raises:
        DamagedFileError: If a file is damaged.

    >>> from qsearch.storage.split_evaluations import read_evaluations
    >>> read_evaluations(Path("runs/mine"), "test-512")
    {}
    """
    paths = sorted(evaluations_folder(directory, data).glob(f"*{_SUFFIX}"))
    found = {_evaluated(path.stem): path for path in paths}
    return {of: _read(path) for of, path in found.items() if of is not None}


def read_evaluation(directory: Path, data: str, of: Evaluated) -> KeptEvaluation:
    """Return an evaluation that is kept.

    Raises:
        DamagedFileError: If its file is damaged.
    """
    return _read(_path(directory, data, of))


def delete_evaluation(directory: Path, data: str, of: Evaluated) -> None:
    """Delete an evaluation, if it is there."""
    _path(directory, data, of).unlink(missing_ok=True)


def _read(path: Path) -> KeptEvaluation:
    with damage(path, SafetensorError, KeyError, ValueError, OSError, RecursionError):
        content = read_checked(path)
        text = tensors_header(content)[_KEY]
        kept = _adapter().validate_json(text, strict=True, extra="forbid")
        arrays = load(content)
        examples = scores_of_arrays(arrays) if arrays else None
        return replace(kept, evaluation=replace(kept.evaluation, examples=examples))


@cache
def _adapter() -> TypeAdapter[KeptEvaluation]:
    return TypeAdapter(KeptEvaluation)


def _path(directory: Path, data: str, of: Evaluated) -> Path:
    name = of if isinstance(of, str) else trial_name(of)
    return evaluations_folder(directory, data) / f"{name}{_SUFFIX}"


def _evaluated(stem: str) -> Evaluated | None:
    """Return what a file's name is of; None if it is not one of these files."""
    for name in (FULL_PRECISION, LOADED):
        if stem == name:
            return name
    digits = stem.removeprefix("trial-")
    return int(digits) if digits.isdecimal() and stem == trial_name(int(digits)) else None
