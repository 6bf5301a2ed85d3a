"""Moments of the layers' inputs in which tokens count by gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from qsearch_coalora.estimation.requirements import moment_bytes
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.weights.weighted_moments import weighted_moments
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer
from torch import Tensor, nn


class Mixing(nn.Module):
    """Two linear layers, between which tokens are mixed; a third is never run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.unused = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(5, 2)
        self.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        return self.second(hidden + hidden.roll(1, dims=1))

    @property
    def layers(self) -> list[nn.Linear]:
        return [self.first, self.second, self.unused]


INPUTS = [torch.randn(size, 5, 4, generator=torch.Generator().manual_seed(size)) for size in (3, 2)]


def losses(model: Mixing, inputs: Tensor) -> Tensor:
    return model(inputs).square().sum(-1).mean(-1)


def runs(model: Mixing) -> list[Any]:
    return [lambda inputs=inputs: losses(model, inputs) for inputs in INPUTS]


def test_a_token_counts_by_the_squared_gradient_of_the_layers_output_at_it() -> None:
    model = Mixing()
    found = weighted_moments(model.layers, runs(model))
    for position, layer in enumerate((model.first, model.second)):
        expected, total = torch.zeros(layer.in_features, layer.in_features), 0.0
        for inputs in INPUTS:
            kept: dict[str, Tensor] = {}

            def keep(module: nn.Module, given: Any, output: Tensor, kept: Any = kept) -> Tensor:
                kept["input"], kept["output"] = given[0], output.detach().requires_grad_()
                return kept["output"]

            handle = layer.register_forward_hook(keep)
            losses(model, inputs).sum().backward()
            handle.remove()
            x, delta = kept["input"].flatten(0, 1), kept["output"].grad.flatten(0, 1)
            for token, gradient in zip(x, delta, strict=True):
                weight = gradient.square().sum()
                expected += weight * torch.outer(token, token)
                total += float(weight)
        torch.testing.assert_close(found[position], expected / total)
    assert not found[2].any()
    assert found[2].shape == (5, 5)


def test_diagonals_are_those_of_the_moments() -> None:
    model = Mixing()
    whole = weighted_moments(model.layers, runs(model))
    diagonals = weighted_moments(model.layers, runs(model), diagonal=True)
    for moment, diagonal in zip(whole, diagonals, strict=True):
        torch.testing.assert_close(diagonal, moment.diagonal())


# In a study


def integer() -> Integer:
    return Integer(Integer.Options(bits=(2, 3), group_size=(32,), fit_scales=True))


@pytest.fixture
def language(make_trainer: Any, make_causal_task: Any, llama_folder: Any) -> Any:
    def make(**options: Any) -> Any:
        fields = {"fine_tune": False, "batch_size": 4, "calibration_batches": 6} | options
        return make_trainer(
            method=PTQTrainer, task=make_causal_task(), model=llama_folder, **fields
        )

    return make


def test_language_models_are_calibrated_by_gradients_classifiers_by_inputs(
    language: Any, make_trainer: Any
) -> None:
    assert language().study.is_calibrated_by_gradients
    assert not language(calibrate_by="inputs").study.is_calibrated_by_gradients
    assert not make_trainer().study.is_calibrated_by_gradients
    assert make_trainer(calibrate_by="gradients").study.is_calibrated_by_gradients


@pytest.mark.parametrize("plugin", [integer(), GGUF(GGUF.Options(types=("Q4_0", "Q8_0")))])
def test_each_layer_has_its_own_moment_which_the_estimate_counts(
    plugin: Any, make_trainer: Any, make_causal_task: Any, llama_folder: Any
) -> None:
    trainer = make_trainer(
        method=PTQTrainer,
        task=make_causal_task(),
        model=llama_folder,
        plugin=plugin,
        fine_tune=False,
        batch_size=2,
        calibration_batches=2,
    )
    moments = trainer.study.adapted.weights.moments
    assert len({id(moment) for moment in moments}) == len(trainer.layers())
    kept = sum(moment.nbytes for moment in moments)
    assert kept == moment_bytes(plugin, trainer.layers(), by_gradients=True)


@pytest.mark.parametrize("calibrate_by", ["gradients", "inputs"])
def test_moments_of_another_trainer_are_the_same(language: Any, calibrate_by: str) -> None:
    first, second = (
        make_moments(language(plugin=integer(), calibrate_by=calibrate_by)) for _ in range(2)
    )
    for moment, again in zip(first, second, strict=True):
        assert np.array_equal(moment, again)


def make_moments(trainer: Any) -> list[Any]:
    return [moment.numpy() for moment in trainer.study.adapted.weights.moments]
