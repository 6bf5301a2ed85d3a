"""The kit for trainers: a right one passes, and each check fails on one with a fault for it."""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qsearch.errors import InputError
from qsearch.plugins.capabilities import NO_CHECKPOINT
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import Quantizer, Requirements, Trainer, TrainerState
from qsearch.space.configuration import Choices, Knob
from qsearch.space.layers import LayerSpec
from qsearch.testing import ConformanceError, TrainerConformance, check_trainer
from tests.engine.faults import Fault, assert_found, listing

STEPS = 3

FAULTS: list[Fault] = []
fails = listing(FAULTS)


class Knobs:
    """As much of a quantizer as configurations are made of."""

    def choices(self) -> Choices:
        return Choices((Knob("bits", (2, 3, 4)), Knob("group_size", (32, 64))))

    def storage_bits(self, configuration: Any) -> float:
        return configuration.integer("bits") + 16 / configuration.integer("group_size")


class Tiny:
    """Moves a vector at each step; its square and the layers' errors are the loss."""

    export_formats = ("plain",)

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self.vector = torch.zeros(size)

    def layers(self) -> Any:
        return [LayerSpec(f"block.{index}.query", "query", index, (8, 32)) for index in range(3)]

    def requirements(self) -> Requirements:
        return Requirements(3 * 8 * 32, 2**20, (1e6, 1e6), 1e5)

    def train(self, configurations: Any, round: int, progress: Any = None) -> TrainReport:
        return self.train_resumably(configurations, round, progress, NO_CHECKPOINT)

    def train_resumably(
        self, configurations: Any, round: int, progress: Any, unfinished: Any
    ) -> TrainReport:
        self.check(configurations)
        trains = "".join(configuration.to_json() for configuration in configurations) + str(round)
        losses: list[float] = []
        saved = unfinished.load()
        if saved is not None and self.goes_on(saved.metadata, trains):
            losses = self.restored(saved)
        moves = torch.randn(STEPS, self.size, generator=self.generator(trains))
        for step in range(len(losses), STEPS):
            self.vector = self.vector + 0.1 * moves[step]
            losses.append(float(self.vector.square().sum()))
            if progress is not None:
                progress(step + 1, STEPS, losses[-1])
            if step + 1 < STEPS:
                unfinished.save(
                    TrainerState({"vector": self.vector}, {"trains": trains, "losses": losses})
                )
        return TrainReport(STEPS, 0.001, tuple(losses))

    def check(self, configurations: Any) -> None:
        if not configurations:
            raise InputError("the set is empty")

    def generator(self, trains: str) -> Any:
        return torch.Generator().manual_seed(zlib.crc32(trains.encode()))

    def goes_on(self, metadata: Any, trains: str) -> bool:
        return metadata["trains"] == trains

    def restored(self, saved: TrainerState) -> list[float]:
        self.vector = saved.tensors["vector"]
        return list(saved.metadata["losses"])

    def evaluate(self, configurations: Any, split: str) -> Any:
        return [self.evaluation(configuration, 1) for configuration in configurations]

    def evaluate_part(self, configurations: Any, split: str, one_in: int) -> Any:
        return [self.evaluation(configuration, one_in) for configuration in configurations]

    def evaluate_full_precision(self, split: str) -> Evaluation:
        return Evaluation(1.0 + float(self.vector.square().sum()), 0.01, 0.9, 0.001, 0.1)

    def evaluation(self, configuration: Any, one_in: int) -> Evaluation:
        started = time.perf_counter()
        errors = sum(self.error(layer) for layer in configuration.values())
        loss = 1.0 + errors + float(self.vector.square().sum()) + 0.1 * (one_in - 1)
        return Evaluation(loss, 0.01, 1 / loss, 0.001, time.perf_counter() - started)

    def error(self, layer: Any) -> float:
        return 4.0 ** (1 - layer.integer("bits")) * (layer.integer("group_size") / 32) ** 0.25

    def quantization_error(self, layer_configurations: Any) -> Any:
        row = np.array([self.error(layer) for layer in layer_configurations])
        return np.stack([row * (1 + index / 10) for index in range(3)])

    def sensitivity(self, configurations: Any, round: int) -> Any:
        return float(self.vector.square().sum()) + np.arange(3.0)

    def state(self) -> TrainerState:
        return TrainerState({"vector": self.vector}, {"size": self.size})

    def load_state(self, state: TrainerState) -> None:
        if state.metadata["size"] != self.size:
            raise InputError(f"size was {state.metadata['size']}, is {self.size}")
        self.vector = state.tensors["vector"]

    def export(self, configuration: Any, directory: Path, format: str) -> None:
        if format not in self.export_formats:
            raise InputError(f"no format {format!r}")
        self.write(configuration, directory)

    def write(self, configuration: Any, directory: Path) -> None:
        (directory / "configuration.json").write_text(configuration.to_json())
        save_file({"vector": self.vector}, directory / "vector.safetensors")


