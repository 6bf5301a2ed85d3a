"""Which PyTorch devices a study may run on, and the number format of their matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from qsearch.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "auto"]


def parse_device(name: str) -> torch.device:
    """Return the device of a name, which this machine may lack.

    Raises:
        ValueError: If PyTorch knows no such device, or it holds no values.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"{name!r} is not a PyTorch device, such as cpu, cuda or cuda:1"
        ) from error
    if device.type == "meta":
        raise ValueError("the device meta holds no values; give one such as cpu or cuda")
    return device


def require_device(name: str) -> None:
    """Raise InputError unless this machine can hold tensors on a device."""
    import torch

    try:
        torch.zeros(1, device=parse_device(name))
    # PyTorch raises an AssertionError where it was built without the device.
    except (RuntimeError, ValueError, AssertionError, NotImplementedError, ImportError) as error:
        accelerator, count = (
            torch.accelerator.current_accelerator(),
            torch.accelerator.device_count(),
        )
        devices = ["cpu", *(f"{accelerator}:{index}" for index in range(count))]
        raise InputError(
            f"trainer.device {name!r} cannot be used on this machine; available:"
            f" {', '.join(devices)}"
        ) from error


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # There is no public function; oneDNN decides by the same flags.
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Return whether a device uses bfloat16 autocast under an option."""
    return precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(device))


def autocast(bfloat16: bool, device: torch.device) -> AbstractContextManager[object]:
    """Return the context that a forward pass runs in."""
    import torch

    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()
