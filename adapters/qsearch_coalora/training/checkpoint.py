"""What a saved adapter belongs to, and whether it is this study's."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import Task, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.training.options import NOT_OF_THE_RESULT, TrainingOptions

_FORMAT = 2
_UNFINISHED_FORMAT = 3
"""Of the state of an unfinished training; one of another format counts as none."""

_SAME = 1e-3
"""Relative difference of sizes that rounding on another machine may make; other data, more."""

InputSizes = Sequence[float | None]
"""Root mean square input of each layer, None where it was not measured."""


def saved_state(
    tensors: Mapping[str, Tensor], identity: Mapping[str, Any], input_sizes: InputSizes
) -> TrainerState:
    """Return trained tensors with what they belong to, and the versions that made them.

    Args:
        tensors: The tensors.
        identity: What a trainer must agree in to go on from them.
        input_sizes: Those of the inputs that residual factors or quantized weights go by.
    """
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    return TrainerState(
        tensors,
        {
            "format": _FORMAT,
            "belongs_to": dict(identity),
            "versions": versions,
            "input_sizes": list(input_sizes),
        },
    )


def require_own(state: TrainerState, identity: Mapping[str, Any], input_sizes: InputSizes) -> None:
    """Check that a saved state belongs to a trainer.

    Args:
        state: The saved state.
        identity: The trainer's, with its ``layers``.
        input_sizes: The trainer's; for each layer one.

    Raises:
        InputError: If it has another format, or belongs to another model or other options, or the
            layers' inputs are others than when it was saved: residual factors or quantized weights
            would be others too.
    """
    if state.metadata.get("format") != _FORMAT:
        raise InputError(
            f"the saved adapter has format {state.metadata.get('format')!r};"
            f" this qsearch reads {_FORMAT}"
        )
    saved = state.metadata.get("belongs_to", {})
    details = "; ".join(
        f"{key} was {_short(saved.get(key))}, is {_short(own)}"
        for key, own in identity.items()
        if saved.get(key) != own
    )
    if details:
        raise InputError(f"the saved adapter belongs to another study: {details}")
    # States from before sizes were saved lack them.
    saved_sizes = state.metadata.get("input_sizes", input_sizes)
    for layer, own, saved in zip(identity["layers"], input_sizes, saved_sizes, strict=True):
        if not _alike(own, saved):
            raise InputError(
                "the saved adapter belongs to other training data or another model: inputs of"
                f" layer {layer!r} had a root mean square of {saved}, have {own}; bring back the"
                " data (or the packages whose texts it is) of when the study began"
            )


def _alike(own: float | None, saved: float | None) -> bool:
    if own is None or saved is None:
        return own is saved
    return math.isclose(own, saved, rel_tol=_SAME)


def training_identity(
    identity: Mapping[str, Any], seed: int, options: TrainingOptions, task: Task
) -> dict[str, Any]:
    """Return what an unfinished training must agree in with a trainer to be gone on with.

    Args:
        identity: What a saved adapter must agree in.
        seed: The trainer's seed.
        options: The trainer's options.
        task: Its task.
    """
    task_options = getattr(task, "options", None)
    return {
        **identity,
        "format": _UNFINISHED_FORMAT,
        "seed": seed,
        "trainer": options.model_dump(mode="json", exclude=set(NOT_OF_THE_RESULT)),
        "task": [task.name, task_options.model_dump(mode="json") if task_options else {}],
    }


def digest(*told: Any) -> str:
    """Return a text that differs where JSON data or configurations differ."""
    text = json.dumps(told, sort_keys=True, default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_json(value: object) -> str:
    if isinstance(value, Configuration):
        return value.to_json()
    raise TypeError(f"{type(value).__name__} is no JSON data")


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
