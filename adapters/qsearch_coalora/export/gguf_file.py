"""A GGUF file that a model was loaded from, to be copied with other weights."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch_coalora.export.gguf_architectures import ROPE_FACTORS
from qsearch_coalora.export.gguf_original import FORMAT, OriginalTensor, layer_tensors
from qsearch_coalora.export.job import AdapterJob

_NOT_COPIED = ("general.architecture", "general.file_type")
"""Fields that the writer sets itself, or that are not true of mixed types."""


class FileOriginal:
    """A file whose metadata, tokenizer and other tensors are kept, byte for byte."""

    def __init__(self, job: AdapterJob, path: Path) -> None:
        import gguf

        self._job, self._gguf, self.path = job, gguf, path
        self._reader = gguf.GGUFReader(path)
        self._by_name = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture, self.blocks = architecture_and_blocks(self._reader)

    @cached_property
    def tensors(self) -> list[OriginalTensor]:
        """All tensors of the file, in its order."""
        return [
            OriginalTensor(
                one.name,
                one.data.shape,
                one.data.dtype,
                one.tensor_type,
                partial(getattr, one, "data"),
            )
            for one in self._reader.tensors
        ]

    def add_fields(self, writer: Any) -> None:
        """Copy the file's metadata and tokenizer."""
        gguf = self._gguf
        for field in self._reader.fields.values():
            if field.name in _NOT_COPIED or field.name.startswith("GGUF."):
                continue
            if field.name == gguf.Keys.General.ALIGNMENT:
                writer.data_alignment = int(field.contents())
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)

    def row_order(self, name: str, position: int) -> Tensor:
        """Return the layer's row that is each row of the file's tensor.

        Files of Llama's kind hold the rows of query and key in the order of another rotary
        embedding: the first and the second half of each head take turns.
        """
        tensor = self._by_name[name]
        original, layer = (
            self._job.adapted.weights.originals[position],
            self._job.adapted.layers[position],
        )
        quants = self._gguf.quants
        stored = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type)).to(original)
        rows = torch.arange(len(original))
        config = self._job.module.config
        heads = {config.num_attention_heads, getattr(config, "num_key_value_heads", None)} - {None}
        whole = [count for count in sorted(heads) if len(rows) % (2 * count) == 0]
        turns = [rows.view(count, 2, -1).transpose(1, 2).reshape(-1) for count in whole]
        for order in (rows, *turns):
            if torch.equal(original[order.to(original.device)], stored):
                return order
        raise InputError(
            f"--format {FORMAT}: the model's layer {layer.name!r} is not the file's {name!r}, nor"
            " its rows in another known order"
        )


def architecture_and_blocks(reader: Any) -> tuple[str, int]:
    """Return llama.cpp's name of a file's architecture, and how many blocks the model has."""
    architecture = str(reader.fields["general.architecture"].contents())
    return architecture, int(reader.fields[f"{architecture}.block_count"].contents())


def require_layers(path: Path, layers: Iterable[str]) -> None:
    """Raise InputError if a file has no tensor of some layer, by the paths of all of them."""
    import gguf

    reader = gguf.GGUFReader(path)
    known = {tensor.name for tensor in reader.tensors}
    layer_tensors(*architecture_and_blocks(reader), known, layers)


def unread_parts(path: Path) -> list[str]:
    """Say what transformers does not read of a file, so that a study evaluates another model."""
    import gguf

    names = {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    if ROPE_FACTORS not in names:
        return []
    return [
        f"transformers reads no factors of the rotary embedding ({ROPE_FACTORS}) from a GGUF file,"
        " so what it computes, and the study evaluates, is not quite what llama.cpp does: name the"
        " model's folder of safetensors instead"
    ]
