"""The ``gguf`` format: a model that came from a GGUF file, with weights of ggml's types."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qsearch_quantizers.libraries.optional import optional_module
from qsearch_quantizers.packed.stored_types import as_stored
from torch import Tensor

from qsearch.errors import InputError
from qsearch_coalora.export.cards import write_card
from qsearch_coalora.export.ggml_weights import layer_blocks, planned_type, require_ggml_types
from qsearch_coalora.export.job import AdapterJob, auto_class
from qsearch_coalora.models.loading import CAUSAL
from qsearch_coalora.models.source import locate_model

FORMAT = "gguf"
MODEL_FILE, ADAPTER_FILE = "model.gguf", "adapter.gguf"

_NOT_COPIED = ("general.architecture", "general.file_type")
"""Fields that the writer sets itself, or that are not true of mixed types."""

_CARD = """\
# {model} as GGUF

`model.gguf` is {model} with the weights of this configuration as ggml's types {types}, exactly:
what llama.cpp dequantizes is what the study evaluated. Other tensors are those of the original
file, byte for byte. Where a group of the configuration is more than one block of 32 weights, its
scale is repeated: the file holds {stored:.4f} bits a weight.

{tables}{adapter}```
llama-cli --model model.gguf{lora} --prompt "…"
```
"""

_ADAPTER = "`adapter.gguf` is the {method} adapter of this configuration:\n\n"

_TABLES = """\
The token embedding (`token_embd.weight`) is quantized too, and so is the output head
(`output.weight`) where it has a weight of its own.

"""


@dataclass(frozen=True)
class _Plan:
    """The original file, and what stands in its copy: by name, a layer's position and ggml type.

    The adapter's tensors are after the model's ``names`` of the layers.
    """

    gguf: Any
    reader: Any
    architecture: str
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
    _write_header(writer)
    (stream,), (tensors,) = writer.fout, writer.tensors
    sizes = (stream.tell(), *(one.nbytes for one in tensors.values()))
    writer.close()
    return sum(writer.ggml_pad(size, writer.data_alignment) for size in sizes)


def export_gguf(job: AdapterJob, directory: Path) -> None:
    """Write the model and the adapter as GGUF files.

    Raises:
        InputError: If the model is not a causal one or not from a GGUF file, GGUF has no type for
            the weights, or how the file orders a layer's rows is not known.
    """
    plan = _plan(job)
    orders = _write_model(plan, job, directory / MODEL_FILE)
    if job.has_adapter:
        _write_adapter(plan, job, orders, directory / ADAPTER_FILE)
    layers = job.adapted.layers
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
    if source.gguf_file is None:
        raise InputError(
            f"--format {FORMAT}: model {job.model.name!r} is not from a GGUF file, whose metadata"
            " and tokenizer this format keeps; make one with llama.cpp's convert_hf_to_gguf.py"
            " and search on it"
        )
    reader = gguf.GGUFReader(Path(source.path) / source.gguf_file)
    architecture = reader.fields["general.architecture"].contents()
    names = _tensor_names(gguf, reader, architecture, job)
    kinds = {
        name: (position, planned_type(job, position, FORMAT)) for position, name in enumerate(names)
    }
    return _Plan(gguf, reader, architecture, names, kinds)


def _tensor_names(gguf: Any, reader: Any, architecture: str, job: AdapterJob) -> list[str]:
    """Return the name that each layer's weight has in the file, in layer order."""
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    blocks = int(reader.fields[f"{architecture}.block_count"].contents())
    mapping = gguf.get_tensor_name_map(numbers[architecture], blocks)
    known = {tensor.name for tensor in reader.tensors}
    names = []
    for name in job.paths:
        found = mapping.get_name(f"{name}.weight", try_suffixes=(".weight",))
        if found not in known:
            raise InputError(f"--format {FORMAT}: the file has no tensor of layer {name!r}")
        names.append(found)
    return names


