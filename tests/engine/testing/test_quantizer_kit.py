"""The kit for quantizers: a right one passes, and each check fails on one with a fault for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ConfigDict, Field

from qsearch.errors import InputError
from qsearch.plugins.tensor_layout import TensorLayout
from qsearch.space.configuration import Choices, Knob, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.testing import QuantizerConformance
from qsearch.testing.comparison import assert_more_bits_pay
from qsearch.testing.quantizer.kit import NO_WEIGHTS
from qsearch.testing.quantizer.round_trip import VIEWS
from qsearch.testing.samples import (
    draw_configurations,
    normal_weight,
    relative_error,
    sample_layer_configurations,
)
from tests.engine.support import NORMAL_FLOAT
from tests.engine.testing.faults import Fault, altered, assert_found, checks
from tests.engine.testing.rounding import ForInputs, Rounding, made

FAULTS: list[Fault] = []


def fault(check: str, told: str, plugin: type, **arguments: Any) -> None:
    FAULTS.append(Fault(check, told, plugin, arguments))


def restored(change: Any) -> type:
    """A quantizer whose dequantized weights are changed."""
    return altered(Rounding, dequantize=change)


def stored(change: Any) -> type:
    """A quantizer whose tensors are changed, by the right ones and the weight."""

    def quantize(right: Any, weight: Any, configuration: Any) -> Any:
        return replace(right, tensors={**right.tensors, **change(right.tensors, weight)})

    return altered(Rounding, quantize=quantize)


def with_grid(change: Any, base: type = Rounding) -> type:
    """A quantizer with other scales than it should have."""
    return altered(base, grid=change)


def with_layout(change: Any) -> type:
    return altered(Rounding, layout=change)


# Arguments


class TakesAnyOption(Rounding):
    class Options(Rounding.Options):
        model_config = ConfigDict(extra="ignore")


class LeavesOptionsOut(Rounding):
    class Options(Rounding.Options):
        bits: tuple[int, ...] = Field(default=(2, 3, 4, 8), exclude=True)


class KeepsNoOptions(Rounding):
    def __init__(self, options: Any) -> None:
        self.own = options

    def choices(self) -> Choices:
        return Choices((Knob("bits", self.own.bits),))


class Refuses(Rounding):
    """Checks its arguments otherwise than it should."""

    def check(self, weight: torch.Tensor, configuration: LayerConfiguration) -> None:
        pass


class TakesAnyConfiguration(Rounding):
    def choices(self) -> Any:
        right = super().choices()
        return SimpleNamespace(
            knobs=right.knobs, layer_configuration=right.layer_configuration, index=lambda _: 0
        )


numbers = itertools.count(3)
fault("it_has_a_name_and_knobs", "assert ''", type("WithoutName", (Rounding,), {"name": ""}))
fault(
    "it_has_a_name_and_knobs",
    "choices, called again",
    altered(Rounding, choices=lambda _: Choices((Knob("bits", (2, next(numbers))),))),
)
fault("options_refuse_fields_that_they_do_not_know", "DID NOT RAISE", TakesAnyOption)
fault("options_as_json_make_an_equal_quantizer", "Choices", LeavesOptionsOut)
fault("options_as_json_make_an_equal_quantizer", "attribute options", KeepsNoOptions)
fault("layer_configurations_of_others_are_refused", "expected InputError", TakesAnyConfiguration)
fault("layer_configurations_of_others_are_refused", "bits", Refuses)
fault("what_is_no_weight_is_refused", "but it is taken", Refuses, weight=NO_WEIGHTS["nan"])

# Round trip


class ReadsMemoryInOrder(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        in_order = weight.as_strided(weight.shape, (weight.shape[1], 1))
        return super().quantize(in_order, configuration)


class Float32Only(Rounding):
    def check(self, weight: Any, configuration: Any) -> None:
        super().check(weight, configuration)
        if weight.dtype != torch.float32:
            raise InputError("no float32")


class OneBitLessInHalfPrecision(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        self.factor = 1 if weight.dtype == torch.float32 or configuration["bits"] != 8 else 2
        return super().quantize(weight, configuration)

    def grid(self, groups: Any, bits: int) -> Any:
        return self.factor * super().grid(groups, bits)


class ChangesTheWeight(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        weight.detach().clamp_(-0.01, 0.01)
        return super().quantize(weight, configuration)


class KeepsTheWeight(stored(lambda right, weight: {"codes": weight.detach()})):  # type: ignore[misc]
    def dequantize(self, quantized: Any) -> Any:
        return quantized.tensors["codes"].float()


class Caches(Rounding):
    def dequantize(self, quantized: Any) -> Any:
        self.cache = getattr(self, "cache", {})
        return self.cache.setdefault(id(quantized), super().dequantize(quantized))


class StaysOnTheCPU(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        return super().quantize(weight.cpu(), configuration)


shapes = "weights_of_any_shape_come_back_as_float32_of_that_shape"
fault(shapes, "float64", restored(lambda weight, _: weight.double()), shape=(1, 64))
fault(shapes, r"\[64, 1\]", restored(lambda weight, _: weight.t()), shape=(1, 64))
fault(
    "where_the_weight_lies_in_memory_does_not_matter",
    "not equal",
    ReadsMemoryInOrder,
    view=VIEWS["transposed"],
)
half = "half_precision_weights_are_taken"
fault(half, "no float32", Float32Only, dtype=torch.float16)
fault(half, "relative error", OneBitLessInHalfPrecision, dtype=torch.bfloat16)
kept = "the_weight_is_left_as_it_was_and_not_kept"
fault(kept, "weight after quantize", ChangesTheWeight)
fault(kept, "dequantized after the weight changed", KeepsTheWeight)
fault(
    "a_weight_that_is_trained_gives_no_graph",
    "scales",
    stored(lambda right, weight: {"scales": right["scales"] + 0 * weight.half().sum()}),
)
fault("a_dequantized_weight_is_the_callers_own", "again", Caches)
if torch.cuda.is_available():
    fault("it_works_on_a_gpu", "device of", StaysOnTheCPU)

# Storage


class KeepsScalesToItself(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        right = super().quantize(weight, configuration)
        self.scales = right.tensors["scales"]
        return replace(right, tensors={"codes": right.tensors["codes"]})

    def dequantize(self, quantized: Any) -> Any:
        tensors = {**quantized.tensors, "scales": self.scales}
        return super().dequantize(replace(quantized, tensors=tensors))


class OtherRows(Rounding):
    def dequantize(self, quantized: Any) -> Any:
        return super().dequantize_rows(quantized, 0, quantized.shape[0])

    def dequantize_rows(self, quantized: Any, first: int, last: int) -> Any:
        return super().dequantize_rows(quantized, 0, last - first)


class EachInstanceItsOwn(Rounding):
    instances = itertools.count(100)

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.factor = next(self.instances) / 100

    def grid(self, groups: Any, bits: int) -> Any:
        return self.factor * super().grid(groups, bits)


def random_scales(right: Any, weight: Any) -> Any:
    with torch.random.fork_rng():
        return {"scales": right["scales"] * (1 + torch.rand(1).half() / 10)}


def seeding(right: Any, *arguments: Any) -> Any:
    torch.manual_seed(0)
    return right


def without_gradients(right: Any, *arguments: Any) -> Any:
    torch.set_grad_enabled(False)
    return right


says = "a_quantized_weight_says_its_shape_and_layer_configuration"
fault(
    says,
    r"\(64, 1\) == ",
    altered(Rounding, quantize=lambda q, *_: replace(q, shape=q.shape[::-1])),
)
other = LayerConfiguration({"bits": 2, "group_size": 16})
fault(says, "group_size", altered(Rounding, quantize=lambda q, *_: replace(q, configuration=other)))
plain = "tensors_are_plain_and_come_back_from_safetensors"
fault(
    plain, "is_contiguous", stored(lambda right, _: {"codes": right["codes"].t().contiguous().t()})
)
fault(plain, "'scales'", stored(lambda right, _: {"scales": torch.nn.Parameter(right["scales"])}))
fault(plain, "share memory", stored(lambda right, _: {"again": right["scales"]}))
fault(plain, "scales|loaded", KeepsScalesToItself)
bits = "storage_bits_are_those_of_the_stored_bytes"
fault(bits, "stored bits per weight", altered(Rounding, storage_bits=lambda right, c: c["bits"]))
fault(bits, "storage bits of", altered(Rounding, storage_bits=lambda right, c: 0.0))
fault(bits, "codes must be packed", type("CodesInWholeBytes", (Rounding,), {"layout": None}))
layouts = "tensors_are_as_the_layout_says"
more = {"zero_points": TensorLayout((1, 1), torch.uint8, None)}
fault(layouts, "zero_points", with_layout(lambda right, *_: right | more))
fault(
    layouts,
    "codes with",
    with_layout(lambda r, *_: r | {"codes": replace(r["codes"], shape=r["codes"].shape[::-1])}),
)
fault(
    layouts,
    "codes of codes",
    with_layout(lambda r, *_: r | {"codes": replace(r["codes"], bits=r["codes"].bits - 1)}),
)
fault("rows_alone_are_those_of_the_whole_weight", "rows", OtherRows)
calls = itertools.count()
fault(
    "equal_weights_give_equal_tensors",
    "again",
    stored(lambda right, _: {"scales": right["scales"] * (1 + next(calls) % 2 / 10)}),
)
fault("equal_weights_give_equal_tensors", "again", EachInstanceItsOwn)
process = "random_numbers_and_settings_of_the_process_play_no_part"
fault(process, "another seed", stored(random_scales))
fault(process, "settings of PyTorch", altered(Rounding, quantize=seeding))
fault(process, "settings of PyTorch", altered(Rounding, quantize=without_gradients))

# Accuracy


class NextToZeroIsNoZero(Rounding):
    def dequantize_rows(self, quantized: Any, first: int, last: int) -> Any:
        weight = super().dequantize_rows(quantized, first, last)
        return weight.where(weight != 0, 1e-6)


def divided_by_the_spread(right: Any, groups: Any, bits: int) -> Any:
    spread = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
    return right * (spread / spread)


NoSmallSteps = with_grid(lambda right, *_: right.clamp(min=5e-5))
"""Its error at 8 bits becomes .014: little of the weight, and 2.5 times what it should be."""

magnitude = "the_error_does_not_depend_on_the_weights_magnitude"
fault(
    "the_relative_error_is_below_one", "< 1", restored(lambda weight, _: torch.zeros_like(weight))
)
fault("zeros_stay_zeros", "<=", restored(lambda weight, _: weight + 0.001))
fault("zeros_stay_zeros", "e-07 <=", NextToZeroIsNoZero)
constant = torch.full((8, 200), 0.02)
fault(
    "rows_of_one_value_stay_finite", "isfinite", with_grid(divided_by_the_spread), weight=constant
)
fault(
    "more_bits_give_less_error",
    "expected each below the one before",
    restored(lambda weight, q: weight if q.configuration["bits"] != 4 else 1.5 * weight),
)
fault(
    "more_storage_bits_do_not_give_more_error",
    "error with",
    restored(lambda weight, q: weight * (1 + q.configuration.integer("bits"))),
)
fault(magnitude, "magnitude", NoSmallSteps, std=0.001)
fault(magnitude, "magnitude", with_grid(lambda right, *_: right.clamp(max=1.0)), std=200)

# Inputs


class FailsOnOtherInputs(ForInputs):
    def quantize_for_inputs(self, weight: Any, configuration: Any, moment: Any) -> Any:
        return self.better(weight, configuration, moment)


class MindsNoInputs(ForInputs):
    def better(self, weight: Any, configuration: Any, moment: Any) -> Any:
        return self.quantize(weight, configuration)


def one_grid(right: Any, groups: Any, bits: int) -> Any:
    return right.amax(0, keepdim=True).expand(len(groups), -1, -1).clone()


fault("known_inputs_lower_the_error_of_outputs", "known inputs", MindsNoInputs)
fault(
    "each_row_depends_on_itself_and_the_inputs_alone", "rows 5 to 9", with_grid(one_grid, ForInputs)
)
fault("inputs_of_another_size_are_refused", "size|shape", FailsOnOtherInputs)


class TestRightQuantizer(QuantizerConformance):
    def make(self) -> Rounding:
        return made(Rounding)


class TestRightQuantizerForInputs(QuantizerConformance):
    def make(self) -> Rounding:
        return made(ForInputs)


class TestQuantizerWithAFloorAndATolerance(QuantizerConformance):
    def make(self) -> Rounding:
        class Floor(NoSmallSteps, NextToZeroIsNoZero): ...  # type: ignore[misc, valid-type]

        return made(Floor)

    def tolerance(self, check: str, configuration: LayerConfiguration) -> float:
        if check == "zeros":
            return 1e-4
        if check == "magnitude" and configuration["bits"] == 8:
            return 2.0
        return super().tolerance(check, configuration)


def kit(plugin: type) -> QuantizerConformance:
    class Kit(QuantizerConformance):
        def make(self) -> Rounding:
            return made(plugin)

    return Kit()


@pytest.fixture
def settings() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    torch.set_grad_enabled(True)
    torch.set_rng_state(before)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_quantizer_with_a_fault_fails_the_check_for_it(
    fault: Fault, settings: None, tmp_path: Path
) -> None:
    assert_found(fault, kit(fault.plugin), tmp_path)


def test_every_check_has_a_quantizer_that_fails_it() -> None:
    elsewhere = {"its_name_is_that_of_its_entry_point", "it_works_on_a_gpu"}
    assert {fault.check for fault in FAULTS} | elsewhere == checks(QuantizerConformance)


def test_a_quantizer_is_named_as_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = SimpleNamespace(name="other", target=f"{Rounding.__module__}:Rounding")
    monkeypatch.setattr("qsearch.testing.quantizer.kit.installed_plugins", lambda group: [plugin])
    with pytest.raises(AssertionError, match="assert 'rounding' in "):
        kit(Rounding).test_its_name_is_that_of_its_entry_point()


def test_a_kit_without_a_plugin_says_what_it_needs() -> None:
    with pytest.raises(NotImplementedError, match="QuantizerConformance needs a method make"):
        QuantizerConformance().make()


# Samples


def test_errors_may_rise_a_little_with_the_bits() -> None:
    """As with FP4 in blocks of 32 and 16."""
    assert_more_bits_pay([4.25, 4.5], [0.1163, 0.1172])
    assert_more_bits_pay([4.25], [0.1])
    with pytest.raises(AssertionError, match=r"error with 4\.5 and 4\.25 bits"):
        assert_more_bits_pay([4.5, 4.25, 4.25], [0.115, 0.11, 0.09])


def test_few_layer_configurations_are_all_tried() -> None:
    choices = made(Rounding).choices()
    assert sample_layer_configurations(choices, 6) == choices.layer_configurations


@pytest.mark.parametrize("count", [10, 48, 200])
def test_a_sample_holds_the_corners_of_each_knob_and_is_even_over_its_values(count: int) -> None:
    sample = sample_layer_configurations(NORMAL_FLOAT, count)
    assert len(set(sample)) == len(sample) <= count + 12
    for end, other in ((0, -1), (-1, 0)):
        corner = {knob.name: knob.values[end] for knob in NORMAL_FLOAT.knobs}
        assert LayerConfiguration(corner) in sample
        for knob in NORMAL_FLOAT.knobs:
            assert LayerConfiguration({**corner, knob.name: knob.values[other]}) in sample
    for knob in NORMAL_FLOAT.knobs:
        counts = [sum(one[knob.name] == value for one in sample) for value in knob.values]
        # Twelve corners hold each end of a knob six times, and no other value.
        assert max(counts) - min(counts) <= 6 + max(2, count / 10)


def test_configurations_are_distinct_and_always_the_same() -> None:
    layers = [LayerSpec(f"layer.{index}", "query", index, (4, 4)) for index in range(2)]
    choices = Choices((Knob("bits", (2, 4)),))
    drawn = draw_configurations(layers, choices, 4)
    assert len(set(drawn)) == 4
    assert draw_configurations(layers, choices, 4) == drawn
    with pytest.raises(ValueError, match="2 layers of 2 choices: less than 5"):
        draw_configurations(layers, choices, 5)


def test_relative_error_is_that_of_the_norms() -> None:
    weight, configuration = normal_weight(16, 64), made(Rounding).choices().layer_configuration(0)
    zeros = made(restored(lambda weight, _: torch.zeros_like(weight)))
    assert relative_error(zeros, weight, configuration) == 1