@fails("layers_have_distinct_names_and_stay_the_same", r"expected \[\], found \['block'\]")
class LayersOfOneName(Tiny):
    def layers(self) -> Any:
        return [replace(layer, name="block") for layer in super().layers()]


@fails("layers_have_distinct_names_and_stay_the_same", "layers after training: expected")
class LayersGrow(Tiny):
    def layers(self) -> Any:
        return super().layers()[: 3 if self.vector.any() else 2]


@fails("requirements_are_told_without_loading_weights", "found a tensor of 256 elements")
class LoadsForItsLayers(Tiny):
    def layers(self) -> Any:
        return [replace(layer, shape=tuple(torch.ones(8, 32).shape)) for layer in super().layers()]


@fails("requirements_are_told_without_loading_weights", "parameters: expected 768 or more")
class NeedsNothing(Tiny):
    def requirements(self) -> Requirements:
        return Requirements(0, 2**20)


@fails("requirements_are_told_without_loading_weights", "evaluation_flops: expected 0 or more")
class NeedsLessThanNothing(Tiny):
    def requirements(self) -> Requirements:
        return replace(super().requirements(), evaluation_flops=float("nan"))


class Reported(Tiny):
    """Reports another training than there was."""

    def report(self, right: TrainReport) -> TrainReport:
        raise NotImplementedError

    def train_resumably(self, *arguments: Any) -> TrainReport:
        return self.report(super().train_resumably(*arguments))


@fails("a_round_reports_its_steps_and_losses", "number of losses .* expected 4, found 3")
class ReportsOtherSteps(Reported):
    def report(self, right: TrainReport) -> TrainReport:
        return replace(right, steps=4)


@fails("a_round_reports_its_steps_and_losses", "loss of step 0: expected a finite number")
class ReportsNaN(Reported):
    def report(self, right: TrainReport) -> TrainReport:
        return replace(right, losses=(float("nan"), *right.losses[1:]))


@fails("progress_is_told", "expected progress of 3 steps, found none")
class TellsNothing(Tiny):
    def train(self, configurations: Any, round: int, progress: Any = None) -> TrainReport:
        return super().train(configurations, round)


@fails("progress_is_told", r"in order: expected \[0, 1, 2\], found \[2, 1, 0\]")
class TellsBackwards(Tiny):
    def train(self, configurations: Any, round: int, progress: Any = None) -> TrainReport:
        def backwards(step: int, total: int, loss: float) -> None:
            progress(total - step, total, loss)

        return super().train(configurations, round, progress and backwards)


@fails("training_is_a_function_of_state_set_seed_and_round", "state of another trainer: 'vector'")
class DrawsFromTheProcess(Tiny):
    def generator(self, trains: str) -> Any:
        return None


@fails("an_empty_set_is_refused", "training on an empty set: expected InputError, found that it")
class TrainsOnNothing(Tiny):
    def check(self, configurations: Any) -> None:
        pass


