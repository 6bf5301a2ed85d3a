"""The ``gguf`` format: a causal language model with weights of ggml's types."""

from __future__ import annotations

import math
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qsearch_quantizers.libraries.optional import optional_module
from qsearch_quantizers.packed.stored_types import as_stored
from torch import Tensor

from qsearch.deployment.model_card import as_code
from qsearch.errors import InputError
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.ggml_weights import layer_blocks, planned_type, require_ggml_types
from qsearch_coalora.export.gguf_file import FileOriginal, unread_parts
from qsearch_coalora.export.gguf_model import TYPES, ModelOriginal
from qsearch_coalora.export.gguf_original import FORMAT, Original, layer_tensors
from qsearch_coalora.export.job import AdapterJob, auto_class
from qsearch_coalora.export.llama_tokens import compare_tokens, is_installed, unlike_text
from qsearch_coalora.models.loading import CAUSAL
from qsearch_coalora.models.source import locate_model

MODEL_FILE, ADAPTER_FILE = "model.gguf", "adapter.gguf"

_CARD = """\
# {model} as GGUF

`model.gguf` is {model} with the weights of this configuration as ggml's types {types}, exactly:
what llama.cpp dequantizes is what the study evaluated.
{others}
Where a group of the configuration is more than one block of 32 weights, its scale is repeated: the
file holds {stored:.4f} bits a weight.

{notes}{tables}{adapter}```
llama-cli --model model.gguf{lora} --prompt "…"
```
"""

_COPIED = "Other tensors are those of the original file, byte for byte."
_CONVERTED = "Other matrices are stored as {dtype}, vectors as float32."

_UNLIKE = """\
Note: llama.cpp makes other tokens of some texts than the tokenizer that the study was evaluated
with, and the model may predict otherwise there, such as (llama.cpp's tokens first): {text}."""

_ADAPTER = "`adapter.gguf` is the {method} adapter of this configuration:\n\n"

_TABLES = """\
The token embedding (`token_embd.weight`) is quantized too, and so is the output head
(`output.weight`) where it has a weight of its own.

"""


