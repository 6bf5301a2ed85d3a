"""The kit for trainers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any
from unittest import SkipTest

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qsearch.plugins.protocols import Quantizer, Requirements, Split, Trainer
from qsearch.space.layers import LayerSpec
from qsearch.testing.base import refuse_class, require, require_equal
from qsearch.testing.samples import rank_correlation, sample_layer_configurations
from qsearch.testing.trainer.base import TrainerChecks, saved
from qsearch.testing.trainer.evaluation import EvaluationChecks
from qsearch.testing.trainer.exports import ExportChecks
from qsearch.testing.trainer.training import TrainingChecks

MAX_ERROR = 1.5
"""Of a relative squared error; 1 is that of a weight of zeros."""


class ModelChecks(TrainerChecks):
    """Layers and requirements are told without loading weights."""

    __test__ = False

    def test_layers_have_distinct_names_and_stay_the_same(self) -> None:
        trainer = self.make()
        layers = list(trainer.layers())
        require(bool(layers), "layers: expected one or more, found none")
        for layer in layers:
            require(isinstance(layer, LayerSpec), f"expected a LayerSpec, found {layer!r}")
        names = [layer.name for layer in layers]
        twice = sorted({name for name in names if names.count(name) > 1})
        require_equal("layer names that occur twice", twice, [])
        require_equal("layers, asked for again", list(trainer.layers()), layers)
        require_equal("layers of another trainer", list(self.make().layers()), layers)
        trainer.train(self.configurations(trainer)[0], 0)
        require_equal("layers after training", list(trainer.layers()), layers)

    def test_requirements_are_told_without_loading_weights(self) -> None:
        trainer = self.make()
        with _Elements() as made:
            layers, needs = list(trainer.layers()), trainer.requirements()
        largest = max(layer.parameters for layer in layers)
        require(
            made.greatest < largest,
            "layers and requirements: expected that no weights are loaded, found a tensor of"
            f" {made.greatest} elements, where the largest layer has {largest}",
        )
        require(isinstance(needs, Requirements), f"expected Requirements, found {needs!r}")
        least = sum(layer.parameters for layer in layers)
        require(
            needs.parameters >= least,
            f"parameters: expected {least} or more, those of the layers, found {needs.parameters}",
        )
        figures = {
            "training_flops[0]": needs.training_flops[0],
            "training_flops[1]": needs.training_flops[1],
            "evaluation_flops": needs.evaluation_flops,
            "first_evaluation_flops": needs.first_evaluation_flops,
            "configuration_bytes": needs.configuration_bytes,
        }
        for name, value in figures.items():
            require(0 <= value < math.inf, f"{name}: expected 0 or more, found {value}")
        memory = needs.memory_bytes
        require(memory > 0, f"memory_bytes: expected more than 0, found {memory}")


class LayerScoreChecks(TrainerChecks):
    """Errors and sensitivities of layers, of which the search makes its scores."""

    __test__ = False

    def test_quantization_errors_are_of_each_layer_and_layer_configuration(self) -> None:
        trainer = self.make()
        sample = sample_layer_configurations(self.quantizer().choices(), 12)
        errors = trainer.quantization_error(sample)
        require_equal("shape of errors", errors.shape, (len(trainer.layers()), len(sample)))
        least, greatest = float(errors.min()), float(errors.max())
        require(
            0 <= least <= greatest <= MAX_ERROR,
            f"relative squared errors: expected 0 to {MAX_ERROR}, found {least} to {greatest}",
        )
        self._require_same("errors, asked for again", trainer.quantization_error(sample), errors)
        reverse = trainer.quantization_error(sample[::-1])[:, ::-1]
        self._require_same("errors in reverse order", reverse, errors)
        another = self.make().quantization_error(sample)
        self._require_same("errors of another trainer", another, errors)

    def test_quantization_errors_fall_as_storage_bits_grow(self) -> None:
        trainer, quantizer = self.make(), self.quantizer()
        sample = sample_layer_configurations(quantizer.choices(), 48)
        bits = [quantizer.storage_bits(chosen) for chosen in sample]
        if len(set(bits)) < 2:
            raise SkipTest("all layer configurations have the same storage bits")
        rows = trainer.quantization_error(sample)
        found = float(np.mean([rank_correlation(bits, row.tolist()) for row in rows]))
        require(
            found < 0,
            "rank correlation of storage bits and error, mean over layers: expected less than 0,"
            f" found {found:.3f}",
        )

    def test_sensitivities_are_of_each_layer_and_repeat(self) -> None:
        trainer, chosen, report = self.trained()
        state = saved(trainer.state(), report)
        found = trainer.sensitivity(chosen, 0)
        require_equal("shape of sensitivities", found.shape, (len(trainer.layers()),))
        finite = bool(np.isfinite(found).all() and (found >= 0).all())
        require(finite, f"sensitivities: expected finite ones of 0 or more, found {found}")
        self._require_same("sensitivities, again", trainer.sensitivity(chosen, 0), found)
        self.require_same_state("state after sensitivities", trainer.state(), state)
        resumed = self.make()
        resumed.load_state(state)
        again = resumed.sensitivity(chosen, 0)
        self._require_same("sensitivities with the loaded state", again, found)

    def _require_same(
        self, what: str, found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]
    ) -> None:
        require_equal(f"{what}: shape", found.shape, expected.shape)
        off = float(np.abs(found - expected).max())
        require(
            off <= self.tolerance * float(np.abs(expected).max()),
            f"{what}: expected the same values, found some that differ by up to {off:.3g}",
        )


class TrainerConformance(
    ModelChecks, TrainingChecks, EvaluationChecks, LayerScoreChecks, ExportChecks
):
    """What every trainer must do; a subclass says which one.

    ::

        class TestMine(TrainerConformance):
            def make(self) -> MyTrainer:
                return MyTrainer(MyTrainer.Options(rank=4), MODEL, task(), self.quantizer(), 0)

            def make_other(self) -> MyTrainer:
                return MyTrainer(MyTrainer.Options(rank=2), MODEL, task(), self.quantizer(), 0)

            def quantizer(self) -> Quantizer:
                return Integer(Integer.Options())

    A model of a few layers and a task of some dozen examples will do: every check makes one or
    more trainers and trains most of them. Fixtures of pytest reach these methods by a fixture of
    the class that is ``autouse`` and keeps them in ``self``.
    """

    __test__ = False


def check_trainer(
    make: Callable[[], Trainer],
    make_other: Callable[[], Trainer],
    quantizer: Quantizer,
    split: Split = "validation",
    tolerance: float = 0.0,
    refused_formats: Collection[str] = (),
) -> None:
    """Run all checks of :class:`TrainerConformance` on a trainer; needs no pytest.

    Args:
        make: Returns a new trainer, always with the same options, model, data and seed.
        make_other: Returns a new trainer of another model or other options.
        quantizer: A quantizer with the knobs of the trainers'.
        split: The examples that are evaluated on.
        tolerance: By which part results may differ that should be the same.
        refused_formats: Export formats that can hold no configuration of this model and quantizer.

    Raises:
        ConformanceError: If a check fails; an AssertionError that names each, and why it failed.
        TypeError: If ``make`` or ``make_other`` is no function, or the quantizer is a class.
    """
    for name, given_maker in (("make", make), ("make_other", make_other)):
        if not callable(given_maker):
            raise TypeError(f"{name}: expected a function that returns a trainer, found a trainer")
    refuse_class("quantizer", quantizer)
    given_split, given_tolerance, given = split, tolerance, quantizer
    refused = refused_formats

    class Given(TrainerConformance):
        __test__ = False
        split = given_split
        tolerance = given_tolerance
        refused_formats = refused

        def make(self) -> Trainer:
            return make()

        def make_other(self) -> Trainer:
            return make_other()

        def quantizer(self) -> Quantizer:
            return given

    Given().run(f"trainer {type(make()).__name__}")


class _Elements(TorchFunctionMode):
    """Counts the elements of the largest tensor that is made, but for those without memory."""

    def __init__(self) -> None:
        super().__init__()
        self.greatest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor) and one.device.type != "meta":
                self.greatest = max(self.greatest, one.numel())
        return made
