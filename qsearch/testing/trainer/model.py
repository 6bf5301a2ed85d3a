"""Checks of what a trainer says of its model: layers, requirements and scores of layers."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsEmbeddings
from qsearch.plugins.contract import require_contract
from qsearch.plugins.protocols import Requirements
from qsearch.plugins.trainer_knobs import SupportsTrainerKnobs, taken_values, trainer_knobs
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.testing.comparison import assert_more_bits_pay
from qsearch.testing.samples import sample_layer_configurations
from qsearch.testing.trainer.base import TrainerChecks, saved

MAX_ERROR = 1.5
"""Of a relative squared error; 1 is that of a weight of zeros."""


class ModelChecks(TrainerChecks):
    """Layers and requirements are known without loading weights."""

    def test_it_is_written_for_the_contract_of_this_qsearch(self) -> None:
        require_contract(self.make(), "the trainer")

    def test_layers_have_distinct_names_and_stay_the_same(self) -> None:
        trainer = self.make()
        layers = list(trainer.layers())
        assert layers
        assert all(isinstance(layer, LayerSpec) for layer in layers)
        names = [layer.name for layer in layers]
        assert sorted({name for name in names if names.count(name) > 1}) == [], "twice"
        assert list(trainer.layers()) == layers, "layers, asked for again"
        assert list(self.make().layers()) == layers, "layers of another trainer"
        trainer.train(self.configurations(trainer)[0], 1)
        assert list(trainer.layers()) == layers, "layers after training"

    def test_embeddings_come_after_the_other_layers(self) -> None:
        trainer, plain = self.make(), list(self.make().layers())
        if not isinstance(trainer, SupportsEmbeddings):
            pytest.skip("this trainer quantizes no embeddings")
        try:
            trainer.search_embeddings()
        except InputError:
            pytest.skip("its method has no place for embeddings")
        layers = list(trainer.layers())
        assert layers[: len(plain)] == plain, "layers of blocks"
        assert [layer.is_table for layer in layers[len(plain) :]] in ([True], [True, True])
        configurations, _ = self.configurations(trainer)
        trainer.train(configurations, 1)
        assert all(map(math.isfinite, trainer.sensitivity(configurations, 1)))

    def test_requirements_are_known_without_loading_weights(self) -> None:
        trainer = self.make()
        with _LargestTensor() as made:
            layers, needs = list(trainer.layers()), trainer.requirements()
        assert made.elements < max(layer.parameters for layer in layers), "weights are loaded"
        assert isinstance(needs, Requirements)
        assert needs.parameters >= sum(layer.parameters for layer in layers), "parameters"
        assert needs.memory_bytes > 0, "memory_bytes"
        for value in (
            *needs.training_flops,
            needs.evaluation_flops,
            needs.first_evaluation_flops,
            needs.configuration_bytes,
        ):
            assert 0 <= value < math.inf, f"operations and bytes: {needs}"

    def test_each_layer_takes_values_of_the_trainers_knobs_whose_bits_are_known(self) -> None:
        trainer = self.make()
        if not trainer_knobs(trainer):
            pytest.skip("this trainer adds no knobs")
        assert trainer_knobs(trainer) == trainer_knobs(self.make()), "knobs of another trainer"
        adding = cast(SupportsTrainerKnobs, trainer)
        for layer in trainer.layers():
            taken = taken_values(trainer, layer)
            assert taken, f"values that {layer.name} can have"
            bits = [adding.added_bits(layer.shape, values) for values in taken]
            assert all(0 <= one < math.inf for one in bits), f"bits that {layer.name} gets"


class LayerScoreChecks(TrainerChecks):
    """Errors and sensitivities of layers, of which the search makes its scores."""

    def test_quantization_errors_are_of_each_layer_and_layer_configuration(self) -> None:
        trainer = self.make()
        sample = sample_layer_configurations(self.choices(trainer), 12)
        errors = trainer.quantization_error(sample)
        assert errors.shape == (len(trainer.layers()), len(sample))
        assert 0 <= errors.min() <= errors.max() <= MAX_ERROR
        self._assert_same(trainer.quantization_error(sample), errors, "asked for again")
        reverse = trainer.quantization_error(sample[::-1])[:, ::-1]
        self._assert_same(reverse, errors, "in reverse order")
        self._assert_same(self.make().quantization_error(sample), errors, "of another trainer")

    def test_more_storage_bits_do_not_give_more_error(self) -> None:
        quantizer = self.quantizer()
        trainer = self.make()
        greatest = {knob.name: knob.values[-1] for knob in trainer_knobs(trainer)}
        sample = sample_layer_configurations(quantizer.choices(), 48)
        whole = [LayerConfiguration({**one, **greatest}) for one in sample]
        errors = trainer.quantization_error(whole).mean(axis=0)
        bits = [quantizer.storage_bits(configuration) for configuration in sample]
        assert_more_bits_pay(bits, errors)

    def test_sensitivities_are_of_each_layer_and_repeat(self) -> None:
        trained = self.trained()
        trainer, configurations, _ = trained
        state = saved(trained)
        actual = trainer.sensitivity(configurations, 1)
        assert actual.shape == (len(trainer.layers()),)
        assert np.isfinite(actual).all()
        assert (actual >= 0).all()
        self._assert_same(trainer.sensitivity(configurations, 1), actual, "asked for again")
        self.assert_same_state(trainer.state(), state, "state after sensitivities")
        again = self.resumed(state).sensitivity(configurations, 1)
        self._assert_same(again, actual, "with the loaded state")

    def _assert_same(
        self, actual: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], what: str
    ) -> None:
        bound = self.tolerance * float(np.abs(expected).max())
        np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=what)


class _LargestTensor(TorchFunctionMode):
    """Notes the elements of the largest tensor that is made, but for those without memory."""

    elements = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor) and each.device.type != "meta":
                self.elements = max(self.elements, each.numel())
        return made
