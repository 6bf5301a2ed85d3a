"""The kit for trainers: a right one passes, and each check fails on one with a fault for it."""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable
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
from qsearch.testing import TrainerConformance
from tests.engine.testing.faults import Fault, altered, assert_found, checks

STEPS = 3


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
        self, configurations: Any, round: int, progress: Any, checkpoint: Any
    ) -> TrainReport:
        self.check(configurations)
        trains = "".join(configuration.to_json() for configuration in configurations) + str(round)
        losses: list[float] = []
        saved = checkpoint.load()
        if saved is not None and self.resumes(saved.metadata, trains):
            losses = self.restored(saved)
        moves = torch.randn(STEPS, self.size, generator=self.generator(trains))
        for step in range(len(losses), STEPS):
            self.vector = self.vector + 0.1 * moves[step]
            losses.append(float(self.vector.square().sum()))
            if progress is not None:
                progress(step + 1, STEPS, losses[-1])
            if step + 1 < STEPS:
                checkpoint.save(
                    TrainerState({"vector": self.vector}, {"trains": trains, "losses": losses})
                )
        return TrainReport(STEPS, 0.001, tuple(losses))

    def check(self, configurations: Any) -> None:
        if not configurations:
            raise InputError("the set is empty")

    def generator(self, trains: str) -> Any:
        return torch.Generator().manual_seed(zlib.crc32(trains.encode()))

    def resumes(self, metadata: Any, trains: str) -> bool:
        return metadata["trains"] == trains

    def restored(self, saved: TrainerState) -> list[float]:
        self.vector = saved.tensors["vector"]
        return list(saved.metadata["losses"])

    def evaluate(self, configurations: Any, split: str) -> Any:
        return [self.evaluation(configuration) for configuration in configurations]

    def evaluate_full_precision(self, split: str) -> Evaluation:
        return Evaluation(1.0 + float(self.vector.square().sum()), 0.01, 0.9, 0.001, 0.1)

    def evaluation(self, configuration: Any) -> Evaluation:
        started = time.perf_counter()
        errors = sum(self.error(layer) for layer in configuration.values())
        loss = 1.0 + errors + float(self.vector.square().sum())
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


FAULTS: list[Fault] = []


def fault(check: str, told: str, plugin: type | None = None, **changes: Callable[..., Any]) -> None:
    """List a trainer with a fault: one of a class, or a right one with other results."""
    FAULTS.append(Fault(check, told, plugin or altered(Tiny, **changes)))


def report(**changes: Any) -> Callable[..., Any]:
    return lambda right, *_: replace(right, **changes)


def each(**changes: Any) -> Callable[..., Any]:
    return lambda right, *_: [replace(one, **changes) for one in right]


# Layers and requirements


class LayersGrow(Tiny):
    def layers(self) -> Any:
        return super().layers()[: 3 if self.vector.any() else 2]


layers = "layers_have_distinct_names_and_stay_the_same"
fault(layers, r"twice\nassert \['block'\]", layers=each(name="block"))
fault(layers, "layers after training", LayersGrow)
needs = "requirements_are_known_without_loading_weights"
fault(needs, "weights are loaded", layers=lambda right: [torch.ones(8, 32), right][1])
fault(needs, "parameters", requirements=report(parameters=0))
fault(needs, "operations and bytes", requirements=report(evaluation_flops=float("nan")))

# Training


class ReportsNothing(Tiny):
    def train(self, configurations: Any, round: int, progress: Any = None) -> TrainReport:
        return super().train(configurations, round)


class ReportsBackwards(Tiny):
    def train(self, configurations: Any, round: int, progress: Any = None) -> TrainReport:
        def backwards(step: int, total: int, loss: float) -> None:
            progress(total - step, total, loss)

        return super().train(configurations, round, progress and backwards)


class TrainsOnNothing(Tiny):
    def check(self, configurations: Any) -> None:
        pass