@dataclass(frozen=True)
class _Plan:
    """What is copied, and what stands in its copy: by name, a layer's position and ggml type.

    The adapter's tensors are after the model's ``names`` of the layers.
    """

    gguf: Any
    original: Original
    names: list[str]
    kinds: dict[str, tuple[int, str]]

    def row_bytes(self, kind: str, columns: int) -> int:
        """Return the bytes of a row of weights of a type."""
        block, nbytes = self.gguf.GGML_QUANT_SIZES[self.gguf.GGMLQuantizationType[kind]]
        return int(columns // block * nbytes)


def gguf_files(job: AdapterJob) -> dict[str, int]:
    """Return the bytes of both files by name; see :func:`export_gguf` for errors."""
    plan = _plan(job)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        sizes = {MODEL_FILE: _planned_bytes(_model_writer(plan, job, path))}
        if job.has_adapter:
            sizes[ADAPTER_FILE] = _planned_bytes(_adapter_writer(plan, job, path))
    return sizes


def _planned_bytes(writer: Any) -> int:
    """Return the bytes of a file whose tensors are described: what precedes them is written."""
    with closing(writer):
        _write_header(writer)
        (stream,), (tensors,) = writer.fout, writer.tensors
        sizes = (stream.tell(), *(one.nbytes for one in tensors.values()))
    return sum(writer.ggml_pad(size, writer.data_alignment) for size in sizes)


def export_gguf(job: AdapterJob, directory: Path) -> None:
    """Write the model and the adapter as GGUF files.

    Raises:
        InputError: If the model is not a causal one, llama.cpp is not known to compute with it or
            to cut text as its tokenizer does, GGUF has no type for the weights, or how a file
            orders a layer's rows is not known.
    """
    plan = _plan(job)
    original, notes = plan.original, []
    if isinstance(original, FileOriginal):
        notes = [f"Note: {note}." for note in unread_parts(original.path)]
    if is_installed():
        text = (
            unlike_text(original.path, job.tokenizer)
            if isinstance(original, FileOriginal)
            else compare_tokens(original.add_fields, original.architecture, job.tokenizer)
        )
        notes += [] if text is None else [_UNLIKE.format(text=as_code(text.shown))]
    orders = _write_model(plan, job, directory / MODEL_FILE)
    if job.has_adapter:
        _write_adapter(plan, job, orders, directory / ADAPTER_FILE)
    layers = job.adapted.layers
    is_file = isinstance(original, FileOriginal)
    dtype = str(job.storage.dtype).removeprefix("torch.")
    stored = sum(
        layers[position].shape[0] * plan.row_bytes(kind, layers[position].shape[1])
        for position, kind in plan.kinds.values()
    )
    write_card(
        job,
        directory,
        _CARD,
        "gguf",
        types=", ".join(sorted({kind for _, kind in plan.kinds.values()})),
        stored=8 * stored / sum(layer.parameters for layer in layers),
        others=_COPIED if is_file else _CONVERTED.format(dtype=dtype),
        notes="\n\n".join([*notes, ""]) if notes else "",
        tables=_TABLES if job.adapted.tables else "",
        adapter=_ADAPTER.format(method=job.method) if job.has_adapter else "",
        lora=f" --lora {ADAPTER_FILE}" if job.has_adapter else "",
    )


def _plan(job: AdapterJob) -> _Plan:
    require_ggml_types(job.quantizer, FORMAT)
    job.require_own_weights()
    gguf = optional_module("gguf", "llm", f"--format {FORMAT}")
    if auto_class(job.module) != CAUSAL:
        raise InputError(
            f"--format {FORMAT} is for causal language models; this study's is a"
            f" {type(job.module).__name__}, whose head the file would lack"
        )
    source = locate_model(job.model)
    original: Original
    if source.gguf_file is None:
        original = ModelOriginal(job)
    else:
        original = FileOriginal(job, Path(source.path) / source.gguf_file)
    known = {tensor.name for tensor in original.tensors}
    names = layer_tensors(original.architecture, original.blocks, known, job.paths)
    kinds = {
        name: (position, planned_type(job, position, FORMAT)) for position, name in enumerate(names)
    }
    return _Plan(gguf, original, names, kinds)


def _model_writer(plan: _Plan, job: AdapterJob, path: Path) -> Any:
    """Return a writer of a copy of the original, in which layers have other types."""
    writer = plan.gguf.GGUFWriter(path, plan.original.architecture)
    plan.original.add_fields(writer)
    for tensor in plan.original.tensors:
        if tensor.name not in plan.kinds:
            facts = (tensor.shape, tensor.dtype, tensor.nbytes, tensor.kind)
            writer.add_tensor_info(tensor.name, *facts)
            continue
        position, name = plan.kinds[tensor.name]
        rows, columns = job.adapted.layers[position].shape
        kind = plan.gguf.GGMLQuantizationType[name]
        _add_bytes(writer, tensor.name, (rows, plan.row_bytes(name, columns)), kind)
    return writer


def _write_model(plan: _Plan, job: AdapterJob, path: Path) -> list[Tensor]:
    """Write the copy of the original; return the order of each layer's rows in it."""
    orders: dict[int, Tensor] = {}
    with closing(_model_writer(plan, job, path)) as writer:
        _write_header(writer)
        for tensor in plan.original.tensors:
            if tensor.name not in plan.kinds:
                writer.write_tensor_data(tensor.values())
                continue
            position, _ = plan.kinds[tensor.name]
            order = orders[position] = plan.original.row_order(tensor.name, position)
            writer.write_tensor_data(layer_blocks(job, position)[order].contiguous().numpy())
    return [orders[position] for position in range(len(job.adapted.layers))]


def _adapter_writer(plan: _Plan, job: AdapterJob, path: Path) -> Any:
    """Return a writer of the adapter; its alpha is the greatest rank, since B holds the scaling."""
    gguf, dtype = plan.gguf, job.storage.dtype
    writer = gguf.GGUFWriter(path, plan.original.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(max(job.ranks)))
    kind = gguf.GGMLQuantizationType[TYPES[dtype]]
    for name, layer, rank in zip(plan.names, job.adapted.layers, job.ranks, strict=True):
        if not rank:
            continue
        rows, columns = layer.shape
        _add_bytes(writer, f"{name}.lora_a", (rank, columns * dtype.itemsize), kind)
        _add_bytes(writer, f"{name}.lora_b", (rows, rank * dtype.itemsize), kind)
    return writer


def _write_adapter(plan: _Plan, job: AdapterJob, orders: list[Tensor], path: Path) -> None:
    alpha = max(job.ranks)
    with closing(_adapter_writer(plan, job, path)) as writer:
        _write_header(writer)
        for name, order, (A, B) in zip(plan.names, orders, job.factors(), strict=True):
            if not len(A):
                continue
            own = B.cpu()[order] * (len(A) / alpha)  # llama.cpp multiplies by alpha / rank.
            for part, factor in (("lora_a", A.cpu()), ("lora_b", own)):
                stored = as_stored(f"{name}.{part}", factor, job.storage.dtype).contiguous()
                writer.write_tensor_data(stored.view(torch.uint8).numpy())


def _add_bytes(writer: Any, name: str, shape: tuple[int, int], kind: Any) -> None:
    """Describe a tensor by the shape that it has as bytes."""
    writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), kind)


def _write_header(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
