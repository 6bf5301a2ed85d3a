"""What a GGUF export copies, but for the quantized layers: a GGUF file, or transformers' model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from qsearch.errors import InputError

FORMAT = "gguf"


@dataclass(frozen=True)
class OriginalTensor:
    """A tensor as a file has it: its shape and type in memory, ggml's type, and what gives it."""

    name: str
    shape: Sequence[int]
    dtype: np.dtype[Any]
    kind: Any
    values: Callable[[], np.ndarray[Any, Any]]

    @property
    def nbytes(self) -> int:
        """Its bytes in a file, without padding."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Original(Protocol):
    """A model in the words of a GGUF file."""

    architecture: str
    blocks: int

    @property
    def tensors(self) -> Sequence[OriginalTensor]:
        """All tensors, in the order of the file."""
        ...

    def add_fields(self, writer: Any) -> None:
        """Give the model's metadata and tokenizer to a writer of the package gguf."""
        ...

    def row_order(self, name: str, position: int) -> Tensor:
        """Return the layer's row that is each row of the file's tensor of that name."""
        ...


def gguf_names(architecture: str, blocks: int) -> Callable[[str], str | None]:
    """Return what maps transformers' names of parameters to those of a file."""
    import gguf

    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in numbers:
        raise InputError(f"--format {FORMAT}: gguf has no names for architecture {architecture!r}")
    mapping = gguf.get_tensor_name_map(numbers[architecture], blocks)
    return lambda name: mapping.get_name(name, try_suffixes=(".weight", ".bias"))


def layer_tensors(
    architecture: str, blocks: int, known: Collection[str], paths: Iterable[str]
) -> list[str]:
    """Return the names that layers' weights have among a file's tensors, by the layers' paths.

    Raises:
        InputError: If the file has no such tensor.
    """
    named, names = gguf_names(architecture, blocks), []
    for path in paths:
        name = named(f"{path}.weight")
        if name not in known:
            raise InputError(f"--format {FORMAT}: the file has no tensor of layer {path!r}")
        names.append(str(name))
    return names