@fails("a_saved_state_evaluates_as_before", "with the loaded state: loss of no. 0: expected")
class SavesNothing(Tiny):
    def state(self) -> TrainerState:
        return TrainerState({"vector": torch.zeros(self.size)}, {"size": self.size})


@fails("a_saved_state_evaluates_as_before", "one that cannot be saved: TypeError")
class SavesNoJSON(Tiny):
    def state(self) -> TrainerState:
        return TrainerState(
            {"vector": self.vector}, {"size": self.size, "device": self.vector.device}
        )


@fails("a_saved_state_evaluates_as_before", "report, saved and loaded: expected")
class ReportsAList(Reported):
    def report(self, right: TrainReport) -> TrainReport:
        return replace(right, losses=list(right.losses))  # type: ignore[arg-type]


@fails("training_goes_on_from_a_saved_state_as_if_never_stopped", "state after round 2: 'vector'")
class KeepsMomentumToItself(Tiny):
    momentum = 0.0

    def train_resumably(self, *arguments: Any) -> TrainReport:
        self.vector = self.vector + self.momentum
        self.momentum += 0.1
        return super().train_resumably(*arguments)


@fails("a_state_of_another_model_or_other_options_is_refused", "state of another trainer: expected")
class TakesAnyState(Tiny):
    def load_state(self, state: TrainerState) -> None:
        self.vector = state.tensors["vector"]


@fails("a_state_of_another_model_or_other_options_is_refused", "expected InputError, found Value")
class FailsOnOtherStates(Tiny):
    def load_state(self, state: TrainerState) -> None:
        if state.metadata["size"] != self.size:
            raise ValueError("shapes do not match")
        super().load_state(state)


@fails("a_killed_training_goes_on_as_if_never_stopped", "losses of the training that was killed")
class GoesOnFromTheStart(Tiny):
    def restored(self, saved: TrainerState) -> list[float]:
        return list(saved.metadata["losses"])


@fails("a_killed_training_goes_on_as_if_never_stopped", "state after it: 'vector'")
class CountsStepsTwice(Tiny):
    def train_resumably(self, *arguments: Any) -> TrainReport:
        saved = arguments[-1].load()
        report = super().train_resumably(*arguments)
        if saved is not None:
            self.vector = self.vector * 1.01
        return report


@fails("an_unfinished_training_of_another_set_is_not_used", "state: 'vector'")
class GoesOnFromAnySet(Tiny):
    def goes_on(self, metadata: Any, trains: str) -> bool:
        return True


class Evaluated(Tiny):
    """Evaluates otherwise than it should."""

    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        raise NotImplementedError

    def evaluate(self, configurations: Any, split: str) -> Any:
        return self.evaluated(super().evaluate(configurations, split))


@fails("each_configuration_has_an_evaluation", "number of evaluations: expected 3, found 2")
class LeavesOneOut(Evaluated):
    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        return right[:-1]


@fails("each_configuration_has_an_evaluation", "metric: expected a finite number, found nan")
class MeasuresNaN(Evaluated):
    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        return [replace(one, metric=float("nan")) for one in right]


@fails("each_configuration_has_an_evaluation", "standard errors: expected 0 or more, found")
class NegativeStandardErrors(Evaluated):
    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        return [replace(one, standard_error=-0.01) for one in right]


@fails("each_configuration_has_an_evaluation", "seconds: expected more than 0, found 0.0")
class TakesNoTime(Evaluated):
    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        return [replace(one, seconds=0.0) for one in right]


@fails("configurations_have_losses_of_their_own", "expected two, found .* for both")
class IgnoresConfigurations(Tiny):
    def error(self, layer: Any) -> float:
        return 0.1


@fails("evaluations_repeat_whatever_their_order_and_company", "evaluated again: loss of no. 0")
class EachTimeAnother(Evaluated):
    calls = 0

    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        self.calls += 1
        return [replace(one, loss=one.loss + self.calls / 1000) for one in right]


