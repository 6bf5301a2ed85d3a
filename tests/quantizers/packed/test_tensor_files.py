"""Safetensors files from plans: bytes as the library writes them, in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from qsearch_quantizers.packed.stored_types import decode_factor, encode_factor
from qsearch_quantizers.packed.tensor_files import (
    file_bytes,
    planned,
    split_plan,
    tensor_files,
)
from safetensors.torch import save_file

from qsearch.errors import InputError

TYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64),
)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """A tensor of each type, one without elements, one of no dimension, and names to be escaped."""
    made = {f"layer.{n}": torch.arange(n + 1).to(dtype) for n, dtype in enumerate(TYPES)}
    made |= {"empty": torch.empty(0, 3), "number": torch.tensor(2.5), 'é"\\': torch.ones(3, 5)}
    return made


def plan_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: planned(tuple(one.shape), one.dtype) for name, one in tensors.items()}


def test_a_file_has_the_bytes_of_the_library_whatever_the_order_of_writing(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    plan = plan_of(tensors)
    with tensor_files(tmp_path, {"ours": plan}) as put:
        for name in reversed(list(tensors)):
            put(name, tensors[name])
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    written = (tmp_path / "ours").read_bytes()
    assert written == (tmp_path / "theirs").read_bytes()
    assert file_bytes(plan) == len(written)


def test_files_have_as_many_bytes_of_tensors_as_allowed(tensors: dict[str, torch.Tensor]) -> None:
    plan = plan_of(tensors)
    assert list(split_plan(plan, 10**6, "part{suffix}")) == ["part"]
    files = split_plan(plan, 200, "part{suffix}")
    assert len(files) > 1
    assert {name for part in files.values() for name in part} == set(plan)
    assert all(sum(one.nbytes for one in part.values()) <= 200 for part in files.values())


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, r"planned are not written: \['one'\]"),
        ({"one": torch.ones(3)}, r"one is torch.float32 of shape \(3,\), .* of shape \(2,\)"),
        ({"one": torch.ones(2).half()}, r"one is torch.float16 of shape .* torch.float32"),
    ],
)
def test_what_is_written_is_what_was_planned(
    written: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    def write() -> None:
        with tensor_files(tmp_path, {"file": {"one": planned((2,), torch.float32)}}) as put:
            for name, tensor in written.items():
                put(name, tensor)

    with pytest.raises(InputError, match=message):
        write()


def test_codes_of_an_adapter_are_as_exact_as_their_block_allows() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(3, 50, generator=generator) * torch.tensor([[1.0], [1e-6], [0.0]])
    codes, scales = encode_factor(factor)
    assert codes.shape == factor.shape
    assert scales.shape == (3,)  # 150 weights in blocks of 64.
    back = decode_factor(codes, scales, torch.float32)
    blocks = torch.nn.functional.pad(factor.view(-1), (0, 42)).view(3, 64).abs().amax(dim=1)
    allowed = blocks.repeat_interleave(64)[:150].view(3, 50) * (0.5 / 127 + 2**-9)
    assert ((back - factor).abs() <= allowed).all()
    assert torch.equal(decode_factor(*encode_factor(back), torch.float32)[2], torch.zeros(50))
