"""Quantizers with a fault each, and the check of the kit that is to find it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import ConfigDict, Field

from qsearch.errors import InputError
from qsearch.plugins.tensor_layout import TensorLayout
from qsearch.space.configuration import Choices, Knob
from tests.engine.faults import Fault, listing
from tests.engine.rounding_quantizers import ForInputs, Restored, Rounding, Stored

FAULTS: list[Fault] = []
fails = listing(FAULTS)


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


@fails("half_precision_weights_are_taken", "expected 0.00.* ± 25%, found 0.0")
class OneBitLessInHalfPrecision(Rounding):
    def quantize(self, weight: Any, configuration: Any) -> Any:
        self.factor = 1 if weight.dtype == torch.float32 or configuration["bits"] != 8 else 2
        return super().quantize(weight, configuration)

    def grid(self, groups: Any, bits: int) -> Any:
        return self.factor * super().grid(groups, bits)


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


@fails("storage_bits_are_those_of_the_stored_bytes", "found 9.0000; give the quantizer a `layout`")
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


@fails("zeros_stay_zeros", "expected 0, found 1e-06")
class NextToZeroIsNoZero(Rounding):
    def dequantize_rows(self, quantized: Any, first: int, last: int) -> Any:
        weight = super().dequantize_rows(quantized, first, last)
        return weight.where(weight != 0, 1e-6)


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


@fails(
    "the_error_does_not_depend_on_the_weights_magnitude", "deviation 0.001.* 0.0056 ± 25%, found"
)
class NoSmallSteps(Rounding):
    """Its error at 8 bits becomes .014: little of the weight, and 2.5 times what it should be."""

    def grid(self, groups: Any, bits: int) -> Any:
        return super().grid(groups, bits).clamp(min=5e-5)


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