@fails("evaluations_repeat_whatever_their_order_and_company", "in reverse order: loss of no. ")
class SortsByLoss(Evaluated):
    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        return sorted(right, key=lambda one: one.loss)


@fails("evaluations_repeat_whatever_their_order_and_company", "one at a time: loss of no. ")
class ComparesWithTheWorst(Evaluated):
    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        worst = max(one.loss for one in right)
        return [replace(one, loss=one.loss - worst) for one in right]


@fails("an_evaluation_leaves_the_state_as_it_was", "state after an evaluation: 'vector'")
class LearnsFromEvaluations(Tiny):
    def evaluation(self, configuration: Any, one_in: int) -> Evaluation:
        self.vector = self.vector * 0.99
        return super().evaluation(configuration, one_in)


@fails("an_evaluation_leaves_the_state_as_it_was", "its metadata: expected")
class CountsEvaluations(Tiny):
    calls = 0

    def evaluate(self, configurations: Any, split: str) -> Any:
        self.calls += 1
        return super().evaluate(configurations, split)

    def state(self) -> TrainerState:
        return TrainerState({"vector": self.vector}, {"size": self.size, "calls": self.calls})


class WithoutQuantization(Tiny):
    """Evaluates full precision otherwise than it should."""

    figure = 1.0

    def evaluate_full_precision(self, split: str) -> Evaluation:
        return replace(super().evaluate_full_precision(split), loss=self.figure)


@fails("full_precision_is_evaluated_and_leaves_no_trace", "expected finite figures, found")
class FullPrecisionIsNaN(WithoutQuantization):
    figure = float("nan")


@fails("full_precision_is_evaluated_and_leaves_no_trace", "full precision, again: loss of no. 0")
class FullPrecisionChanges(WithoutQuantization):
    def evaluate_full_precision(self, split: str) -> Evaluation:
        self.figure = self.figure + 0.1
        return super().evaluate_full_precision(split)


@fails("full_precision_is_evaluated_and_leaves_no_trace", "state after full precision: 'vector'")
class LearnsFromFullPrecision(WithoutQuantization):
    def evaluate_full_precision(self, split: str) -> Evaluation:
        self.vector = self.vector * 0.99
        return super().evaluate_full_precision(split)


@fails("full_precision_is_evaluated_and_leaves_no_trace", "evaluated after full precision: loss")
class StaysInFullPrecision(WithoutQuantization):
    is_quantized = True

    def evaluate_full_precision(self, split: str) -> Evaluation:
        self.is_quantized = False
        return super().evaluate_full_precision(split)

    def error(self, layer: Any) -> float:
        return super().error(layer) if self.is_quantized else 0.0


@fails("full_precision_is_evaluated_and_leaves_no_trace", "with the loaded state: loss of no. 0")
class FullPrecisionOfWhatIsNotSaved(WithoutQuantization):
    def train_resumably(self, *arguments: Any) -> TrainReport:
        self.figure = 2.0
        return super().train_resumably(*arguments)


@fails("a_part_is_the_same_for_all_configurations", "one example in two, in reverse order")
class PartByPlace(Tiny):
    def evaluate_part(self, configurations: Any, split: str, one_in: int) -> Any:
        right = super().evaluate_part(configurations, split, one_in)
        by_place = [(one_in - 1) * place / 10 for place in range(len(right))]
        return [replace(o, loss=o.loss + p) for o, p in zip(right, by_place, strict=True)]


@fails("a_part_is_the_same_for_all_configurations", "one example in one: loss of no. 0")
class PartOfAllIsLess(Tiny):
    def evaluate_part(self, configurations: Any, split: str, one_in: int) -> Any:
        return super().evaluate_part(configurations, split, one_in + 1)


@fails("a_part_is_the_same_for_all_configurations", "expected others than on all, found")
class EvaluatesAllForAPart(Tiny):
    def evaluate_part(self, configurations: Any, split: str, one_in: int) -> Any:
        return self.evaluate(configurations, split)


