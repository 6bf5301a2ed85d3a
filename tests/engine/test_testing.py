"""The kit for quantizers: a right one passes, and each check fails on one with a fault for it."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from qsearch.configuration import Choices, Knob, LayerConfiguration
from qsearch.errors import InputError
from qsearch.layers import LayerSpec
from qsearch.layout import TensorLayout
from qsearch.plugins import QuantizedTensor
from qsearch.testing import (
    ConformanceError,
    QuantizerConformance,
    TrainerConformance,
    check_quantizer,
)
from qsearch.testing.samples import (
    draw_configurations,
    normal_weight,
    rank_correlation,
    relative_error,
    sample_layer_configurations,
)
from tests.engine.support import NORMAL_FLOAT

Fault = tuple[str, str, type]
FAULTS: list[Fault] = []


def fails(check: str, told: str) -> Callable[[type], type]:
    """List a faulty quantizer with the check that it fails, and what that says (a pattern)."""

    def listed(plugin: type) -> type:
        FAULTS.append((f"test_{check}", told, plugin))
        return plugin

    return listed


class Rounding:
    """Rounds to nearest on a symmetric grid of each group of a row; float16 scales."""

    name = "rounding"

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

        bits: tuple[Literal[2, 3, 4, 8], ...] = (2, 3, 4, 8)
        group_size: tuple[Literal[16, 32], ...] = (16, 32)

    def __init__(self, options: Any) -> None:
        self.options = options

    def choices(self) -> Choices:
        options = self.options
        return Choices((Knob("bits", options.bits), Knob("group_size", options.group_size)))

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        return configuration.integer("bits") + 16 / configuration.integer("group_size")

    def check(self, weight: torch.Tensor, configuration: LayerConfiguration) -> None:
        self.choices().index(configuration)
        if weight.ndim != 2 or not weight.is_floating_point() or not weight.isfinite().all():
            raise InputError("no finite floating-point matrix")

    def grid(self, groups: torch.Tensor, bits: int) -> torch.Tensor:
        return groups.abs().amax(-1, keepdim=True) / 2 ** (bits - 1)

    def quantize(self, weight: torch.Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        self.check(weight, configuration)
        bits, size = configuration.integer("bits"), configuration.integer("group_size")
        rows, columns = weight.shape
        padded = torch.nn.functional.pad(weight.detach().float(), (0, -columns % size))
        groups = padded.view(rows, -1, size)
        scales = self.grid(groups, bits).half()
        wide, half = scales.float(), 2 ** (bits - 1)
        codes = (groups / torch.where(wide == 0, torch.inf, wide)).round().clamp(-half, half - 1)
        codes = (codes + half).to(torch.uint8).view(rows, -1)[:, :columns].contiguous()
        tensors = {"codes": codes, "scales": scales.squeeze(-1)}
        return QuantizedTensor(tensors, (rows, columns), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> torch.Tensor:
        return self.dequantize_rows(quantized, 0, quantized.shape[0])

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> torch.Tensor:
        size = quantized.configuration.integer("group_size")
        half = 2 ** (quantized.configuration.integer("bits") - 1)
        codes = quantized.tensors["codes"][first:last].float() - half
        scales = quantized.tensors["scales"][first:last].float().repeat_interleave(size, 1)
        return codes * scales[:, : quantized.shape[1]]

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> dict[str, TensorLayout]:
        groups = (shape[0], math.ceil(shape[1] / configuration.integer("group_size")))
        return {
            "codes": TensorLayout(shape, torch.uint8, configuration.integer("bits")),
            "scales": TensorLayout(groups, torch.float16, None),
        }


class Stored(Rounding):
    """Stores other tensors than it should."""

    def stored(self, weight: torch.Tensor, tensors: dict[str, torch.Tensor]) -> Any:
        raise NotImplementedError

    def quantize(self, weight: Any, configuration: Any) -> Any:
        right = super().quantize(weight, configuration)
        return replace(right, tensors=self.stored(weight, dict(right.tensors)))


class Restored(Rounding):
    """Dequantizes to other weights than it should."""

    def restored(self, weight: torch.Tensor, quantized: QuantizedTensor) -> Any:
        raise NotImplementedError

    def dequantize(self, quantized: Any) -> Any:
        return self.restored(super().dequantize(quantized), quantized)


@fails("it_has_a_name_and_knobs", "name: expected text, found ''")
class WithoutName(Rounding):
    name = ""


@fails("it_has_a_name_and_knobs", "choices, called again")
class OtherKnobsEachTime(Rounding):
    calls = 0

    def choices(self) -> Choices:
        self.calls += 1
        return Choices((Knob("bits", tuple(range(1, 3 + self.calls))),))


@fails("options_refuse_fields_that_they_do_not_know", "expected ValidationError, found that it is")
class TakesAnyOption(Rounding):
    class Options(Rounding.Options):
        model_config = ConfigDict(extra="ignore")


@fails("options_as_json_make_an_equal_quantizer", "choices: expected")
class LeavesOptionsOut(Rounding):
    class Options(Rounding.Options):
        bits: tuple[int, ...] = Field(default=(2, 3, 4, 8), exclude=True)


@fails("options_as_json_make_an_equal_quantizer", "attribute options: expected a pydantic model")
class KeepsNoOptions(Rounding):
    def __init__(self, options: Any) -> None:
        self.own = options

    def choices(self) -> Choices:
        return Choices((Knob("bits", self.own.bits),))


@fails("weights_of_any_shape_come_back_as_float32_of_that_shape", "expected torch.float32, found")
class InDoublePrecision(Restored):
    def restored(self, weight: Any, quantized: Any) -> Any:
        return weight.double()


@fails("weights_of_any_shape_come_back_as_float32_of_that_shape", r"expected \(1, 64\), found \(64")
class Transposes(Restored):
    def restored(self, weight: Any, quantized: Any) -> Any:
        return weight.t()


@fails("weights_of_any_shape_come_back_as_float32_of_that_shape", "mat|shape|size")
class WholeGroupsOnly(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        weight.view(weight.shape[0], -1, configuration.integer("group_size"))
        return super().quantize(weight, configuration)


@fails("where_the_weight_lies_in_memory_does_not_matter", "expected the same values, found")
class ReadsMemoryInOrder(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        return super().quantize(
            weight.as_strided(weight.shape, (weight.shape[1], 1)), configuration
        )


@fails("half_precision_weights_are_taken", "no float32")
class Float32Only(Rounding):
    def check(self, weight: Any, configuration: Any) -> None:
        super().check(weight, configuration)
        if weight.dtype != torch.float32:
            raise InputError("no float32")


@fails("half_precision_weights_are_taken", "relative error of a torch.bfloat16 weight")
class CoarseInHalfPrecision(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        narrow = weight.dtype == torch.bfloat16
        return super().quantize(
            weight.to(torch.float8_e5m2).float() if narrow else weight, configuration
        )


@fails("the_weight_is_left_as_it_was_and_not_kept", "weight after quantize")
class ChangesTheWeight(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        weight.detach().clamp_(-0.01, 0.01)
        return super().quantize(weight, configuration)


@fails("the_weight_is_left_as_it_was_and_not_kept", "dequantized after the weight changed")
class KeepsTheWeight(Stored):
    def stored(self, weight: Any, tensors: Any) -> Any:
        return {"weight": weight.detach()}

    def dequantize(self, quantized: Any) -> Any:
        return quantized.tensors["weight"].float()


@fails(
    "a_weight_that_is_trained_gives_no_graph", r"expected \[\], found \['scales', 'dequantized'\]"
)
class KeepsTheGraph(Stored):
    def stored(self, weight: Any, tensors: Any) -> Any:
        return {**tensors, "scales": tensors["scales"] + 0 * weight.half().sum()}


@fails("a_dequantized_weight_is_the_callers_own", "dequantized again")
class Caches(Restored):
    def restored(self, weight: Any, quantized: Any) -> Any:
        self.cache = getattr(self, "cache", {})
        return self.cache.setdefault(id(quantized), weight)


@fails("a_quantized_weight_says_its_shape_and_layer_configuration", r"shape, .*expected \(1, 64\)")
class SaysAnotherShape(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        right = super().quantize(weight, configuration)
        return replace(right, shape=right.shape[::-1])


@fails("a_quantized_weight_says_its_shape_and_layer_configuration", "layer configuration: expected")
class SaysAnotherConfiguration(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        right = super().quantize(weight, configuration)
        return replace(right, configuration=self.choices().layer_configuration(0))


@fails("tensors_are_plain_and_come_back_from_safetensors", "expected a plain contiguous.* strides")
class StoresAView(Stored):
    def stored(self, weight: Any, tensors: Any) -> Any:
        return {**tensors, "codes": tensors["codes"].t().contiguous().t()}


@fails("tensors_are_plain_and_come_back_from_safetensors", "found a Parameter")
class StoresAParameter(Stored):
    def stored(self, weight: Any, tensors: Any) -> Any:
        return {**tensors, "scales": torch.nn.Parameter(tensors["scales"])}


@fails("tensors_are_plain_and_come_back_from_safetensors", "safetensors: ")
class StoresOneMemoryTwice(Stored):
    def stored(self, weight: Any, tensors: Any) -> Any:
        return {**tensors, "again": tensors["scales"]}


@fails("tensors_are_plain_and_come_back_from_safetensors", "scales|loaded")
class KeepsScalesToItself(Stored):
    def stored(self, weight: Any, tensors: Any) -> Any:
        self.scales = tensors.pop("scales")
        return tensors

    def dequantize(self, quantized: Any) -> Any:
        tensors = {**quantized.tensors, "scales": self.scales}
        return super().dequantize(replace(quantized, tensors=tensors))


@fails("storage_bits_are_those_of_the_stored_bytes", "expected 2.0000, .* found 3.0000")
class CountsNoScales(Rounding):
    def storage_bits(self, configuration: Any) -> float:
        return float(configuration.integer("bits"))


@fails("storage_bits_are_those_of_the_stored_bytes", "expected a positive number, found")
class CountsNothing(Rounding):
    def storage_bits(self, configuration: Any) -> float:
        return 0.0


@fails("storage_bits_are_those_of_the_stored_bytes", "found 9.0000")
class CodesInWholeBytes(Rounding):
    layout = None


@fails("tensors_are_as_the_layout_says", "codes: expected")
class LayoutOfAnotherShape(Rounding):
    def layout(self, shape: Any, configuration: Any) -> Any:
        return super().layout(shape[::-1], configuration)


@fails("tensors_are_as_the_layout_says", "names: expected")
class LayoutOfMoreTensors(Rounding):
    def layout(self, shape: Any, configuration: Any) -> Any:
        more = {"zero_points": TensorLayout(shape, torch.uint8, None)}
        return super().layout(shape, configuration) | more


@fails("tensors_are_as_the_layout_says", "codes of 1 bits: expected less than 2, found [23]")
class LayoutOfTooFewBits(Rounding):
    def layout(self, shape: Any, configuration: Any) -> Any:
        right = super().layout(shape, configuration)
        return {**right, "codes": replace(right["codes"], bits=right["codes"].bits - 1)}


@fails("rows_alone_are_those_of_the_whole_weight", "rows .*expected the same values")
class OtherRows(Rounding):
    def dequantize(self, quantized: Any) -> Any:
        return super().dequantize_rows(quantized, 0, quantized.shape[0])

    def dequantize_rows(self, quantized: Any, first: int, last: int) -> Any:
        return super().dequantize_rows(quantized, 0, last - first)


@fails("equal_weights_give_equal_tensors", "quantized again")
class CountsItsCalls(Stored):
    calls = 0

    def stored(self, weight: Any, tensors: Any) -> Any:
        self.calls += 1
        return {**tensors, "scales": tensors["scales"] * (1 + self.calls % 2 / 10)}


@fails("equal_weights_give_equal_tensors", "by another")
class EachInstanceItsOwn(Stored):
    instances = 0

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        EachInstanceItsOwn.instances += 1
        self.factor = 1 + EachInstanceItsOwn.instances / 100

    def stored(self, weight: Any, tensors: Any) -> Any:
        return {**tensors, "scales": tensors["scales"] * self.factor}


@fails("random_numbers_and_settings_of_the_process_play_no_part", "other seed")
class RoundsAtRandom(Stored):
    def stored(self, weight: Any, tensors: Any) -> Any:
        with torch.random.fork_rng():
            return {**tensors, "scales": tensors["scales"] * (1 + torch.rand(1).half() / 10)}


@fails("random_numbers_and_settings_of_the_process_play_no_part", "checksum of the generator's")
class SeedsTheProcess(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        torch.manual_seed(0)
        return super().quantize(weight, configuration)


@fails("random_numbers_and_settings_of_the_process_play_no_part", "whether gradients are computed")
class TurnsGradientsOff(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        torch.set_grad_enabled(False)
        return super().quantize(weight, configuration)


@fails("the_relative_error_is_below_one", "expected less than 1, found 1.0")
class ReturnsZeros(Restored):
    def restored(self, weight: Any, quantized: Any) -> Any:
        return torch.zeros_like(weight)


@fails("zeros_stay_zeros", "expected 0, found 0.0")
class ZeroIsNoLevel(Restored):
    def restored(self, weight: Any, quantized: Any) -> Any:
        return weight + 0.001


@fails("rows_without_spread_stay_finite", "expected finite values, found [0-9]+ that are not")
class DividesByTheSpread(Rounding):
    def grid(self, groups: Any, bits: int) -> Any:
        spread = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
        return super().grid(groups, bits) * (spread / spread)


@fails("more_bits_give_less_error", "expected each below the one before, found")
class WastesABit(Restored):
    def restored(self, weight: Any, quantized: Any) -> Any:
        return weight if quantized.configuration["bits"] != 4 else 1.5 * weight


@fails("the_error_falls_as_storage_bits_grow", "rank correlation .* expected less than 0, found")
class BetterWithFewerBits(Restored):
    def restored(self, weight: Any, quantized: Any) -> Any:
        return weight * (1 + quantized.configuration.integer("bits"))


@fails("the_error_does_not_depend_on_the_weights_magnitude", "standard deviation 0.001")
class AtLeastAScale(Rounding):
    def grid(self, groups: Any, bits: int) -> Any:
        return super().grid(groups, bits).clamp(min=1e-3)


@fails("the_error_does_not_depend_on_the_weights_magnitude", "standard deviation 200")
class AtMostAScale(Rounding):
    def grid(self, groups: Any, bits: int) -> Any:
        return super().grid(groups, bits).clamp(max=1.0)


@fails(
    "layer_configurations_of_others_are_refused", "unknown knob: expected InputError, found that"
)
class TakesAnyConfiguration(Rounding):
    def choices(self) -> Any:
        right = super().choices()
        return SimpleNamespace(
            knobs=right.knobs, layer_configuration=right.layer_configuration, index=lambda _: 0
        )


@fails("layer_configurations_of_others_are_refused", "expected InputError, found KeyError")
class FailsOnOtherConfigurations(Rounding):
    def check(self, weight: Any, configuration: Any) -> None:
        if set(configuration) != {"bits", "group_size"}:
            raise KeyError("bits")


@fails("what_is_no_weight_is_refused", "a weight with nan: expected InputError, found that it is")
class TakesNaN(Rounding):
    def check(self, weight: Any, configuration: Any) -> None:
        super().check(torch.zeros_like(weight), configuration)


@fails("what_is_no_weight_is_refused", "a vector: expected InputError, found ValueError")
class FailsOnVectors(Rounding):
    def check(self, weight: Any, configuration: Any) -> None:
        if weight.ndim != 2:
            raise ValueError("not enough values to unpack")
        super().check(weight, configuration)


class ForInputs(Rounding):
    """Shrinks a group's scale where that is better for the inputs, each row on its own."""

    needs_inputs = True

    def quantize_for_inputs(self, weight: Any, configuration: Any, moment: Any) -> Any:
        if moment.shape != (weight.shape[-1], weight.shape[-1]):
            raise InputError("the moment has another shape")
        return self.better(weight, configuration, moment)

    def better(self, weight: Any, configuration: Any, moment: Any) -> Any:
        right = self.quantize(weight, configuration)
        shrunk = replace(right, tensors={**right.tensors, "scales": right.tensors["scales"] * 0.9})
        off = [self.dequantize(one) - weight.detach().float() for one in (right, shrunk)]
        plain, small = (((D @ moment) * D).sum(1, keepdim=True) for D in off)
        scales = torch.where(
            small < plain, shrunk.tensors["scales"], right.tensors["scales"]
        ).contiguous()
        return replace(right, tensors={**right.tensors, "scales": scales})


