"""The kit for trainers: a right one passes, and each check fails on one with a fault for it."""

import itertools
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsearch.plugins.evaluation import ExampleScores, MetricValue
from qsearch.space.configuration import Configuration, Knob, LayerConfiguration
from qsearch.testing import TrainerConformance
from qsearch.testing.exporter.job import SampleJob
from tests.engine.testing.faults import altered, assert_found, checks, each, replaced, run
from tests.engine.testing.tiny_trainer import QUANTIZER, Tiny

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


def job(**changes):
    """A trainer whose export jobs have other fields."""
    return results(export_job=fields(**changes))


def jobs(**changes):
    """A trainer whose export jobs give other results."""
    return other(job_type=altered(SampleJob, **changes))


def knobs(takes=True, bits=0.5):
    """A trainer that adds a knob."""
    return other(
        trainer_knobs=lambda _: (Knob("rank", (0, 2)),),
        takes_values=lambda *_: takes,
        added_bits=lambda *_: bits,
    )


def moving(self, configuration):
    self.vector = self.vector + 1
    return Tiny.export_job(self, configuration)


NAN = float("nan")
FAULTS = {
    "it_is_written_for_the_contract_of_this_qsearch": {
        "the trainer is written for version 1": other(contract=1),
    },
    "layers_have_distinct_names_and_stay_the_same": {
        r"twice\nassert \['block'\]": results(layers=of_each(name="block")),
        "layers, asked for again": results(layers=lambda right: right[: 2 + next(numbers) % 2]),
        "layers after training": other(layers=lambda self: Tiny.layers(self)[: 2 + self.trainings]),
    },
    "embeddings_come_after_the_other_layers": {
        "layers of blocks": other(
            search_embeddings=lambda self: setattr(self, "layers", lambda: [])
        ),
    },
    "requirements_are_known_without_loading_weights": {
        "weights are loaded": results(layers=lambda right: [torch.ones(8, 32), right][1]),
        "parameters": results(requirements=fields(parameters=0)),
        "operations and bytes": results(requirements=fields(evaluation_flops=NAN)),
    },
    "each_layer_takes_values_of_the_trainers_knobs_whose_bits_are_known": {
        "knobs of another trainer": other(
            trainer_knobs=lambda _: (Knob("rank", (0, 1 + next(numbers))),),
            takes_values=lambda *_: True,
            added_bits=lambda *_: 0.5,
        ),
        "values that block": knobs(takes=False),
        "bits that block": knobs(bits=NAN),
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
        "accuracy": results(evaluate=of_each(metrics={"accuracy": MetricValue(NAN)})),
        "metrics": results(evaluate=of_each(metrics={})),
        "the mean over examples": results(
            evaluate=of_each(examples=ExampleScores((0.0, 0.0), (1.0, 1.0)))
        ),
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
    "an_export_job_holds_the_configuration": {
        r"Configuration\(0 layers\)": job(configuration=Configuration({})),
        "layers": job(layers=()),
        "paths": job(paths=("a", "a", "b")),
        "factors": jobs(factors=lambda _: iter(())),
        "weight of a": jobs(state=lambda right: {name: one[:4] for name, one in right.items()}),
        "quantized weight of b": jobs(quantized=lambda right, place: right.rows(0, 8 - place)),
        "query='no'": jobs(
            quantized=lambda right, _: replace(
                right, configuration=LayerConfiguration({"query": "no"})
            )
        ),
        "factors of a": jobs(factors=lambda right: ((A, B[:2]) for A, B in right)),
        "rank of a": jobs(factors=lambda right: ((A[:2], B) for A, B in right)),
        "again": jobs(
            state=lambda right: {name: one + next(numbers) for name, one in right.items()}
        ),
        "state after an export: 'vector'": other(export_job=moving),
    },
    "exports_are_files_without_pickles": {
        "no configuration with all layers alike is written": job(method="refused"),
        "no files": job(method="nothing"),
        "weights.bin": job(method="pickle"),
        "state after 'plain': 'vector'": other(export_job=moving),
    },
}


class Kit(TrainerConformance):
    plugin = Tiny
    formats = ("plain",)

    def make(self):
        return self.plugin()

    def make_other(self):
        return self.plugin(size=2)

    def quantizer(self):
        return QUANTIZER


class TestRightTrainer(Kit):
    pass


class TestTrainerOfTheBareContract(Kit):
    plugin = other(export_job=None, evaluate_full_precision=None, train_resumably=None)


def kit(plugin, **attributes):
    return replaced(Kit, plugin=plugin, **attributes)()


@each(FAULTS)
def test_a_trainer_with_a_fault_fails_the_check_for_it(check, says, plugin, tmp_path):
    assert_found(kit(plugin), check, says, tmp_path)


def test_every_check_has_a_trainer_that_fails_it():
    assert set(FAULTS) == checks(TrainerConformance)


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