@fails("quantization_errors_are_of_each_layer_and_layer_configuration", r"expected \(3, 6\), found")
class ErrorsTransposed(Tiny):
    def quantization_error(self, layer_configurations: Any) -> Any:
        return super().quantization_error(layer_configurations).T


@fails("quantization_errors_are_of_each_layer_and_layer_configuration", "expected 0 to 1.5, found")
class ErrorsNotRelative(Tiny):
    def quantization_error(self, layer_configurations: Any) -> Any:
        return 100 * super().quantization_error(layer_configurations)


@fails("quantization_errors_are_of_each_layer_and_layer_configuration", "errors, asked for again")
class ErrorsOfRandomRows(Tiny):
    def quantization_error(self, layer_configurations: Any) -> Any:
        right = super().quantization_error(layer_configurations)
        return right * np.random.default_rng().uniform(0.9, 1.0, right.shape)


@fails("quantization_errors_are_of_each_layer_and_layer_configuration", "in reverse order")
class ErrorsSorted(Tiny):
    def quantization_error(self, layer_configurations: Any) -> Any:
        return np.sort(super().quantization_error(layer_configurations), axis=1)


@fails("quantization_errors_fall_as_storage_bits_grow", "expected less than 0, found 1.000")
class ErrorsUpsideDown(Tiny):
    def quantization_error(self, layer_configurations: Any) -> Any:
        return 1 - super().quantization_error(layer_configurations) / 2


@fails("sensitivities_are_of_each_layer_and_repeat", r"expected \(3,\), found \(1,\)")
class OneSensitivity(Tiny):
    def sensitivity(self, configurations: Any, round: int) -> Any:
        return super().sensitivity(configurations, round)[:1]


@fails("sensitivities_are_of_each_layer_and_repeat", "expected finite ones of 0 or more, found")
class NegativeSensitivities(Tiny):
    def sensitivity(self, configurations: Any, round: int) -> Any:
        return -super().sensitivity(configurations, round)


@fails("sensitivities_are_of_each_layer_and_repeat", "sensitivities, again: expected the same")
class SensitivitiesOfRandomBatches(Tiny):
    def sensitivity(self, configurations: Any, round: int) -> Any:
        return super().sensitivity(configurations, round) * np.random.default_rng().uniform(1, 2)


@fails("sensitivities_are_of_each_layer_and_repeat", "sensitivities with the loaded state")
class SensitivitiesOfItsTraining(KeepsMomentumToItself):
    def sensitivity(self, configurations: Any, round: int) -> Any:
        return super().sensitivity(configurations, round) + self.momentum


@fails("an_unknown_export_format_is_refused", r"where export_formats are \('plain',\): expected")
class WritesAnyFormat(Tiny):
    def export(self, configuration: Any, directory: Path, format: str) -> None:
        self.write(configuration, directory)


@fails("an_unknown_export_format_is_refused", "format 'packed'.* found that it is taken")
class WritesMoreThanItSays(Tiny):
    def export(self, configuration: Any, directory: Path, format: str) -> None:
        super().export(configuration, directory, "plain" if format == "packed" else format)