def _row_order(gguf: Any, tensor: Any, original: Tensor, name: str, job: AdapterJob) -> Tensor:
    """Return the layer's row that stands in each row of the file's tensor.

    Files of Llama's kind hold the rows of query and key in the order of another rotary embedding:
    the first and the second half of each head take turns.
    """
    stored = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).to(original)
    rows = torch.arange(len(original))
    config = job.module.config
    heads = {config.num_attention_heads, getattr(config, "num_key_value_heads", None)} - {None}
    whole = [count for count in sorted(heads) if len(rows) % (2 * count) == 0]
    turns = [rows.view(count, 2, -1).transpose(1, 2).reshape(-1) for count in whole]
    for order in (rows, *turns):
        if torch.equal(original[order.to(original.device)], stored):
            return order
    raise InputError(
        f"--format {FORMAT}: the model's layer {name!r} is not the file's {tensor.name!r}, nor its"
        " rows in another known order"
    )


def _model_writer(plan: _Plan, job: AdapterJob, path: Path) -> Any:
    """Return a writer of a copy of the file, in which layers have other types."""
    gguf = plan.gguf
    writer = gguf.GGUFWriter(path, plan.architecture)
    for field in plan.reader.fields.values():
        if field.name in _NOT_COPIED or field.name.startswith("GGUF."):
            continue
        if field.name == gguf.Keys.General.ALIGNMENT:
            writer.data_alignment = int(field.contents())
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in plan.reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name not in plan.kinds:
            writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, kind)
            continue
        position, name = plan.kinds[tensor.name]
        rows, columns = job.adapted.layers[position].shape
        kind = gguf.GGMLQuantizationType[name]
        _add_bytes(writer, tensor.name, (rows, plan.row_bytes(name, columns)), kind)
    return writer


def _write_model(plan: _Plan, job: AdapterJob, path: Path) -> list[Tensor]:
    """Write the copy of the file; return the order of each layer's rows in it."""
    orders: dict[int, Tensor] = {}
    writer = _model_writer(plan, job, path)
    _write_header(writer)
    for tensor in plan.reader.tensors:
        if tensor.name not in plan.kinds:
            writer.write_tensor_data(tensor.data)
            continue
        position, _ = plan.kinds[tensor.name]
        original, layer = job.adapted.weights.originals[position], job.adapted.layers[position]
        order = orders[position] = _row_order(plan.gguf, tensor, original, layer.name, job)
        writer.write_tensor_data(layer_blocks(job, position)[order].contiguous().numpy())
    writer.close()
    return [orders[position] for position in range(len(job.adapted.layers))]


_FACTOR_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def _adapter_writer(plan: _Plan, job: AdapterJob, path: Path) -> Any:
    """Return a writer of the adapter; its alpha is its rank, since B holds the scaling."""
    gguf, dtype, rank = plan.gguf, job.storage.dtype, job.adapted.options.rank
    writer = gguf.GGUFWriter(path, plan.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    kind = gguf.GGMLQuantizationType[_FACTOR_TYPES[dtype]]
    for name, layer in zip(plan.names, job.adapted.layers, strict=True):
        if layer.is_table:
            continue
        rows, columns = layer.shape
        _add_bytes(writer, f"{name}.lora_a", (rank, columns * dtype.itemsize), kind)
        _add_bytes(writer, f"{name}.lora_b", (rows, rank * dtype.itemsize), kind)
    return writer


def _write_adapter(plan: _Plan, job: AdapterJob, orders: list[Tensor], path: Path) -> None:
    writer = _adapter_writer(plan, job, path)
    _write_header(writer)
    for name, order, (A, B) in zip(plan.names, orders, job.factors(), strict=True):
        if not len(A):
            continue
        for part, factor in (("lora_a", A.cpu()), ("lora_b", B.cpu()[order])):
            stored = as_stored(f"{name}.{part}", factor, job.storage.dtype).contiguous()
            writer.write_tensor_data(stored.view(torch.uint8).numpy())
    writer.close()


def _add_bytes(writer: Any, name: str, shape: tuple[int, int], kind: Any) -> None:
    """Describe a tensor by the shape that it has as bytes."""
    writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), kind)


def _write_header(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
