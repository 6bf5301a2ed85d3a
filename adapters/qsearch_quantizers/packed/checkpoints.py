"""Folders that transformers loads: planned from shapes, then written a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qsearch.errors import InputError
from qsearch.storage.files import write_json
from qsearch_quantizers.packed.stored_types import as_stored, plan_of
from qsearch_quantizers.packed.tensor_files import (
    Plan,
    Put,
    file_bytes,
    split_plan,
    tensor_files,
)

MAX_FILE_BYTES = 5 * 10**9
"""A larger checkpoint is written as several files."""

_FILE = "model{suffix}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder, of which shapes and types are known before there are values.

    ``kept`` has the model's own tensors, and ``added`` the plan of others, both by the names that
    the files give them; ``names`` has these by the model's names.
    """

    model: PreTrainedModel
    kept: dict[str, Tensor]
    added: dict[str, Tensor]
    names: dict[str, str]
    dtype: torch.dtype

    @property
    def files(self) -> dict[str, dict[str, Tensor]]:
        """The plan of each file with weights, by its name."""
        plan = {**plan_of(self.kept, self.dtype), **self.added}
        return split_plan(plan, MAX_FILE_BYTES, _FILE)

    @property
    def file_bytes(self) -> dict[str, int]:
        """Bytes of each file with weights, by its name."""
        return {name: file_bytes(plan) for name, plan in self.files.items()}

    @contextmanager
    def writing(self, directory: Path, tokenizer: Any = None) -> Iterator[Put]:
        """Write the folder; inside, the planned tensors are written by the model's names.

        ``config.json`` has the type that the model in memory computes in.
        """
        directory.mkdir(parents=True, exist_ok=True)
        # Everything but weights: configuration, code of the model's own.
        self.model.save_pretrained(directory, state_dict={})
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        files = self.files
        with tensor_files(directory, files) as put:
            for name, tensor in self.kept.items():
                put(name, as_stored(name, tensor, self.dtype))
            yield lambda name, tensor: put(self.names[name], tensor)
        if len(files) > 1:
            weight_map = {name: file for file, plan in files.items() for name in plan}
            total = sum(tensor.nbytes for plan in files.values() for tensor in plan.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(directory / "model.safetensors.index.json", index)


def plan_checkpoint(
    model: PreTrainedModel, state: Mapping[str, Tensor], added: Plan, dtype: torch.dtype
) -> Checkpoint:
    """Plan the folder of a model: tensors of its state in a type, and others that are planned.

    Tied tensors are stored once, and names are those that transformers stores.

    Raises:
        InputError: If transformers would store a planned tensor in another form.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(model._keys_to_ignore_on_save or ())
    tensors = {name: tensor for name, tensor in state.items() if name not in ignored}
    tensors = remove_tied_weights_from_state_dict(tensors, model)
    saved = revert_weight_conversion(model, {**tensors, **added})
    own = {id(tensor): name for name, tensor in added.items()}
    names = {own[id(tensor)]: name for name, tensor in saved.items() if id(tensor) in own}
    if lost := added.keys() - names.keys():
        raise InputError(
            f"{type(model).__name__}: transformers stores {min(lost)} in another form, so that it"
            " cannot be exported"
        )
    stored = {name: added[own_name] for own_name, name in names.items()}
    kept = {name: tensor for name, tensor in saved.items() if name not in stored}
    return Checkpoint(model, kept, stored, names, dtype)


def edit_config(directory: Path, section: str, value: Mapping[str, Any]) -> None:
    """Put a section into the ``config.json`` that transformers wrote."""
    path = directory / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**written, section: dict(value)})
