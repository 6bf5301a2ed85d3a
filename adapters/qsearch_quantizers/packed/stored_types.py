"""Types in which exports store tensors: 16 bits for what is not quantized, 8 for an adapter."""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch_quantizers.packed.adapter_bytes import ADAPTER_BLOCK, scales_of
from qsearch_quantizers.packed.tensor_files import Plan, planned

ADAPTER_SCALE = torch.bfloat16
"""Type of these scales: an adapter's values are as small as float16 cannot hold."""

_TOP = 127


def stored_dtype(own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Return the type that a tensor of some type is stored in: integers keep their own."""
    return dtype if own.is_floating_point else own


def as_stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in the type that it is stored in.

    Raises:
        InputError: If a value is too large for it; the message names the tensor.
    """
    cast = tensor.to(stored_dtype(tensor.dtype, dtype))
    if cast.is_floating_point() and cast.dtype != tensor.dtype:
        lost = ~cast.isfinite() & tensor.isfinite()
        if lost.any():
            largest = float(tensor[lost].abs().max())
            kind = str(dtype).removeprefix("torch.")
            raise InputError(
                f"--dtype {kind}: {name} has a value of size {largest:.4g}, and {kind} ends at"
                f" {torch.finfo(dtype).max:.5g}; use bfloat16 or float32"
            )
    return cast


def factor_plan(
    rank: int, shape: tuple[int, int], dtype: torch.dtype, bits: int | None
) -> dict[str, Tensor]:
    """Return the plan of a layer's adapter by the names of its tensors; empty for rank 0.

    With 8 bits each factor is codes (rank × features, int8) and the scales of their blocks.
    """
    rows, columns = shape
    if not rank:
        return {}
    if bits is None:
        return {
            "adapter_A": planned((rank, columns), dtype),
            "adapter_B": planned((rows, rank), dtype),
        }
    plan = {}
    for name, features in (("adapter_A", columns), ("adapter_B", rows)):
        plan[f"{name}_codes"] = planned((rank, features), torch.int8)
        plan[f"{name}_scales"] = planned((scales_of(rank, features),), ADAPTER_SCALE)
    return plan


def stored_factors(
    layer: str, A: Tensor, B: Tensor, dtype: torch.dtype, bits: int | None
) -> dict[str, Tensor]:
    """Return a layer's adapter as :func:`factor_plan` plans it."""
    if bits is None:
        return {
            "adapter_A": as_stored(f"{layer}.adapter_A", A, dtype).contiguous(),
            "adapter_B": as_stored(f"{layer}.adapter_B", B, dtype).contiguous(),
        }
    tensors: dict[str, Tensor] = {}
    # Blocks run along features: the components of a rank differ in size.
    for name, factor in (("adapter_A", A), ("adapter_B", B.T)):
        codes, scales = encode_factor(factor)
        tensors |= {f"{name}_codes": codes, f"{name}_scales": scales}
    return tensors


def encode_factor(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes (rank × features, int8) and scales (blocks) of a factor (rank × features)."""
    flat = factor.detach().float().reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % ADAPTER_BLOCK))
    blocks = blocks.view(-1, ADAPTER_BLOCK)
    scales = (blocks.abs().amax(dim=1) / _TOP).to(ADAPTER_SCALE)
    # The codes are those of the scale as it is stored; a block of zeros has none.
    divisors = scales.float()[:, None].clamp_min(torch.finfo(torch.float32).tiny)
    codes = (blocks / divisors).round().clamp(-_TOP, _TOP).to(torch.int8)
    return codes.view(-1)[: flat.numel()].view(factor.shape), scales


def decode_factor(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the factor (rank × features) that :func:`encode_factor` encoded, in a type."""
    repeated = scales.to(dtype).repeat_interleave(ADAPTER_BLOCK)[: codes.numel()]
    return codes.to(dtype) * repeated.view(codes.shape)


def plan_of(tensors: Plan, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the plan of tensors that are stored in a type."""
    return {
        name: planned(tuple(tensor.shape), stored_dtype(tensor.dtype, dtype))
        for name, tensor in tensors.items()
    }
