"""What the headers of safetensors files say, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from qsearch.errors import InputError


def tensor_headers(path: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield name, type, such as ``BF16``, and shape of each tensor; InputError if unreadable."""
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  # Not a mapping.
                tensor = file.get_slice(name)
                yield name, tensor.get_dtype(), tuple(tensor.get_shape())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
