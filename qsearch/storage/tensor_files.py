"""Tensors in safetensors files with a checksum; free of PyTorch, for readers of arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from qsearch.storage.checksums import BLANK, CHECKSUM, with_checksum
from qsearch.storage.files import write_bytes


def write_tensors(
    path: Path, serialize: Callable[[dict[str, str]], bytes], header: Mapping[str, str]
) -> None:
    """Write a safetensors file with texts by name in its header.

    ``serialize`` is ``save`` of :mod:`safetensors.numpy` or :mod:`safetensors.torch`.
    """
    write_bytes(path, with_checksum(serialize({**header, CHECKSUM: BLANK})))


def tensors_header(content: bytes) -> dict[str, str]:
    """Return the texts that are kept with the tensors of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
    return header
