"""Options of our quantizers: their knobs, and what is refused."""

import pytest
from pydantic import ValidationError
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.libraries.bitsandbytes import BitsAndBytes
from qsearch_quantizers.libraries.hqq import HQQ
from qsearch_quantizers.libraries.torchao import TorchAO
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.space.configuration import LayerConfiguration

SCHEMES = ("symmetric", "asymmetric")
KNOBS = {
    BitsAndBytes: {
        "data_type": ("fp4", "nf4", "int8"),
        "block_size": (64, 128, 256, 512),
        "scale_bits": (8, 32),
    },
    HQQ: {"bits": (2, 3, 4, 8), "group_size": (32, 64, 128)},
    TorchAO: {"bits": (4, 8), "group_size": (32, 64, 128, 256), "scheme": SCHEMES},
}


def knobs(plugin, **options):
    made = plugin(plugin.Options.model_validate(options))
    return {knob.name: knob.values for knob in made.choices().knobs}


@pytest.mark.parametrize("plugin", KNOBS)  # The others are in docs/studies.md, which is tested.
def test_its_knobs_have_their_values(plugin):
    assert knobs(plugin) == KNOBS[plugin]


def test_options_restrict_knobs_and_keep_the_order_of_the_defaults():
    assert knobs(NormalFloat, bits=[4, 2])["bits"] == (2, 4)


def test_a_scheme_of_integers_is_a_knob_only_if_both_are_listed():
    assert knobs(Integer, scheme=["asymmetric", "symmetric"])["scheme"] == SCHEMES
    assert knobs(Integer, scheme="asymmetric") == knobs(Integer, scheme=["asymmetric"])
    assert "scheme" not in knobs(Integer, scheme="asymmetric")


@pytest.mark.parametrize(
    ("plugin", "option", "value"),
    [
        (NormalFloat, "bits", []),
        (NormalFloat, "bits", [5]),
        (NormalFloat, "bits", [2, 2]),
        (NormalFloat, "scale_dtype", ["float64"]),
        (Integer, "bits", [1]),
        (Integer, "scheme", "signed"),
        (Integer, "scheme", []),
        (Integer, "scheme", ["symmetric", "symmetric"]),
        (Integer, "rounding", "up"),
        (Integer, "rounding", ["nearest", "gptq"]),
        (Integer, "dampening", 0),
        (Integer, "dampening", float("inf")),
        (Integer, "dampening", float("nan")),
        (BitsAndBytes, "data_type", ["int4"]),
        (HQQ, "bits", [1]),
        (TorchAO, "bits", [3]),
    ],
)
def test_wrong_options_are_refused(plugin, option, value):
    with pytest.raises(ValidationError, match=option):
        plugin.Options.model_validate({option: value})


@pytest.mark.parametrize(
    ("plugin", "options", "layer", "bits"),
    [
        (Integer, {"scheme": "asymmetric"}, {"bits": 3, "group_size": 128}, 3 + (16 + 3) / 128),
        (HQQ, {}, {"bits": 3, "group_size": 128}, 3 + (16 + 16) / 128),
        (TorchAO, {}, {"bits": 8, "group_size": 32, "scheme": "asymmetric"}, 8 + (16 + 8) / 32),
        # QLoRA (arXiv:2305.14314), section 3: double quantization costs 0.127 bits per parameter.
        (
            BitsAndBytes,
            {},
            {"data_type": "nf4", "block_size": 64, "scale_bits": 8},
            4 + 8 / 64 + 32 / (64 * 256),
        ),
    ],
)
def test_storage_bits_count_scales_and_packed_zero_points(plugin, options, layer, bits):
    quantizer = plugin(plugin.Options(**options))
    assert quantizer.storage_bits(LayerConfiguration(layer)) == bits


def test_storage_bits_of_normal_float_at_the_ends_of_the_space():
    quantizer = NormalFloat(NormalFloat.Options())
    every = [quantizer.storage_bits(c) for c in quantizer.choices().layer_configurations]
    assert min(every) == 2 + 2 / 64 + 16 / (64 * 256)
    assert max(every) == 8 + 8 / 16 + 32 / (16 * 16)
