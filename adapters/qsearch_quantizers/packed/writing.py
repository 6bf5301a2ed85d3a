"""Writing packed exports: a model folder whose configured layers hold packed codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.packed.bit_packing import packed_layout, packed_tensors
from qsearch_quantizers.packed.checkpoints import Checkpoint, edit_config, plan_checkpoint
from qsearch_quantizers.packed.fields import rank_of
from qsearch_quantizers.packed.layers import (
    FORMAT_VERSION,
    QUANT_METHOD,
    SETTINGS,
    is_output_head,
    scale_of,
    tied_names,
)
from qsearch_quantizers.packed.stored_types import factor_plan, stored_factors
from qsearch_quantizers.packed.tensor_files import planned
from qsearch_quantizers.packed.verification import file_digests, settings_digest


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer of a packed export, by its module path.

    Its adapter, if any, has the factors A (rank × input features) and B (output features × rank),
    scaling included. A rank of 0 is none.
    """

    name: str
    weight: QuantizedTensor
    A: Tensor | None = None
    B: Tensor | None = None


@dataclass(frozen=True)
class PackedExport:
    """A packed export of which everything but the values is known.

    Args:
        model: Gives the folder its configuration and its code.
        state: The model's tensors by name; the weights of configured layers are not written.
        quantizer: Whose tensors they are.
        quantizer_options: What it was made from.
        configuration: The layer configurations, by module path.
        adapter_rank: Of each layer's adapter, or that of each by its module path; 0 is none.
        dtype: Stores what is not quantized, and the adapter.
        adapter_bits: 8, or None for an adapter of the type.
    """

    model: PreTrainedModel
    state: Mapping[str, Tensor]
    quantizer: PackableQuantizer
    quantizer_options: Mapping[str, Any]
    configuration: Mapping[str, LayerConfiguration]
    adapter_rank: int | Mapping[str, int]
    dtype: torch.dtype
    adapter_bits: int | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The folder's tensors: shapes and types, and the values of those that are not quantized.

        An output head that is tied to an embedding is not written: it computes with the embedding's
        tensors. Neither has an adapter.

        Raises:
            InputError: If a layer shares its weight with another module than that, or an embedding
                does more than to look rows up.
        """
        state, added = dict(self.state), dict[str, Tensor]()
        for name, layer in self.configuration.items():
            for tied in _tied_to(self.model, name):
                state.pop(tied)
            rows, columns = state.pop(f"{name}.weight").shape
            rank = self._rank(name)
            tensors = factor_plan(rank, (rows, columns), self.dtype, self.adapter_bits)
            for key, layout in self.quantizer.layout((rows, columns), layer).items():
                stored = packed_layout(layout)
                tensors[key] = planned(stored.shape, stored.dtype)
            added |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        return plan_checkpoint(self.model, state, added, self.dtype)

    def _rank(self, name: str) -> int:
        return 0 if _is_table(self.model, name) else rank_of(self.adapter_rank, name)

    def write(
        self, layers: Iterable[QuantizedLayer], directory: Path, tokenizer: Any = None
    ) -> None:
        """Write a folder that ``from_pretrained`` loads once ``qsearch_quantizers`` is imported.

        It holds ``config.json`` with a ``quantization_config`` (method ``qsearch``), safetensors
        with the packed tensors and adapters of the layers next to all other weights, and the
        tokenizer. One layer is in memory at a time; no float weight is copied.

        Raises:
            InputError: If an adapter has not the rank that is said, or a value is too large for the
                type.
        """
        with self.checkpoint.writing(directory, tokenizer) as put:
            for layer in layers:
                tensors = packed_tensors(layer.weight, self.quantizer)
                rank, expected = 0 if layer.A is None else len(layer.A), self._rank(layer.name)
                if rank and _is_table(self.model, layer.name):
                    raise InputError(
                        f"layer {layer.name!r} cannot have an adapter in a packed export"
                    )
                if rank != expected:
                    raise InputError(
                        f"the adapter of layer {layer.name!r} has rank {rank}, not {expected}"
                    )
                if rank and layer.A is not None and layer.B is not None:
                    tensors |= stored_factors(
                        layer.name, layer.A, layer.B, self.dtype, self.adapter_bits
                    )
                for key, tensor in tensors.items():
                    put(f"{layer.name}.{key}", tensor)
        settings = {
            "quantizer": self.quantizer.name,
            "quantizer_options": dict(self.quantizer_options),
            "layers": {name: dict(layer) for name, layer in self.configuration.items()},
            "adapter_rank": _as_json(self.adapter_rank),
            "adapter_bits": self.adapter_bits,
        }
        section = {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            **settings,
            "sha256": {
                **file_digests(directory.glob("model*.safetensors")),
                SETTINGS: settings_digest(settings),
            },
        }
        edit_config(directory, SETTINGS, section)


def _is_table(model: PreTrainedModel, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Embedding) or is_output_head(model, name)


def _tied_to(model: PreTrainedModel, name: str) -> tuple[str, ...]:
    """Return the tensors that a layer's weight is tied to, which must be an output head's."""
    module, others = model.get_submodule(name), tied_names(model.all_tied_weights_keys, name)
    if isinstance(module, nn.Embedding):
        scale_of(module, name)
        if all(is_output_head(model, other.removesuffix(".weight")) for other in others):
            return others
    if others:
        raise InputError(
            f"layer {name!r} shares its weight with another module and cannot be packed"
        )
    return ()


def _as_json(rank: int | Mapping[str, int]) -> int | dict[str, int]:
    return rank if isinstance(rank, int) else dict(rank)
