"""The kit for trainers: a right one passes, and each check fails on one with a fault for it."""

import itertools
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsearch.errors import InputError
from qsearch.testing import TrainerConformance
from tests.engine.fixtures.qsearch_fake import FakeQuantizer
from tests.engine.testing.faults import altered, assert_found, checks, each, replaced, run
from tests.engine.testing.tiny_trainer import Tiny

numbers = itertools.count()


def other(**methods):
    return replaced(Tiny, **methods)


def results(**changes):
    """A trainer whose results are changed."""
    return altered(Tiny, **changes)


def fields(**changes):
    """Replaces fields of one result."""
    return lambda right, *_: replace(right, **changes)


def of_each(**changes):
    """Replaces fields of each of several results."""
    return lambda right, *_: [replace(one, **changes) for one in right]


def at_random(right, *_):
    return right * np.random.default_rng(next(numbers)).uniform(0.8, 1.0, right.shape)


def backwards(self, configurations, round, progress=None):
    report = progress and (lambda step, total, loss: progress(total - step, total, loss))
    return Tiny.train(self, configurations, round, report)


def after(change):
    """A trainer that changes once it was evaluated without quantization."""
    return other(evaluate_full_precision=lambda self, _: [change(self), self.full_precision][1])


def refuse(self, configuration, directory):
    raise InputError("not now")


def refuse_some_bits(self, configuration, directory):
    if {layer["bits"] for layer in configuration.values()} != {3}:
        raise InputError("3 bits alone")
    Tiny.write(self, configuration, directory)


NAN = float("nan")
FAULTS = {
    "layers_have_distinct_names_and_stay_the_same": {
        r"twice\nassert \['block'\]": results(layers=of_each(name="block")),
        "layers, asked for again": results(layers=lambda right: right[: 2 + next(numbers) % 2]),
        "layers after training": other(layers=lambda self: Tiny.layers(self)[: 2 + self.trainings]),
    },
    "requirements_are_known_without_loading_weights": {
        "weights are loaded": results(layers=lambda right: [torch.ones(8, 32), right][1]),
        "parameters": results(requirements=fields(parameters=0)),
        "operations and bytes": results(requirements=fields(evaluation_flops=NAN)),
    },
    "a_round_reports_its_steps_and_losses": {
        "3 == 4": results(steps=fields(steps=4)),
        "isfinite": results(steps=fields(losses=(NAN, 1.0, 1.0))),
    },
    "progress_is_reported": {
        "no progress was reported": other(
            train=lambda self, configurations, round, _=None: Tiny.train(
                self, configurations, round
            )
        ),
        "each step once and in order": other(train=backwards),
    },
    "training_is_a_function_of_state_set_seed_and_round": {
        "state of another trainer: 'vector'": results(generator=lambda *_: None),
    },
    "an_empty_set_is_refused": {
        "empty set: expected InputError, but it is": other(check=lambda *_: None),
    },
    "a_saved_state_evaluates_as_before": {
        "with the loaded state: loss of number 0": results(
            state=fields(tensors={"vector": torch.zeros(4)})
        ),
        "not JSON serializable": results(state=fields(metadata={"on": torch.device("cpu")})),
        "report, saved and loaded": results(steps=fields(losses=[1.0, 1.0, 1.0])),
    },
    "training_resumes_from_a_saved_state_as_if_never_stopped": {
        "state after round 2: 'vector'": other(
            check=lambda self, _: self.vector.add_(self.trainings)
        ),
    },
    "a_state_of_another_model_or_other_options_is_refused": {
        "state of another trainer: expected": other(load_state=lambda *_: None),
    },
    "a_killed_training_resumes_as_if_never_stopped": {
        "losses of the training that was killed": other(
            restored=lambda _, saved: list(saved.metadata["losses"])
        ),
        "state after it: 'vector'": other(
            train_resumably=lambda self, *arguments: [
                Tiny.train_resumably(self, *arguments),
                self.vector.mul_(2),
            ][0]
        ),
    },
    "a_checkpoint_of_another_set_is_not_used": {
        "state: 'vector'": other(resumes=lambda *_: True),
    },
    "each_configuration_has_an_evaluation": {
        "2 == 3": results(evaluate=lambda right, *_: right[:-1]),
        "metric": results(evaluate=of_each(metric=NAN)),
        "standard error": results(evaluate=of_each(standard_error=-0.01)),
        "seconds": results(evaluate=of_each(seconds=0.0)),
    },
    "configurations_have_losses_of_their_own": {"in all layers": other(error=lambda *_: 0.1)},
    "evaluations_repeat_whatever_their_order_and_company": {
        "evaluated again: loss of number 0": results(
            evaluation=lambda right, _: replace(right, loss=right.loss + next(numbers))
        ),
        "in reverse order: loss of number": results(
            evaluate=lambda right, *_: sorted(right, key=lambda one: one.loss)
        ),
        "one at a time: loss of number": results(
            evaluate=lambda right, *_: [
                replace(one, loss=one.loss - max(other.loss for other in right)) for one in right
            ]
        ),
    },
    "an_evaluation_leaves_the_state_as_it_was": {
        "state after an evaluation: 'vector'": other(
            evaluate=lambda self, *_: self.vector.mul_(0.99)
        ),
        "calls": results(state=lambda right: replace(right, metadata={"calls": next(numbers)})),
    },
    "full_precision_is_evaluated_and_leaves_no_trace": {
        "loss\n": results(evaluate_full_precision=fields(loss=NAN)),
        "full precision, again: loss of number 0": results(
            evaluate_full_precision=lambda right, _: replace(right, loss=next(numbers))
        ),
        "state after full precision: 'vector'": after(lambda self: self.vector.add_(1)),
        "evaluated after full precision: loss": after(lambda self: setattr(self, "offset", 0.0)),
        "with the loaded state: loss of number 0": other(
            evaluate_full_precision=lambda self, _: replace(
                self.full_precision, loss=self.trainings
            )
        ),
    },
    "quantization_errors_are_of_each_layer_and_layer_configuration": {
        r"\(6, 3\) == \(3, 6\)": results(quantization_error=lambda right, _: right.T),
        "<= 1.5": results(quantization_error=lambda right, _: 100 * right),
        "asked for again": results(quantization_error=at_random),
        "in reverse order": results(quantization_error=lambda right, _: np.sort(right, axis=1)),
    },
    "more_storage_bits_do_not_give_more_error": {
        "error with": results(quantization_error=lambda right, _: 1 - right / 2),
    },
    "sensitivities_are_of_each_layer_and_repeat": {
        r"\(1,\) == \(3,\)": results(sensitivity=lambda right, *_: right[:1]),
        ">= 0": results(sensitivity=lambda right, *_: -right),
        "asked for again": results(sensitivity=at_random),
        "with the loaded state": other(
            sensitivity=lambda self, *_: np.full(3, float(self.trainings))
        ),
    },
    "an_unknown_export_format_is_refused": {
        r"where export_formats are \('plain',\): expected": other(
            export=lambda self, configuration, directory, _: self.write(configuration, directory)
        ),
    },
    "exports_are_files_without_pickles": {
        "no files": other(write=lambda *_: None),
        "pytorch_model.bin": other(
            write=lambda _, configuration, directory: (directory / "pytorch_model.bin").write_text(
                "some"
            )
        ),
        "vector.safetensors": other(
            write=lambda self, _, directory: torch.save(
                self.vector, directory / "vector.safetensors"
            )
        ),
        "state after 'plain': 'vector'": other(
            write=lambda self, *arguments: [Tiny.write(self, *arguments), self.vector.mul_(2)]
        ),
        "with all layers alike is exported": other(write=refuse),
    },
}


