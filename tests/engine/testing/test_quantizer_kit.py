"""The kit for quantizers: each check fails on a quantizer with a fault for it.

That right ones pass is in tests/quantizers/test_conformance.py.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from pydantic import ConfigDict, Field, create_model
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.space.configuration import Choices, Knob, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.testing import QuantizerConformance
from qsearch.testing.comparison import assert_more_bits_pay
from qsearch.testing.samples import (
    draw_configurations,
    normal_weight,
    relative_error,
    sample_layer_configurations,
)
from tests.engine.fake_study import NORMAL_FLOAT
from tests.engine.fixtures.qsearch_fake import FakeQuantizer
from tests.engine.testing.faults import altered, assert_found, checks, each, replaced, run

numbers = itertools.count(3)


class TakesAnyOption(Integer):
    class Options(Integer.Options):
        model_config = ConfigDict(extra="ignore")


class ForInputs(Integer):
    class Options(Integer.Options):
        rounding: str = "gptq"


class Numbered(Integer):
    def __init__(self, options):
        super().__init__(options)
        self.number = next(numbers)


def other_weight(change):
    """Quantizes another weight than it is given."""
    return replaced(
        Integer, quantize=lambda self, weight, layer: Integer.quantize(self, change(weight), layer)
    )


def other_tensors(change, plugin=Integer, method="quantize"):
    """Stores other tensors than it should: a change of the right ones, and of the weight."""
    return altered(
        plugin,
        **{method: lambda q, w, *_: replace(q, tensors={**q.tensors, **change(q.tensors, w)})},
    )


def restored(change):
    return altered(Integer, dequantize=change)


def on_a_grid(weight, _):
    """Holds no steps below 1e-4, and no weight above 100."""
    return (weight / 1e-4).round().mul(1e-4).clamp(-100, 100)


KEPT_WEIGHT = altered(
    other_tensors(lambda _, weight: {"kept": weight.detach()}),
    dequantize=lambda _, quantized: quantized.tensors["kept"].float(),
)
MINDS_NO_INPUTS = replaced(
    ForInputs,
    quantize_for_inputs=lambda self, weight, layer, moment: ForInputs.quantize_for_inputs(
        self, weight, layer, torch.eye(weight.shape[1])
    ),
)
cache = {}


class Shaped(Integer):
    """Counts the padding of short groups, too."""

    def storage_bits_of(self, shape, configuration):
        layouts = self.layout(shape, configuration).values()
        bits = sum(one.count * (one.bits or 8 * one.dtype.itemsize) for one in layouts)
        return bits / (shape[0] * shape[1])


class ForLayers(Integer):
    """Gives layers of some roles other scales."""

    def quantize_layer(self, weight, configuration, layer, moment):
        assert moment is None
        part = 0.9 if layer.role == "down" else 1.0
        return self.quantize(weight * part, configuration)


def of_layer(change):
    """A quantizer whose tensors of layers are changed."""
    return altered(ForLayers, quantize_layer=change)


FAULTS = {
    "it_has_a_name_and_knobs": {
        "assert ''": replaced(Integer, name=""),
        "choices, called again": altered(
            Integer, choices=lambda _: Choices((Knob("bits", (2, next(numbers))),))
        ),
    },
    "it_is_written_for_the_contract_of_this_qsearch": {
        "the quantizer is written for version 1": replaced(Integer, contract=1),
    },
    "its_name_is_that_of_its_entry_point": {
        "assert 'other' in ": replaced(
            Integer, name="other", __module__=Integer.__module__, __qualname__="Integer"
        ),
    },
    "options_refuse_fields_that_they_do_not_know": {"DID NOT RAISE": TakesAnyOption},
    "options_as_json_make_an_equal_quantizer": {
        "Choices": replaced(
            Integer,
            Options=create_model(
                "Options",
                __base__=Integer.Options,
                bits=(tuple[int, ...], Field((2, 3, 4, 8), exclude=True)),
            ),
        ),
    },
    "layer_configurations_of_others_are_refused": {
        "expected InputError": replaced(
            Integer,
            quantize=lambda self, weight, _: Integer.quantize(
                self, weight, self.choices().layer_configuration(0)
            ),
        ),
    },
    "what_is_no_weight_is_refused": {"but it is taken": other_weight(torch.nan_to_num)},
    "weights_of_any_shape_come_back_as_float32_of_that_shape": {
        "float64": restored(lambda weight, _: weight.double()),
        r"\[64, 1\]": restored(lambda weight, _: weight.t()),
    },
    "where_the_weight_lies_in_memory_does_not_matter": {
        "not equal": other_weight(lambda w: w.as_strided(w.shape, (w.shape[1], 1))),
    },
    "half_precision_weights_are_taken": {
        "relative error": other_tensors(
            lambda right, weight: {"codes": right["codes"] ^ int(weight.dtype != torch.float32)}
        ),
    },
    "the_weight_is_left_as_it_was_and_not_kept": {
        "weight after quantize": other_weight(lambda weight: weight.detach().clamp_(-0.01, 0.01)),
        "dequantized after the weight changed": KEPT_WEIGHT,
    },
    "a_weight_that_is_trained_gives_no_graph": {
        "scales": other_tensors(lambda right, w: {"scales": right["scales"] + 0 * w.half().sum()}),
    },
    "a_dequantized_weight_is_the_callers_own": {
        "again": restored(lambda weight, quantized: cache.setdefault(id(quantized), weight)),
    },
    "a_quantized_weight_says_its_shape_and_layer_configuration": {
        r"\(64, 1\) == ": altered(Integer, quantize=lambda q, *_: replace(q, shape=q.shape[::-1])),
        "no_such_knob": altered(
            Integer,
            quantize=lambda q, *_: replace(
                q, configuration=LayerConfiguration({"no_such_knob": 1})
            ),
        ),
    },
    "tensors_are_plain_and_come_back_from_safetensors": {
        "is_contiguous": other_tensors(
            lambda right, _: {"codes": right["codes"].t().contiguous().t()}
        ),
        "'scales'": other_tensors(lambda right, _: {"scales": torch.nn.Parameter(right["scales"])}),
        "share memory": other_tensors(lambda right, _: {"again": right["scales"]}),
        "loaded": replaced(
            Numbered, dequantize=lambda self, q: self.number * Integer.dequantize(self, q)
        ),
    },
    "storage_bits_are_those_of_the_stored_bytes": {
        "stored bits per weight": altered(Integer, storage_bits=lambda _, layer: layer["bits"]),
        "storage bits of": altered(Integer, storage_bits=lambda *_: 0.0),
        "codes must be packed": FakeQuantizer,
    },
    "tensors_are_as_the_layout_says": {
        "zero_points": other_tensors(lambda right, _: {"zero_points": right["codes"]}),
        "codes with": other_tensors(lambda right, _: {"codes": right["codes"].t()}),
        "codes of codes": altered(
            Integer, layout=lambda r, *_: r | {"codes": replace(r["codes"], bits=1)}
        ),
    },
    "rows_alone_are_those_of_the_whole_weight": {
        "rows": altered(Integer, dequantize_rows=lambda right, *_: right.flip(1)),
    },
    "rows_that_are_looked_up_are_those_of_the_whole_weight": {
        "rows that are looked up": altered(Integer, look_up=lambda right, *_: right.flip(1)),
    },
    "equal_weights_give_equal_tensors": {
        "again": other_tensors(lambda right, _: {"scales": right["scales"] + next(numbers) % 2}),
    },
    "random_numbers_and_settings_of_the_process_play_no_part": {
        "another seed": other_tensors(
            lambda right, _: {
                "scales": right["scales"] + torch.tensor(torch.initial_seed() / 10).half()
            }
        ),
        "settings of PyTorch": altered(
            Integer, quantize=lambda right, *_: [torch.manual_seed(0), right][1]
        ),
    },
    "the_relative_error_is_below_one": {"< 1": restored(lambda weight, _: 0 * weight)},
    "zeros_stay_zeros": {"<=": restored(lambda weight, _: weight + 1e-6)},
    "rows_of_one_value_stay_finite": {
        "isfinite": restored(lambda w, _: w / (w.amax(1, True) - w.amin(1, True))),
    },
    "more_bits_give_less_error": {
        "expected each below the one before": restored(
            lambda weight, q: weight if q.configuration["bits"] != 4 else 1.5 * weight
        ),
    },
    "more_storage_bits_do_not_give_more_error": {
        "error with": restored(lambda weight, q: weight * q.configuration["bits"]),
    },
    "the_error_does_not_depend_on_the_weights_magnitude": {
        "magnitude": restored(on_a_grid),
        "magnitude: ": restored(lambda weight, _: weight.clamp(-100, 100)),
    },
    "known_inputs_lower_the_error_of_outputs": {"known inputs": MINDS_NO_INPUTS},
    "each_row_depends_on_itself_and_the_inputs_alone": {
        "rows 5 to 9": other_tensors(
            lambda right, weight: {"scales": right["scales"] * len(weight)},
            ForInputs,
            "quantize_for_inputs",
        ),
    },
    "a_moments_diagonal_gives_what_the_moment_gives": {
        "the diagonal alone": replaced(
            ForInputs,
            takes_diagonal=True,
            quantize_for_inputs=lambda self, weight, layer, moment: ForInputs.quantize_for_inputs(
                self, weight, layer, moment.diag() if moment.ndim == 1 else moment
            ),
        ),
    },
    "inputs_of_another_size_are_refused": {"expected InputError": MINDS_NO_INPUTS},
    "storage_bits_of_a_shape_are_those_of_its_stored_bytes": {
        "storage_bits_of says": replaced(
            Shaped, storage_bits_of=lambda self, _, layer: self.storage_bits(layer)
        ),
    },
    "a_layers_tensors_are_of_the_same_kind_as_those_of_any_weight": {
        "shapes and types of tensors": of_layer(
            lambda right, *_: replace(right, tensors={"codes": right.tensors["codes"]})
        ),
        "q_proj with": of_layer(lambda right, *_: replace(right, shape=(1, 1))),
    },
    "a_layers_weight_comes_back_near_to_what_it_was": {
        "relative error of encoder.unusual": of_layer(
            lambda right, _, configuration, layer, moment: (
                replace(right, tensors={**right.tensors, "scales": -right.tensors["scales"]})
                if layer.block == 3
                else right
            )
        ),
    },
    "equal_weights_of_a_layer_give_equal_tensors": {
        "again, model.layers.0.self_attn.q_proj with": of_layer(
            lambda right, *_: replace(
                right,
                tensors={**right.tensors, "scales": right.tensors["scales"] + next(numbers) % 2},
            )
        ),
    },
    "layer_configurations_of_others_are_refused_for_layers_too": {
        "no_such_knob.*but it is taken": replaced(
            ForLayers,
            quantize_layer=lambda self, weight, *_: self.quantize(
                weight, self.choices().layer_configuration(0)
            ),
        ),
    },
    "it_works_on_a_gpu": {"device of": other_weight(lambda weight: weight.cpu())},
}


class TestRightQuantizerOfLayersAndShapes(QuantizerConformance):
    configurations = 4

    def make(self):
        return make(type("Both", (Shaped, ForLayers), {}))


def make(plugin):
    return plugin(plugin.Options(bits=(2, 4, 8), group_size=(32,)))


def kit(plugin, **methods):
    return replaced(QuantizerConformance, make=lambda _: make(plugin), **methods)()


@each(FAULTS)
def test_a_quantizer_with_a_fault_fails_the_check_for_it(check, says, plugin, tmp_path):
    if check == "it_works_on_a_gpu" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    with torch.random.fork_rng():
        assert_found(kit(plugin), check, says, tmp_path)


def test_every_check_has_a_quantizer_that_fails_it():
    assert set(FAULTS) == checks(QuantizerConformance)


@pytest.mark.parametrize(
    "check", ["zeros_stay_zeros", "the_error_does_not_depend_on_the_weights_magnitude"]
)
def test_a_larger_tolerance_lets_a_floor_pass(check, tmp_path):
    for plugin in FAULTS[check].values():
        run(kit(plugin, tolerance=lambda *_: 1e4), check, tmp_path)


def test_a_kit_without_a_plugin_says_what_it_needs():
    with pytest.raises(NotImplementedError, match="QuantizerConformance needs a method make"):
        QuantizerConformance().make()


# Samples


def test_errors_may_rise_a_little_with_the_bits():
    """As with FP4 in blocks of 32 and 16."""
    assert_more_bits_pay([4.25, 4.5], [0.1163, 0.1172])
    assert_more_bits_pay([4.25], [0.1])
    with pytest.raises(AssertionError, match=r"error with 4\.5 and 4\.25 bits"):
        assert_more_bits_pay([4.5, 4.25, 4.25], [0.115, 0.11, 0.09])


def test_few_layer_configurations_are_all_tried():
    choices = make(Integer).choices()
    assert sample_layer_configurations(choices, 3) == choices.layer_configurations


@pytest.mark.parametrize("count", [10, 48, 200])
def test_a_sample_holds_the_corners_of_each_knob_and_is_even_over_its_values(count):
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


def test_configurations_are_distinct_and_always_the_same():
    layers = [LayerSpec(f"layer.{index}", "query", index, (4, 4)) for index in range(2)]
    choices = Choices((Knob("bits", (2, 4)),))
    drawn = draw_configurations(layers, choices, 4)
    assert len(set(drawn)) == 4
    assert draw_configurations(layers, choices, 4) == drawn
    with pytest.raises(ValueError, match="2 layers of 2 choices: less than 5"):
        draw_configurations(layers, choices, 5)


def test_relative_error_is_that_of_the_norms():
    weight, layer = normal_weight(16, 64), make(Integer).choices().layer_configuration(0)
    assert relative_error(make(restored(lambda w, _: 0 * w)), weight, layer) == 1