@fails("known_inputs_lower_the_error_of_outputs", "expected less than")
class MindsNoInputs(ForInputs):
    def better(self, weight: Any, configuration: Any, moment: Any) -> Any:
        return self.quantize(weight, configuration)


@fails("each_row_depends_on_itself_and_the_inputs_alone", "rows 5 to 9, .*expected the same")
class OneGridForAllRows(ForInputs):
    def grid(self, groups: Any, bits: int) -> Any:
        return super().grid(groups, bits).amax(0, keepdim=True).expand(len(groups), -1, -1).clone()


@fails("inputs_of_another_size_are_refused", "expected InputError, found RuntimeError")
class FailsOnOtherInputs(ForInputs):
    def quantize_for_inputs(self, weight: Any, configuration: Any, moment: Any) -> Any:
        return self.better(weight, configuration, moment)


@fails("it_works_on_a_gpu", "device of")
class StaysOnTheCPU(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        return super().quantize(weight.cpu(), configuration)


def made(plugin: Any) -> Any:
    return plugin(plugin.Options(bits=(2, 4, 8)))


class TestRightQuantizer(QuantizerConformance):
    def make(self) -> Rounding:
        return made(Rounding)


class TestRightQuantizerForInputs(QuantizerConformance):
    def make(self) -> Rounding:
        return made(ForInputs)


def test_every_check_has_a_quantizer_that_fails_it() -> None:
    assert {check for check, _, _ in FAULTS} == set(QuantizerConformance.checks())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2].__name__)