class KeepsMomentumToItself(Tiny):
    momentum = 0.0

    def train_resumably(self, *arguments: Any) -> TrainReport:
        self.vector = self.vector + self.momentum
        self.momentum += 0.1
        return super().train_resumably(*arguments)


class TakesAnyState(Tiny):
    def load_state(self, state: TrainerState) -> None:
        self.vector = state.tensors["vector"]


class ResumesFromTheStart(Tiny):
    def restored(self, saved: TrainerState) -> list[float]:
        return list(saved.metadata["losses"])


class CountsStepsTwice(Tiny):
    def train_resumably(self, *arguments: Any) -> TrainReport:
        saved = arguments[-1].load()
        report = super().train_resumably(*arguments)
        if saved is not None:
            self.vector = self.vector * 1.01
        return report


reports = "a_round_reports_its_steps_and_losses"
fault(reports, "3 == 4", train_resumably=report(steps=4))
fault(reports, "isfinite", train_resumably=report(losses=(float("nan"), 1.0, 1.0)))
fault("progress_is_reported", "no progress was reported", ReportsNothing)
fault("progress_is_reported", "each step once and in order", ReportsBackwards)
fault(
    "training_is_a_function_of_state_set_seed_and_round",
    "state of another trainer: 'vector'",
    generator=lambda *_: None,
)
fault("an_empty_set_is_refused", "empty set: expected InputError, but it is", TrainsOnNothing)
as_before = "a_saved_state_evaluates_as_before"
zeros = {"vector": torch.zeros(4)}
fault(as_before, "with the loaded state: loss of number 0", state=report(tensors=zeros))
fault(
    as_before,
    "not JSON serializable",
    state=report(metadata={"size": 4, "on": torch.device("cpu")}),
)
fault(as_before, "report, saved and loaded", train_resumably=report(losses=[1.0, 1.0, 1.0]))
fault(
    "training_resumes_from_a_saved_state_as_if_never_stopped",
    "state after round 2: 'vector'",
    KeepsMomentumToItself,
)
foreign = "a_state_of_another_model_or_other_options_is_refused"
fault(foreign, "state of another trainer: expected", TakesAnyState)
killed = "a_killed_training_resumes_as_if_never_stopped"
fault(
    killed,
    "losses of the training that was killed",
    ResumesFromTheStart,
)
fault(killed, "state after it: 'vector'", CountsStepsTwice)
fault("a_checkpoint_of_another_set_is_not_used", "state: 'vector'", resumes=lambda *_: True)

# Evaluation


class EachTimeAnother(Tiny):
    def __init__(self, size: int = 4) -> None:
        super().__init__(size)
        self.calls = itertools.count()

    def evaluate(self, configurations: Any, split: str) -> Any:
        more = next(self.calls) / 1000
        return [replace(o, loss=o.loss + more) for o in super().evaluate(configurations, split)]


class LearnsFromEvaluations(Tiny):
    def evaluation(self, configuration: Any) -> Evaluation:
        self.vector = self.vector * 0.99
        return super().evaluation(configuration)


class CountsEvaluations(EachTimeAnother):
    def state(self) -> TrainerState:
        return TrainerState({"vector": self.vector}, {"size": self.size, "calls": str(self.calls)})


class FullPrecisionChanges(Tiny):
    loss = 1.0

    def evaluate_full_precision(self, split: str) -> Evaluation:
        self.loss += 0.1
        return replace(super().evaluate_full_precision(split), loss=self.loss)


class LearnsFromFullPrecision(Tiny):
    def evaluate_full_precision(self, split: str) -> Evaluation:
        right = super().evaluate_full_precision(split)
        self.learnt = self.vector = self.vector * 0.99
        return replace(right, loss=1.0)


class StaysInFullPrecision(Tiny):
    is_quantized = True

    def evaluate_full_precision(self, split: str) -> Evaluation:
        self.is_quantized = False
        return super().evaluate_full_precision(split)

    def error(self, layer: Any) -> float:
        return super().error(layer) if self.is_quantized else 0.0