class Kit(TrainerConformance):
    plugin = Tiny

    def make(self):
        return self.plugin()

    def make_other(self):
        return self.plugin(size=2)

    def quantizer(self):
        return FakeQuantizer(FakeQuantizer.Options(bits=(2, 3, 4)))


class TestRightTrainer(Kit):
    pass


class TestTrainerOfTheBareContract(Kit):
    plugin = other(export_formats=(), evaluate_full_precision=None, train_resumably=None)


def kit(plugin, **attributes):
    return replaced(Kit, plugin=plugin, **attributes)()


@each(FAULTS)
def test_a_trainer_with_a_fault_fails_the_check_for_it(check, says, plugin, tmp_path):
    assert_found(kit(plugin), check, says, tmp_path)


def test_every_check_has_a_trainer_that_fails_it():
    assert set(FAULTS) == checks(TrainerConformance)


@pytest.mark.parametrize(("write", "formats"), [(refuse, ["plain"]), (refuse_some_bits, [])])
def test_a_format_may_refuse_what_it_cannot_hold(write, formats, tmp_path):
    trainer = kit(other(write=write), refused_formats=formats)
    run(trainer, "exports_are_files_without_pickles", tmp_path)


def test_a_format_that_is_said_to_refuse_must_refuse(tmp_path):
    trainer = kit(Tiny, refused_formats=["plain"])
    assert_found(trainer, "exports_are_files_without_pickles", "whether a configuration", tmp_path)


@pytest.mark.parametrize(
    ("size", "part", "tolerance", "passes"),
    [(1, 1e-6, 0, False), (1, 1e-6, 1e-5, True), (1e-6, 0.1, 1e-5, False)],
)
def test_a_tolerance_is_a_part_of_the_loss(size, part, tolerance, passes, tmp_path):
    """For losses that differ by a part from one call to the next."""

    def changing(right, *_):
        factor = size * (1 + next(numbers) % 2 * part)
        return [
            replace(one, loss=one.loss * factor, standard_error=one.standard_error * factor)
            for one in right
        ]

    trainer = kit(results(evaluate=changing), tolerance=tolerance)
    with nullcontext() if passes else pytest.raises(AssertionError, match="loss of number 0"):
        run(trainer, "evaluations_repeat_whatever_their_order_and_company", tmp_path)


@pytest.mark.parametrize("method", ["make", "make_other", "quantizer"])
def test_a_kit_without_a_plugin_says_what_it_needs(method):
    with pytest.raises(NotImplementedError, match=f"TrainerConformance needs a method {method}"):
        getattr(TrainerConformance(), method)()
