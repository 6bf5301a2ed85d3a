"""Whether a packed export's files are the ones that were written, and hold what is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from qsearch.errors import InputError
from qsearch_quantizers.packed.tensor_headers import tensor_headers

Stored = tuple[tuple[int, ...], torch.dtype | None]
"""Shape and type of a tensor in a file; a type of None is any floating-point type."""


def file_digests(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files (hexadecimal) by file name."""
    digests = {}
    for path in sorted(paths):
        with path.open("rb") as stream:
            digests[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hexadecimal) of settings, whatever their order."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def require_digests(paths: Iterable[Path], expected: Mapping[str, str]) -> None:
    """Check that weight files are the ones that were written, by their SHA-256 by file name.

    Raises:
        InputError: If a file is missing, not known, or has changed.
    """
    files = {path.name: path for path in paths}
    for name in sorted(expected.keys() - files.keys()):
        raise InputError(f"packed export lacks its file {name}; export or copy it again")
    for name, path in sorted(files.items()):
        if name not in expected:
            raise InputError(f"{path}: config.json does not know this file; export again")
        if not path.is_file():
            raise InputError(f"{path}: is missing; export or copy it again")
        if file_digests([path])[name] != expected[name]:
            raise InputError(
                f"{path}: is not what was written (its SHA-256 differs): truncated, damaged or"
                " changed; export or copy it again"
            )


def require_tensors(
    paths: Iterable[Path], expected: Mapping[str, Stored], unpacked: Container[str] = ()
) -> None:
    """Check that tensors are there as they must be, by the files' headers.

    transformers would warn of a missing or misshapen tensor and fill in something. ``unpacked`` has
    the module paths of the linear layers that are not packed.

    Raises:
        InputError: If a file cannot be read, a tensor is missing or has another shape or type, or
            a layer has more than is read of it.
    """
    from transformers.modeling_utils import str_to_torch_dtype

    headers: dict[str, tuple[Path, tuple[int, ...], torch.dtype | None]] = {}
    for path in paths:
        for name, kind, shape in tensor_headers(path):
            headers[name] = (path, shape, str_to_torch_dtype.get(kind))
    for name, (shape, dtype) in expected.items():
        if name not in headers:
            raise InputError(f"packed export lacks the tensor {name}")
        path, own_shape, own_dtype = headers[name]
        fits = (
            own_dtype == dtype if dtype else own_dtype is not None and own_dtype.is_floating_point
        )
        if own_shape != shape or not fits:
            raise InputError(
                f"{path}: tensor {name} is {own_dtype} of shape {own_shape}; its config.json asks"
                f" for {dtype or 'a floating-point type'} of shape {shape}"
            )
    packed = {name.rpartition(".")[0] for name in expected}
    for name in sorted(headers.keys() - expected.keys()):
        layer, _, key = name.rpartition(".")
        is_packed = layer in packed or (layer in unpacked and f"{layer}.weight" not in headers)
        if is_packed and key not in ("weight", "bias"):
            raise InputError(
                f"{headers[name][0]}: holds {name}, which config.json does not ask for, by layers"
                " or adapter_rank under quantization_config; export or copy it again"
            )