@fails("exports_are_files_without_pickles", "expected files, found {}")
class WritesNothing(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        pass


@fails("exports_are_files_without_pickles", r"expected \[\], found \['pytorch_model.bin'\]")
class WritesABin(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        (directory / "pytorch_model.bin").write_bytes(b"\x80\x02.")


@fails("exports_are_files_without_pickles", r"expected \[\], found \['vector.safetensors'\]")
class WritesAPickleOfAnotherName(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        torch.save(self.vector, directory / "vector.safetensors")


@fails("exports_are_files_without_pickles", "state after 'plain': 'vector'")
class FoldsIntoItself(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        super().write(configuration, directory)
        self.vector.mul_(2)


@fails("exports_are_files_without_pickles", "expected that a configuration .* none can: not now")
class RefusesItsOwnFormat(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        raise InputError("not now")


class RefusesSomeBits(Tiny):
    """Exports 3 bits alone."""

    def write(self, configuration: Any, directory: Path) -> None:
        if {layer["bits"] for layer in configuration.values()} != {3}:
            raise InputError("3 bits alone")
        super().write(configuration, directory)


class TestRightTrainer(TrainerConformance):
    def make(self) -> Trainer:
        return Tiny()

    def make_other(self) -> Trainer:
        return Tiny(size=2)

    def quantizer(self) -> Quantizer:
        return Knobs()  # type: ignore[return-value]


def check(plugin: Any, **options: Any) -> None:
    check_trainer(plugin, lambda: plugin(size=2), Knobs(), **options)  # type: ignore[arg-type]


def test_every_check_has_a_trainer_that_fails_it() -> None:
    assert {check for check, _, _ in FAULTS} == set(TrainerConformance.checks())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2].__name__)
def test_a_trainer_with_a_fault_fails_the_check_for_it(fault: Fault) -> None:
    with pytest.raises(ConformanceError) as caught:
        check(fault[2])
    assert_found(fault, caught.value.failures)


def test_one_call_checks_all_and_names_each_failed_check() -> None:
    check(Tiny)
    with pytest.raises(AssertionError) as caught:
        check(LayersOfOneName)
    assert re.match(r"trainer LayersOfOneName fails \d+ of \d+ checks\n", str(caught.value))
    assert "  test_layers_have_distinct_names_and_stay_the_same: " in str(caught.value)


def test_a_format_may_refuse_what_it_cannot_hold() -> None:
    check(RefusesSomeBits)
    check(RefusesItsOwnFormat, refused_formats=["plain"])
    with pytest.raises(ConformanceError, match="'plain' of refused_formats: expected InputError"):
        check(Tiny, refused_formats=["plain"])


class NotQuite(Evaluated):
    """Evaluates to a part in a million, as a GPU may."""

    calls = 0

    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        self.calls += 1
        return [replace(one, loss=one.loss * (1 + 1e-6 * (self.calls % 2))) for one in right]


def test_a_tolerance_allows_for_sums_in_no_fixed_order() -> None:
    with pytest.raises(ConformanceError, match="test_evaluations_repeat"):
        check(NotQuite)
    check(NotQuite, tolerance=1e-5)


class NotQuiteOfSmallLosses(Evaluated):
    """Has losses of some 1e-6 that differ by a tenth, a smaller number than the tolerance."""

    calls = 0

    def evaluated(self, right: list[Evaluation]) -> list[Any]:
        self.calls += 1
        factor = 1e-6 * (1 + self.calls % 2 / 10)
        return [
            replace(one, loss=one.loss * factor, standard_error=one.standard_error * factor)
            for one in right
        ]


def test_a_tolerance_is_a_part_of_the_loss() -> None:
    with pytest.raises(ConformanceError, match=r"test_evaluations_repeat.*: loss of no\. 0"):
        check(NotQuiteOfSmallLosses, tolerance=1e-5)


def test_what_a_trainer_cannot_do_is_not_checked() -> None:
    class Plain:
        """A trainer of the bare contract, which exports nothing."""

        export_formats = ()

        def __init__(self, size: int = 4) -> None:
            self.tiny = Tiny(size)

        def __getattr__(self, name: str) -> Any:
            if name in ("evaluate_part", "evaluate_full_precision", "train_resumably"):
                raise AttributeError(name)
            return getattr(self.tiny, name)

        def export(self, configuration: Any, directory: Path, format: str) -> None:
            raise InputError("no format")

    check(Plain)


def test_a_trainer_in_place_of_a_function_that_makes_one_is_one_error() -> None:
    trainer: Any = Tiny()
    with pytest.raises(TypeError, match="make: expected a function that returns a trainer"):
        check_trainer(trainer, Tiny, Knobs())
