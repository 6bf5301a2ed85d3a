"""The kit for tasks: a right one passes, and each check fails on one with a fault for it."""

import itertools
from dataclasses import replace

import pytest
import torch
from pydantic import BaseModel, ConfigDict

from qsearch.plugins.evaluation import Metric, MetricValue
from qsearch.plugins.protocols import LoadedModel, Scores
from qsearch.spec.sections import ModelSpec
from qsearch.testing import TaskConformance
from tests.engine.testing.faults import altered, assert_found, checks, each, replaced

numbers = itertools.count()


class Signs:
    """Whether the sum of a vector is positive."""

    name = "signs"
    metrics = (Metric("accuracy", "higher"),)

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")

    def __init__(self):
        self.data = {}

    def load_model(self, model, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2))
        return LoadedModel(module, None, ("1",))

    def prepare(self, tokenizer):
        generator = torch.Generator().manual_seed(0)
        for split, count in (("train", 10), ("validation", 6)):
            vectors = torch.randn(count, 6, generator=generator)
            self.data[split] = {"input": vectors, "labels": (vectors.sum(1) > 0).long()}

    def batches(self, split, batch_size, generator=None):
        data = self.data[split]
        count = len(data["labels"])
        order = torch.randperm(count, generator=generator) if generator else torch.arange(count)
        for places in order.split(batch_size):
            yield {name: tensor[places] for name, tensor in data.items()}

    def score(self, logits, batch):
        losses = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
        right = (logits.argmax(1) == batch["labels"]).float()
        return Scores(losses, torch.ones_like(losses), {"accuracy": right})

    def example_weights(self, batch):
        return torch.ones(len(batch["labels"]), dtype=torch.int64)

    def summarise(self, scores):
        right = scores.metrics["accuracy"]
        return {
            "accuracy": MetricValue(float(right.mean()), float(right.std()) / len(right) ** 0.5)
        }

    def examples(self, split):
        return len(self.data[split]["labels"])


def accuracy(value, error):
    return {"accuracy": MetricValue(value, error)}


def other(**methods):
    return replaced(Signs, **methods)


def results(**changes):
    return altered(Signs, **changes)


def fields(**changes):
    return lambda right, *_: replace(right, **changes)


class AnyOptions(Signs):
    class Options(BaseModel):
        """Takes what it does not know."""


FAULTS = {
    "it_has_a_name_and_metrics": {
        "the task is written for version 1": other(contract=1),
        "name": other(name=""),
        "metrics": other(metrics=()),
        "a metric may not be called 'loss'": other(metrics=(Metric("loss", "lower"),)),
        "which values are better": other(metrics=(Metric("accuracy", "more"),)),
    },
    "options_refuse_fields_that_they_do_not_know": {"DID NOT RAISE": AnyOptions},
    "the_model_is_a_function_of_the_seed": {
        "loaded again: '0.weight'": results(
            load_model=lambda right, *_: replace(
                right, module=torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2))
            )
        ),
        "types": results(load_model=lambda right, *_: [right.module[0].half(), right][1]),
        "head 'top' is not a module": results(load_model=fields(head=("top",))),
    },
    "batches_have_each_example_once_and_repeat": {
        "no train batches": results(batches=lambda *_: iter(())),
        "train batches, again": other(
            batches=lambda self, split, size, _=None: Signs.batches(
                self, split, size, torch.Generator().manual_seed(next(numbers))
            )
        ),
        "number of train batches": other(
            batches=lambda self, split, size, _=None: Signs.batches(
                self, split, 1 + next(numbers) % 2
            )
        ),
        "examples of train": results(examples=lambda right, _: right - 1),
    },
    "a_generator_shuffles_and_its_seed_decides": {
        "batches of an equal generator": other(
            batches=lambda self, split, size, _=None: Signs.batches(
                self, split, size, torch.Generator().manual_seed(next(numbers))
            )
        ),
        "batches of another seed": other(
            batches=lambda self, split, size, _=None: Signs.batches(self, split, size)
        ),
    },
    "scores_are_of_each_example": {
        "the batch after it is scored: 'input'": other(
            score=lambda self, logits, batch: [
                batch["input"].zero_(),
                Signs.score(self, logits, batch),
            ][1]
        ),
        "losses without a graph": results(
            score=lambda right, *_: replace(right, losses=right.losses.detach())
        ),
        "accuracy": results(
            score=lambda right, *_: replace(
                right, metrics={"accuracy": right.metrics["accuracy"][:1]}
            )
        ),
        "weights": results(score=lambda right, *_: replace(right, weights=0 * right.weights)),
        "weights before the batch is scored": other(
            example_weights=lambda _, batch: 2 * torch.ones(len(batch["labels"]))
        ),
        "losses, again": results(
            score=lambda right, *_: replace(right, losses=right.losses + next(numbers))
        ),
    },
    "metrics_are_of_all_examples": {
        "main metric": results(summarise=lambda *_: {}),
        "names of metrics": results(summarise=lambda right, _: right | {"f1": right["accuracy"]}),
        "accuracy": results(summarise=lambda *_: accuracy(float("nan"), 0.1)),
        "standard error of accuracy": results(summarise=lambda *_: accuracy(0.5, -1.0)),
        "accuracy in another order": other(
            summarise=lambda _, scores: accuracy(float(scores.losses[0]), 0.1)
        ),
    },
}


class Kit(TaskConformance):
    plugin = Signs

    def make(self):
        return self.plugin()

    def model(self):
        return ModelSpec(name="signs")


class TestRightTask(Kit):
    pass


@each(FAULTS)
def test_a_task_with_a_fault_fails_the_check_for_it(check, says, plugin, tmp_path):
    with torch.random.fork_rng():
        assert_found(replaced(Kit, plugin=plugin)(), check, says, tmp_path)


def test_every_check_has_a_task_that_fails_it():
    assert set(FAULTS) == checks(TaskConformance)


@pytest.mark.parametrize("method", ["make", "model"])
def test_a_kit_without_a_plugin_says_what_it_needs(method):
    with pytest.raises(NotImplementedError, match=f"TaskConformance needs a method {method}"):
        getattr(TaskConformance(), method)()
