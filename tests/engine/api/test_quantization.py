from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import qsearch
from qsearch.api.quantization import QuantizerConfiguration
from qsearch.errors import InputError
from qsearch.space.configuration import Configuration
from tests.engine.api.conftest import OPTIONS
from tests.engine.fixtures.qsearch_fake import ShapedQuantizer


@pytest.fixture
def own() -> nn.Module:
    """A model that a test may change."""
    return nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 32))


@pytest.fixture
def own_space(own: nn.Module) -> qsearch.Space:
    return qsearch.Space.from_model(own, "integer", OPTIONS)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_weights_are_the_dequantized_ones_within_the_block(
    own: nn.Module, own_space: qsearch.Space
) -> None:
    configuration, before = own_space.sample(), weights(own)
    quantizer = own_space.quantizer
    expected = quantizer.dequantize(quantizer.quantize(before[0], configuration["0"]))
    with qsearch.quantized(own, configuration) as inside:
        assert inside is own
        assert torch.equal(weights(own)[0], expected)
        assert torch.equal(weights(own)[1], before[1])  # A bias.
    assert all(map(torch.equal, weights(own), before))


def test_an_exception_takes_the_weights_out_too(own: nn.Module, own_space: qsearch.Space) -> None:
    before = weights(own)
    with pytest.raises(RuntimeError, match="mine"), qsearch.quantized(own, own_space.sample()):
        raise RuntimeError("mine")
    assert all(map(torch.equal, weights(own), before))


def test_a_type_stays_what_it_was(own: nn.Module, own_space: qsearch.Space) -> None:
    own.to(torch.bfloat16)
    with qsearch.quantized(own, own_space.sample()):
        assert {parameter.dtype for parameter in own.parameters()} == {torch.bfloat16}


def test_the_quantizer_of_a_plain_configuration_is_given(
    own: nn.Module, own_space: qsearch.Space
) -> None:
    bound = own_space.sample()
    plain = Configuration.from_json(bound.to_json())
    with qsearch.quantized(own, bound):
        expected = weights(own)
    with qsearch.quantized(own, plain, "integer"):
        assert all(map(torch.equal, weights(own), expected))
    with pytest.raises(InputError, match="does not know its quantizer"):
        qsearch.quantized(own, plain).__enter__()


def test_a_plain_mapping_is_a_configuration(own: nn.Module, own_space: qsearch.Space) -> None:
    plain = {"0": {"bits": 2, "group_size": 32}}
    before = weights(own)
    with qsearch.quantized(own, plain, own_space.quantizer):
        assert not torch.equal(weights(own)[0], before[0])
        assert torch.equal(weights(own)[2], before[2])


def test_an_own_quantizer_is_asked_for_by_what_a_file_says(
    own: nn.Module, own_space: qsearch.Space
) -> None:
    space = qsearch.Space.from_model(own, own_space.quantizer)
    loaded = QuantizerConfiguration(space.sample(), space.quantizer_section)
    with pytest.raises(InputError, match=r"is an object of .*Integer; give it"):
        qsearch.quantized(own, loaded).__enter__()
    with qsearch.quantized(own, loaded, own_space.quantizer):
        pass


def test_a_configuration_may_go_to_another_process(own_space: qsearch.Space) -> None:
    script = (
        "import pickle, sys\n"
        "from qsearch.space.configuration import Configuration\n"
        "sent = pickle.load(sys.stdin.buffer)\n"
        "print(sent in {Configuration.from_json(sent.to_json())})"
    )
    sent = pickle.dumps(QuantizerConfiguration(own_space.sample(), own_space.quantizer_section))
    command = [sys.executable, "-c", script]
    variables = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, input=sent, capture_output=True, check=True, env=variables)
    assert done.stdout == b"True\n"


def test_layers_of_a_headless_model_are_found_behind_a_head(own_space: qsearch.Space) -> None:
    class Headed(nn.Module):
        base_model_prefix = "inner"

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

    inner = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 32))
    before = weights(inner)
    with qsearch.quantized(Headed(inner), own_space.sample()):
        assert not torch.equal(weights(inner)[0], before[0])


def test_a_model_without_the_layer_is_refused(own_space: qsearch.Space) -> None:
    with pytest.raises(InputError, match="model Linear has no linear layer or embedding '0'"):
        qsearch.quantized(nn.Linear(64, 32), own_space.sample()).__enter__()


def test_quantizing_quantized_weights_is_refused(own: nn.Module, own_space: qsearch.Space) -> None:
    with (
        qsearch.quantized(own, own_space.sample()),
        pytest.raises(InputError, match="model Sequential has quantized weights already"),
    ):
        qsearch.quantized(own, own_space.sample()).__enter__()


def test_a_quantizer_gets_the_layers_that_it_asks_for_and_bits_are_of_their_shapes() -> None:
    own = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16))
    quantizer = ShapedQuantizer(ShapedQuantizer.Options())
    space = qsearch.Space.from_model(own, quantizer)
    assert space.average_bits_range[0] == pytest.approx(2.25 + (32 * 64 + 16 * 64) / (2048 + 512))
    assert space.quantization_error.shape == (2, 8)
    assert {layer.name for layer in quantizer.asked} == {"0", "1"}
    quantizer.asked.clear()
    with qsearch.quantized(own, space.sample()):
        assert quantizer.asked == list(space.layers)
