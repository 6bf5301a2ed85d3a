"""A product whose weights are decoded in registers, compiled by this machine's C compiler."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import InputError
from qsearch.plugins.tensor_layout import SupportsLevels
from qsearch_quantizers.packed.weight import Factors, PackedModule

LANES = 16
"""Rows that are computed together, as in the source."""
MAX_TOKENS = 4
"""Tokens that it computes one by one; more are faster with a weight that is decoded once."""

_SOURCE = Path(__file__).with_name("kernel.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-Wno-psabi", "-shared", "-fPIC")
_SECONDS = 120
_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Neither the process's default type nor its default device may change what C reads."""


class _Fields(ctypes.Structure):
    """``struct weight`` of the source."""

    _fields_ = (
        ("bits", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("words", "scales", "zeros", "levels")),
        *((name, ctypes.c_int64) for name in ("tiles", "columns", "group")),
    )


class CompiledWeight:
    """A weight as the compiled product reads it, next to its packed tensors.

    Codes of 3 bits take 4 here, and scales 32.

    Args:
        shape: Rows and columns.
        bits: 2, 4 or 8.
        group: Weights of a row that share a scale.
        words: Codes, see the source.
        scales: Of groups, in tiles.
        zeros: Zero points of groups, in tiles; all are 0 if None.
        levels: By code; None where a code is its own level.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        bits: int,
        group: int,
        words: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        levels: Tensor | None,
    ) -> None:
        self._arguments = (shape, bits, group, words, scales, zeros, levels)
        self._rows, self._columns = shape
        self._width = LANES * len(words)
        tensors = (words, scales, zeros, levels)  # Held by the arguments.
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        self._fields = _Fields(bits, *addresses, len(words), self._columns, group)
        self._reference = ctypes.byref(self._fields)

    def __deepcopy__(self, _: object) -> CompiledWeight:
        return self  # Nothing in it changes.

    def __reduce__(self) -> tuple[type[CompiledWeight], tuple[object, ...]]:
        return CompiledWeight, self._arguments  # Addresses are this process's.

    def takes(self, inputs: Tensor, factors: Factors | None = None) -> bool:
        """Return whether it computes with inputs (tokens × columns): few, in float32, on a CPU.

        So must be the factors of an adapter; nothing may need a gradient of it.
        """
        return (
            inputs.shape[0] <= MAX_TOKENS
            and inputs.dtype == torch.float32
            and inputs.is_cpu
            and not inputs.requires_grad
            and (factors is None or factors[0].dtype == factors[1].dtype == torch.float32)
        )

    # Kept out of what torch.compile traces, for half a microsecond a call.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def product(self, inputs: Tensor, factors: Factors | None = None) -> Tensor:
        """Return x·W̃ᵀ + (x·Aᵀ)·Bᵀ (tokens × rows) for x (tokens × columns) and factors A and B."""
        inputs, tokens = inputs.contiguous(), inputs.shape[0]
        outputs = torch.empty(tokens, self._width, **_PLAIN)
        adapter: tuple[int | None, ...] = (None, None, None, 0)
        if factors is not None:
            A, B = factors[0].contiguous(), factors[1].contiguous()
            inside = torch.empty(tokens, A.shape[0], **_PLAIN)
            adapter = (A.data_ptr(), B.data_ptr(), inside.data_ptr(), A.shape[0])
        _library().product(
            *(self._reference, inputs.data_ptr(), outputs.data_ptr()),
            *(tokens, torch.get_num_threads(), *adapter, self._rows),
        )
        return outputs if self._width == self._rows else outputs[:, : self._rows]


def use_compiled_product(model: nn.Module) -> list[str]:
    """Have a packed model's layers compute single tokens on the CPU by compiled code.

    Weights are to the bit those of before, sums are in another order. The code is compiled by
    ``cc``, or what the variable ``CC`` names.

    Returns:
        The packed layers that compute as before: those of a quantizer without levels, whose rows
        are no whole words of codes, or that are not on the CPU.

    Raises:
        InputError: If the machine has no compiler, or it fails.
    """
    _library()
    others = []
    for name, module in model.named_modules():
        if isinstance(module, PackedModule):
            module.compiled = compiled_weight(module)
            if module.compiled is None:
                others.append(name)
    return others


def compiled_weight(module: PackedModule) -> CompiledWeight | None:
    """Return a module's weight as the compiled product reads it; None if it cannot."""
    decoder = module.quantizer
    weight = decoder.as_levels(module.quantized()) if isinstance(decoder, SupportsLevels) else None
    if weight is None or not weight.codes.is_cpu:
        return None
    bits = 4 if weight.bits == 3 else weight.bits
    codes_of_word = 32 // bits
    if bits not in (2, 4, 8) or weight.group_size % codes_of_word:
        return None
    levels = weight.levels
    if levels is None and bits < 8:
        levels = torch.arange(2**weight.bits, **_PLAIN)
    if levels is not None and bits < 8:
        levels = levels.repeat(16 // len(levels))
    return CompiledWeight(
        module.shape,
        bits,
        weight.group_size,
        _words(weight.codes, bits),
        _tiles(weight.scales),
        None if weight.zero_points is None else _tiles(weight.zero_points),
        levels,
    )


def _words(codes: Tensor, bits: int) -> Tensor:
    """Return codes (rows × columns) as words (tiles × words of a row × lanes), int32."""
    rows, columns = codes.shape
    count = 32 // bits
    padded = nn.functional.pad(codes, (0, 0, 0, -rows % LANES))
    grouped = padded.view(-1, LANES, columns // count, count)
    words = torch.zeros(grouped.shape[:3], dtype=torch.int32)
    for place in range(count):
        words |= grouped[..., place].to(torch.int32) << bits * place
    return words.transpose(1, 2).contiguous()


def _tiles(values: Tensor) -> Tensor:
    """Return values of groups (rows × groups) as tiles (tiles × groups × lanes), float32."""
    rows, groups = values.shape
    padded = nn.functional.pad(values.float(), (0, 0, 0, -rows % LANES))
    return padded.view(-1, LANES, groups).transpose(1, 2).contiguous()


@cache
def _library() -> Any:
    """Compile the source and load it; nothing is kept on disk."""
    compiler = os.environ.get("CC", "cc")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "product.so"
        failure = ""
        # Without OpenMP, such as with some builds of Clang, it runs on one thread.
        for threads in (("-fopenmp",), ()):
            command = [compiler, *_FLAGS, *threads, str(_SOURCE), "-o", str(target)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=_SECONDS
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise InputError(
                    f"the compiled product needs a C compiler, and {compiler!r} cannot be run"
                    f" ({error}); install one, or name it in the variable CC"
                ) from error
            if done.returncode == 0:
                # OpenMP is that of PyTorch, which has its library loaded.
                library = ctypes.CDLL(str(target))
                break
            failure = failure or done.stderr.strip()
        else:
            raise InputError(f"{compiler} cannot compile {_SOURCE.name}: {failure[-300:]}")
    library.product.restype = None
    library.product.argtypes = (
        *(ctypes.c_void_p,) * 3,
        *(ctypes.c_int64, ctypes.c_int),
        *(ctypes.c_void_p,) * 3,
        *(ctypes.c_int64,) * 2,
    )
    return library