def test_a_quantizer_with_a_fault_fails_the_check_for_it(fault: Fault) -> None:
    check, told, plugin = fault
    if check == "test_it_works_on_a_gpu" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    with pytest.raises(ConformanceError) as caught:
        check_quantizer(made(plugin))
    assert check in caught.value.failures
    assert re.search(told, caught.value.failures[check]), caught.value.failures[check]


def test_a_quantizer_is_named_as_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [SimpleNamespace(name="other", target=f"{Rounding.__module__}:Rounding")]
    monkeypatch.setattr("qsearch.testing.quantizers.installed_plugins", lambda group: found)
    with pytest.raises(ConformanceError, match=r"expected that of \['other'\], found 'rounding'"):
        check_quantizer(made(Rounding))


def test_one_call_checks_all_and_names_each_failed_check() -> None:
    check_quantizer(made(Rounding))
    with pytest.raises(AssertionError) as caught:
        check_quantizer(made(ReturnsZeros))
    failed = [
        "test_rows_alone_are_those_of_the_whole_weight",
        "test_the_relative_error_is_below_one",
        "test_more_bits_give_less_error",
        "test_the_error_falls_as_storage_bits_grow",
    ]
    count = len(QuantizerConformance.checks())
    first, *lines = str(caught.value).splitlines()
    assert first == f"quantizer 'rounding' fails 4 of {count} checks"
    assert [line.split(":")[0].strip() for line in lines] == failed


