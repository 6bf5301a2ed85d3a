"""What a saved adapter belongs to, and whether it is this study's."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.settings.options import NOT_OF_THE_RESULT
from qsearch_coalora.training.study_model import StudyModel

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 2
_CHECKPOINT_FORMAT = 3
"""Of a checkpoint; one of another format counts as none."""

_SAME = 1e-3
"""Relative difference of sizes that rounding on another machine may make; other data, more."""


def saved_state(study: StudyModel, tensors: Mapping[str, Tensor]) -> TrainerState:
    """Return trained tensors with what they belong to, and the versions that made them."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    return TrainerState(
        tensors,
        {
            "format": _FORMAT,
            "belongs_to": study.identity,
            "versions": versions,
            "input_sizes": study.adapted.input_sizes(),
        },
    )


def require_own(study: StudyModel, state: TrainerState) -> None:
    """Raise InputError unless a saved state belongs to a study."""
    if state.metadata.get("format") != _FORMAT:
        raise InputError(
            f"the saved adapter has format {state.metadata.get('format')!r};"
            f" this qsearch reads {_FORMAT}"
        )
    identity, saved = study.identity, state.metadata.get("belongs_to", {})
    details = "; ".join(
        f"{key} was {_short(saved.get(key))}, is {_short(own)}"
        for key, own in identity.items()
        if saved.get(key) != own
    )
    if details:
        raise InputError(f"the saved adapter belongs to another study: {details}")
    sizes = state.metadata.get("input_sizes") or []
    adapted, own_sizes = study.adapted.adapted_layers, study.adapted.input_sizes()
    if len(sizes) != len(adapted):
        raise InputError("the saved adapter lacks the sizes of its layers' inputs")
    for layer, own, before in zip(adapted, own_sizes, sizes, strict=True):
        if not _alike(own, before):
            raise InputError(
                "the saved adapter belongs to other training data or another model: inputs of"
                f" layer {layer.name!r} had a root mean square of {before}, have {own}; bring back"
                " the data (or the packages whose texts it is) of when the study began"
            )


def _alike(own: float | None, saved: float | None) -> bool:
    return own == saved if own is None or saved is None else math.isclose(own, saved, rel_tol=_SAME)


def training_identity(study: StudyModel) -> dict[str, Any]:
    """Return what a checkpoint must agree in with a study for its training to continue."""
    task_options = getattr(study.task, "options", None)
    return {
        **study.identity,
        "format": _CHECKPOINT_FORMAT,
        "seed": study.seed,
        "trainer": study.options.model_dump(mode="json", exclude=set(NOT_OF_THE_RESULT)),
        "task": [study.task.name, task_options.model_dump(mode="json") if task_options else {}],
    }


def digest(*data: Any) -> str:
    """Return a text that differs where JSON data or configurations differ."""
    text = json.dumps(data, sort_keys=True, default=Configuration.to_json)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