class FullPrecisionOfWhatIsNotSaved(Tiny):
    loss = 1.0

    def train_resumably(self, *arguments: Any) -> TrainReport:
        self.loss = 2.0
        return super().train_resumably(*arguments)

    def evaluate_full_precision(self, split: str) -> Evaluation:
        return replace(super().evaluate_full_precision(split), loss=self.loss)


def compared_with_the_worst(right: Any, *_: Any) -> Any:
    return [replace(one, loss=one.loss - max(other.loss for other in right)) for one in right]


evaluation = "each_configuration_has_an_evaluation"
fault(evaluation, "2 == 3", evaluate=lambda right, *_: right[:-1])
fault(evaluation, "metric", evaluate=each(metric=float("nan")))
fault(evaluation, "standard error", evaluate=each(standard_error=-0.01))
fault(evaluation, "seconds", evaluate=each(seconds=0.0))
fault("configurations_have_losses_of_their_own", "in all layers", error=lambda *_: 0.1)
repeat = "evaluations_repeat_whatever_their_order_and_company"
fault(repeat, "evaluated again: loss of number 0", EachTimeAnother)
fault(
    repeat,
    "in reverse order: loss of number",
    evaluate=lambda right, *_: sorted(right, key=lambda one: one.loss),
)
fault(repeat, "one at a time: loss of number", evaluate=compared_with_the_worst)
stays = "an_evaluation_leaves_the_state_as_it_was"
fault(stays, "state after an evaluation: 'vector'", LearnsFromEvaluations)
fault(stays, "calls", CountsEvaluations)
full = "full_precision_is_evaluated_and_leaves_no_trace"
fault(full, "loss\n", evaluate_full_precision=report(loss=float("nan")))
fault(full, "full precision, again: loss of number 0", FullPrecisionChanges)
fault(full, "state after full precision: 'vector'", LearnsFromFullPrecision)
fault(full, "evaluated after full precision: loss", StaysInFullPrecision)
fault(full, "with the loaded state: loss of number 0", FullPrecisionOfWhatIsNotSaved)

# Scores of layers


class SensitivitiesOfItsTraining(KeepsMomentumToItself):
    def sensitivity(self, configurations: Any, round: int) -> Any:
        return super().sensitivity(configurations, round) + self.momentum


def at_random(right: Any, *_: Any) -> Any:
    return right * np.random.default_rng().uniform(0.8, 1.0, right.shape)


errors = "quantization_errors_are_of_each_layer_and_layer_configuration"
fault(errors, r"\(6, 3\) == \(3, 6\)", quantization_error=lambda right, _: right.T)
fault(errors, "<= 1.5", quantization_error=lambda right, _: 100 * right)
fault(errors, "asked for again", quantization_error=at_random)
fault(errors, "in reverse order", quantization_error=lambda right, _: np.sort(right, axis=1))
fault(
    "more_storage_bits_do_not_give_more_error",
    "error with",
    quantization_error=lambda right, _: 1 - right / 2,
)
sensitivities = "sensitivities_are_of_each_layer_and_repeat"
fault(sensitivities, r"\(1,\) == \(3,\)", sensitivity=lambda right, *_: right[:1])
fault(sensitivities, ">= 0", sensitivity=lambda right, *_: -right)
fault(sensitivities, "asked for again", sensitivity=at_random)
fault(sensitivities, "with the loaded state", SensitivitiesOfItsTraining)

# Exports


class WritesAnyFormat(Tiny):
    def export(self, configuration: Any, directory: Path, format: str) -> None:
        self.write(configuration, directory)