def test_a_quantizer_that_raises_fails_the_check_and_no_other_is_left_out() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_quantizer(made(WholeGroupsOnly))
    failures = caught.value.failures
    assert (
        "raised RuntimeError"
        in failures["test_weights_of_any_shape_come_back_as_float32_of_that_shape"]
    )
    assert "test_more_bits_give_less_error" not in failures


def run(*arguments: str | Path) -> str:
    """Run Python in a new process and return what it printed."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_script_needs_no_pytest_and_no_assert_statements() -> None:
    script = """
import sys
sys.modules["pytest"] = None  # Importing it fails.
from qsearch.plugins import load_plugin
from qsearch.testing import check_quantizer
plugin = load_plugin("quantizers", "integer")
check_quantizer(plugin(plugin.Options()))
plugin.storage_bits = lambda self, configuration: 4.0
try:
    check_quantizer(plugin(plugin.Options()))
except AssertionError as error:
    print(error)
"""
    assert "test_storage_bits_are_those_of_the_stored_bytes: " in run("-O", "-c", script)


def test_pytest_collects_a_subclass_and_not_the_kits(tmp_path: Path) -> None:
    path = tmp_path / "test_mine.py"
    path.write_text(
        "from qsearch.testing import *\n"
        "class TestMine(QuantizerConformance): ...\n"
        "class Shared(TrainerConformance): __test__ = False\n"
        "class TestShared(Shared): ...\n"
    )
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    collected = run("-m", "pytest", *options, path)
    expected = [f"test_mine.py::TestMine::{name}" for name in QuantizerConformance.checks()]
    expected += [f"test_mine.py::TestShared::{name}" for name in TrainerConformance.checks()]
    assert [line for line in collected.splitlines() if "::" in line] != []
    assert {line for line in collected.splitlines() if "::" in line} == set(expected)


def test_a_kit_without_a_plugin_says_what_it_needs() -> None:
    with pytest.raises(NotImplementedError, match="QuantizerConformance needs a method make"):
        QuantizerConformance().make()
    kit = TrainerConformance()
    for method in (kit.make, kit.make_other, kit.quantizer):
        with pytest.raises(NotImplementedError, match=f"needs a method {method.__name__}"):
            method()


# Samples


def test_few_layer_configurations_are_all_tried() -> None:
    choices = made(Rounding).choices()
    assert sample_layer_configurations(choices, 6) == choices.layer_configurations


@pytest.mark.parametrize("most", [10, 48, 200])
def test_a_sample_holds_the_corners_of_each_knob_and_is_even_over_its_values(most: int) -> None:
    sample = sample_layer_configurations(NORMAL_FLOAT, most)
    assert len(set(sample)) == len(sample) <= most + 12
    for end, other in ((0, -1), (-1, 0)):
        corner = {knob.name: knob.values[end] for knob in NORMAL_FLOAT.knobs}
        assert LayerConfiguration(corner) in sample
        for knob in NORMAL_FLOAT.knobs:
            moved = LayerConfiguration({**corner, knob.name: knob.values[other]})
            assert moved in sample
    for knob in NORMAL_FLOAT.knobs:
        counts = [sum(one[knob.name] == value for one in sample) for value in knob.values]
        # Twelve corners hold each end of a knob six times, and no other value.
        assert max(counts) - min(counts) <= 6 + max(2, most / 10)


def test_configurations_are_distinct_and_always_the_same() -> None:
    layers = [LayerSpec(f"layer.{index}", "query", index, (4, 4)) for index in range(2)]
    choices = Choices((Knob("bits", (2, 4)),))
    drawn = draw_configurations(layers, choices, 4)
    assert len(set(drawn)) == 4
    assert draw_configurations(layers, choices, 4) == drawn
    with pytest.raises(ValueError, match="2 layers of 2 choices: less than 5"):
        draw_configurations(layers, choices, 5)


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation([1, 2, 3], [1, 10, 11]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [5, 4, -1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)
    assert rank_correlation([1, 2, 3], [7, 7, 7]) == 0


def test_relative_error_is_that_of_the_norms() -> None:
    weight = normal_weight(16, 64)
    chosen = made(Rounding).choices().layer_configuration(0)
    assert relative_error(made(ReturnsZeros), weight, chosen) == 1
