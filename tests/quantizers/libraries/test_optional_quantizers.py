"""What the quantizers of other packages have in common; what is their own has a file for each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from qsearch_quantizers.libraries.bitsandbytes import BitsAndBytes
from qsearch_quantizers.libraries.hqq import HQQ
from qsearch_quantizers.libraries.optional import is_importable
from qsearch_quantizers.libraries.torchao import TorchAO
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.testing.samples import normal_weight, round_trip


def one_step(weight: Tensor, quantized: QuantizedTensor) -> Tensor:
    steps = quantized.tensors["scales"].float()
    steps = steps.repeat_interleave(quantized.configuration.integer("group_size"), dim=1)
    return 1.02 * steps[:, : weight.shape[1]]


def one_step_and_float16(weight: Tensor, quantized: QuantizedTensor) -> Tensor:
    return one_step(weight, quantized) + 1e-3 * weight.abs()


def half_the_widest_gap(weight: Tensor, quantized: QuantizedTensor) -> Tensor:
    # As a part of the greatest weight; the rest is for double quantization.
    layer = quantized.configuration
    gap = {"fp4": 1 / 6, "nf4": 0.152, "int8": 1 / 254}[layer.text("data_type")]
    slack = 0.02 if layer.integer("scale_bits") == 8 else 1e-4
    return (gap + slack) * weight.abs().max()


@dataclass(frozen=True)
class Case:
    """A quantizer of a package of its name.

    Args:
        plugin: Its class.
        knobs: Its knobs and their values.
        wrong_options: Options that it refuses.
        furthest: Returns how far from a weight its quantized one may be.
        decodes_without: Whether it needs its package to quantize alone.
    """

    plugin: Any
    knobs: dict[str, tuple[int | str, ...]]
    wrong_options: tuple[dict[str, Any], ...]
    furthest: Callable[[Tensor, QuantizedTensor], Tensor]
    decodes_without: bool = False

    @property
    def name(self) -> str:
        return str(self.plugin.name)

    @property
    def quantizer(self) -> Any:
        """The quantizer with all values of its knobs; the test is skipped without its package."""
        pytest.importorskip(self.name)
        return self.plugin(self.plugin.Options())


CASES = (
    Case(
        BitsAndBytes,
        {
            "data_type": ("fp4", "nf4", "int8"),
            "block_size": (64, 128, 256, 512),
            "scale_bits": (8, 32),
        },
        ({"data_type": ["int4"]}, {"block_size": []}, {"scale_bits": [8, 8]}, {"x": 1}),
        half_the_widest_gap,
    ),
    Case(
        HQQ,
        {"bits": (2, 3, 4, 8), "group_size": (32, 64, 128)},
        ({"bits": [1]}, {"bits": []}, {"group_size": [64, 64]}, {"x": 1}),
        one_step_and_float16,
        decodes_without=True,
    ),
    Case(
        TorchAO,
        {
            "bits": (4, 8),
            "group_size": (32, 64, 128, 256),
            "scheme": ("symmetric", "asymmetric"),
        },
        ({"bits": [3]}, {"group_size": []}, {"scheme": ["symmetric"] * 2}, {"x": 1}),
        one_step,
        decodes_without=True,
    ),
)

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@EACH
def test_its_knobs_have_their_values(case: Case) -> None:
    assert {knob.name: knob.values for knob in case.quantizer.choices().knobs} == case.knobs


@pytest.mark.parametrize(
    ("case", "options"),
    [
        pytest.param(case, options, id=f"{case.name}-{options}")
        for case in CASES
        for options in case.wrong_options
    ],
)
def test_wrong_options_are_refused(case: Case, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        case.plugin.Options.model_validate(options)


@EACH
@given(data=st.data(), rows=st.integers(1, 9), columns=st.integers(1, 600))
@settings(max_examples=40, deadline=None)
def test_every_weight_is_near_in_any_shape(
    case: Case, data: st.DataObject, rows: int, columns: int
) -> None:
    quantizer, weight = case.quantizer, normal_weight(rows, columns, seed=columns)
    layer = data.draw(st.sampled_from(quantizer.choices().layer_configurations))
    quantized = quantizer.quantize(weight, layer)
    restored = quantizer.dequantize(quantized)
    layout = quantizer.layout((rows, columns), layer)
    assert {k: (tuple(v.shape), v.dtype) for k, v in quantized.tensors.items()} == {
        k: (v.shape, v.dtype) for k, v in layout.items()
    }
    assert restored.shape == weight.shape
    assert restored.dtype == torch.float32
    assert ((restored - weight).abs() <= case.furthest(weight, quantized)).all()


@EACH
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_huge_and_tiny_weights_stay_finite(case: Case, scale: float) -> None:
    weight, quantizer = normal_weight(5, 67, 0.02 * scale), case.quantizer
    for layer in quantizer.choices().layer_configurations:
        assert round_trip(quantizer, weight, layer).isfinite().all()


@EACH
def test_a_missing_package_names_the_extra(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer, weight = case.quantizer, normal_weight(2, 100)
    first = quantizer.choices().layer_configuration(0)
    quantized = quantizer.quantize(weight, first)
    restored = quantizer.dequantize(quantized)
    monkeypatch.setitem(sys.modules, case.name, None)
    message = rf"quantizer '{case.name}' needs .* pip install 'qsearch\[{case.name}\]'"
    with pytest.raises(InputError, match=message):
        quantizer.quantize(weight, first)
    if case.decodes_without:
        assert torch.equal(quantizer.dequantize(quantized), restored)
        return
    with pytest.raises(InputError, match=message):
        quantizer.dequantize(quantized)


def test_a_package_that_fails_while_it_is_imported_is_not_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_another_cuda.py").write_text("raise OSError('libcudart.so: no such file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_importable("of_another_cuda")
    assert not is_importable("no_such_package")
    assert is_importable("json")