class WritesNothing(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        pass


class WritesABin(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        (directory / "pytorch_model.bin").write_bytes(b"\x80\x02.")


class WritesAPickleOfAnotherName(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        torch.save(self.vector, directory / "vector.safetensors")


class FoldsIntoItself(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        super().write(configuration, directory)
        self.vector.mul_(2)


class RefusesItsOwnFormat(Tiny):
    def write(self, configuration: Any, directory: Path) -> None:
        raise InputError("not now")


class RefusesSomeBits(Tiny):
    """Exports 3 bits alone."""

    def write(self, configuration: Any, directory: Path) -> None:
        if {layer["bits"] for layer in configuration.values()} != {3}:
            raise InputError("3 bits alone")
        super().write(configuration, directory)


unknown = "an_unknown_export_format_is_refused"
fault(unknown, r"where export_formats are \('plain',\): expected", WritesAnyFormat)
exports = "exports_are_files_without_pickles"
fault(exports, "no files", WritesNothing)
fault(exports, "pytorch_model.bin", WritesABin)
fault(exports, "vector.safetensors", WritesAPickleOfAnotherName)
fault(exports, "state after 'plain': 'vector'", FoldsIntoItself)
fault(exports, "with all layers alike is exported", RefusesItsOwnFormat)


class TinyConformance(TrainerConformance):
    plugin: Any = Tiny

    def make(self) -> Trainer:
        trainer: Trainer = self.plugin()
        return trainer

    def make_other(self) -> Trainer:
        other: Trainer = self.plugin(size=2)
        return other

    def quantizer(self) -> Quantizer:
        return Knobs()  # type: ignore[return-value]


class TestRightTrainer(TinyConformance):
    pass


class TestFormatThatRefusesSomeBits(TinyConformance):
    plugin = RefusesSomeBits


class TestRefusedFormat(TinyConformance):
    plugin = RefusesItsOwnFormat
    refused_formats = ("plain",)


class TestTrainerOfTheBareContract(TinyConformance):
    class Bare:
        """A trainer without capabilities, which exports nothing."""

        export_formats = ()

        def __init__(self, size: int = 4) -> None:
            self.tiny = Tiny(size)

        def __getattr__(self, name: str) -> Any:
            if name in ("evaluate_full_precision", "train_resumably"):
                raise AttributeError(name)
            return getattr(self.tiny, name)

        def export(self, configuration: Any, directory: Path, format: str) -> None:
            raise InputError("no format")

    plugin = Bare


def kit(trainer: type, **attributes: Any) -> TrainerConformance:
    made: TrainerConformance = type("Kit", (TinyConformance,), {"plugin": trainer, **attributes})()
    return made


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_trainer_with_a_fault_fails_the_check_for_it(fault: Fault, tmp_path: Path) -> None:
    assert_found(fault, kit(fault.plugin), tmp_path)


def test_every_check_has_a_trainer_that_fails_it() -> None:
    assert {fault.check for fault in FAULTS} == checks(TrainerConformance)


def test_a_format_that_is_refused_must_refuse(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="whether a configuration"):
        kit(Tiny, refused_formats=["plain"]).test_exports_are_files_without_pickles(tmp_path)


def not_quite(calls: Any, size: float, part: float) -> type:
    """A trainer whose losses differ by a part from one call to the next."""

    def evaluate(right: Any, *_: Any) -> Any:
        factor = size * (1 + next(calls) % 2 * part)
        return [
            replace(one, loss=one.loss * factor, standard_error=one.standard_error * factor)
            for one in right
        ]

    return altered(Tiny, evaluate=evaluate)


@pytest.mark.parametrize(
    ("size", "part", "tolerance", "passes"),
    [(1, 1e-6, 0, False), (1, 1e-6, 1e-5, True), (1e-6, 0.1, 1e-5, False)],
)
def test_a_tolerance_is_a_part_of_the_loss(
    size: float, part: float, tolerance: float, passes: bool
) -> None:
    trainer = kit(not_quite(itertools.count(), size, part), tolerance=tolerance)
    check = trainer.test_evaluations_repeat_whatever_their_order_and_company
    if passes:
        check()
    else:
        with pytest.raises(AssertionError, match="loss of number 0"):
            check()


@pytest.mark.parametrize("method", ["make", "make_other", "quantizer"])
def test_a_kit_without_a_plugin_says_what_it_needs(method: str) -> None:
    with pytest.raises(NotImplementedError, match=f"TrainerConformance needs a method {method}"):
        getattr(TrainerConformance(), method)()
