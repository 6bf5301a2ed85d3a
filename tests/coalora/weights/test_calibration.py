"""Moments of the layers' inputs: how they are measured, and where weights are quantized by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from qsearch_coalora.estimation.requirements import moment_bytes
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training import calibration
from qsearch_coalora.weights.layer_inputs import second_moments
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer
from torch import Tensor, nn

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from tests.coalora.conftest import classification

Make = Callable[..., AdapterTrainer]


def integer(rounding: Any = "gptq") -> Integer:
    return Integer(Integer.Options(bits=(2, 3, 4), group_size=(32,), rounding=rounding))


@pytest.fixture
def make(make_trainer) -> Make:
    """Return a maker of trainers with the quantizer that needs inputs."""
    return partial(make_trainer, plugin=integer(), steps=3, calibration_batches=3)


def alternating(trainer: AdapterTrainer) -> Configuration:
    return Configuration(
        {
            layer.name: LayerConfiguration({"bits": 2 + index % 3, "group_size": 32})
            for index, layer in enumerate(trainer.layers())
        }
    )


# Measuring


def test_moments_are_those_of_the_original_weights_without_adapter(make: Make) -> None:
    trained, fresh = make(learning_rate=0.1), make()
    trained.train([alternating(trained)], 1)
    batches = trained.study.calibration_batches()
    with trained.study.adapted.base_model():
        again = second_moments(
            trained.study.adapted.lora_layers, trained.study.adapted.logits, batches
        )
    for moment, expected in zip(again, fresh.study.adapted.weights.moments, strict=True):
        assert torch.equal(moment, expected)


def test_layers_that_read_one_tensor_share_its_moment(make: Make) -> None:
    trainer = make()
    moments = trainer.study.adapted.weights.moments
    by_role = {
        (layer.block, layer.role): moment
        for layer, moment in zip(trainer.layers(), moments, strict=True)
    }
    for block in (0, 1):
        query = by_role[block, "query"]
        assert by_role[block, "key"] is by_role[block, "value"] is query
        assert by_role[block, "attention_output"] is not query
    kept = {id(moment): moment.nbytes for moment in moments}
    assert sum(kept.values()) == moment_bytes(trainer.study.quantizer, trainer.layers(), False)


def test_layers_that_share_only_some_inputs_have_their_own_moments() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    draw = torch.Generator().manual_seed(0)
    together, apart = (torch.randn(5, 4, generator=draw) for _ in range(2))

    def run(batch: Mapping[str, Tensor]) -> None:
        first(batch["x"])
        second(batch["y"])

    batches = [{"x": together, "y": together}, {"x": together, "y": apart}]
    for moment, other in zip(
        second_moments([first, second], run, batches), (together, apart), strict=True
    ):
        inputs = torch.cat([together, other])
        torch.testing.assert_close(moment, inputs.T @ inputs / 10)


def test_an_input_that_is_changed_in_place_afterwards_counts_as_it_was_read() -> None:
    first, second, unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(5, 2)

    def run(batch: Mapping[str, Tensor]) -> None:
        own = batch["x"].clone()
        first(own)
        own.zero_()
        second(own + 2)

    moments = second_moments([first, second, unused], run, [{"x": torch.ones(5, 4)}])
    assert [moment.unique().tolist() for moment in moments] == [[1], [4], [0]]


def test_diagonals_are_those_of_the_moments() -> None:
    layer, unused = nn.Linear(3, 3), nn.Linear(5, 2)
    batches = [{"x": torch.randn(6, 3)}, {"x": torch.randn(4, 3)}]

    def run(batch: Mapping[str, Tensor]) -> None:
        layer(batch["x"])

    whole = second_moments([layer, unused], run, batches)
    diagonals = second_moments([layer, unused], run, batches, diagonal=True)
    for moment, diagonal in zip(whole, diagonals, strict=True):
        torch.testing.assert_close(diagonal, moment.diagonal())


def test_a_quantizer_that_needs_diagonals_takes_their_memory_alone(make: Make) -> None:
    trainer = make(plugin=GGUF(GGUF.Options(types=("Q4_0", "Q8_0"))))
    moments = trainer.study.adapted.weights.moments
    assert {moment.shape for moment in moments if moment is not None} == {(32,), (64,)}
    kept = {id(moment): moment.nbytes for moment in moments if moment is not None}
    assert sum(kept.values()) == moment_bytes(trainer.study.quantizer, trainer.layers(), False)
    assert moment_bytes(trainer.study.quantizer, trainer.layers(), False) == 2 * (3 * 32 + 64) * 4
    assert None not in trainer.study.adapted.input_sizes()


def test_one_module_that_reads_the_same_tensor_twice_counts_it_twice() -> None:
    layer, inputs = nn.Linear(3, 3), torch.randn(6, 3)
    batches = [{"x": inputs}, {"x": inputs}]
    moment = second_moments([layer], lambda batch: layer(batch["x"]), batches)[0]
    torch.testing.assert_close(moment, inputs.T @ inputs / 6)


def test_rounding_to_nearest_measures_nothing(make: Make) -> None:
    with mock.patch.object(calibration, "calibrate") as measure:
        make(plugin=integer("nearest")).study.adapted  # noqa: B018
    assert not measure.called


# Using


def test_the_weights_of_the_model_are_gptq_s(make: Make) -> None:
    trainer = make(method=SharedLoRATrainer)
    chosen, weights = alternating(trainer), trainer.study.adapted.weights
    trainer.study.adapted.activate(chosen)
    for position, layer in enumerate(trainer.layers()):
        quantized = integer().quantize_for_inputs(
            weights.originals[position], chosen[layer.name], weights.moments[position]
        )
        weight = trainer.study.adapted.lora_layers[position].base_layer.weight
        assert torch.equal(weight, integer().dequantize(quantized))


def test_errors_are_measured_by_inputs(make: Make) -> None:
    trainer = make(method=SharedLoRATrainer)
    choices = trainer.study.quantizer.choices().layer_configurations
    errors = trainer.quantization_error(choices)
    assert errors.shape == (len(trainer.layers()), len(choices))
    assert (np.diff(errors, axis=1) < 0).all()
    weights = trainer.study.adapted.weights
    quantized = weights.approximated(0, weights.originals[0], choices[0])
    exact = (quantized - weights.originals[0]).square().sum() / weights.originals[0].square().sum()
    assert errors[0, 0] == pytest.approx(exact.item(), rel=1e-5)


def test_requirements_count_the_moments(make: Make) -> None:
    ours, nearest = make(), make(plugin=integer("nearest"))
    more = ours.requirements().memory_bytes - nearest.requirements().memory_bytes
    # Three moments of 32 features a block, that of query, key and value once, and one of 64.
    assert more == 2 * (3 * 32**2 + 64**2) * 4


@pytest.mark.parametrize(
    ("method", "rounding"), [(CoALoRATrainer, "nearest"), (SharedLoRATrainer, "gptq")]
)
def test_other_data_than_the_saved_state_s_is_refused(
    make: Make, table_files, tmp_path: Path, method, rounding: str
) -> None:
    """Residual factors, or the weights, follow from the inputs: the adapter would be another."""
    other = tmp_path / "train.tsv"
    other.write_text(table_files[0].read_text() + "w59 w58 w57\tright\n")
    measured = partial(make, method=method, plugin=integer(rounding))
    state = measured().state()
    measured().load_state(state)
    task = classification((other, table_files[1]))
    with pytest.raises(InputError, match=r"other training data.*root mean square"):
        measured(task=task).load_state(state)
