"""The kit for tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from qsearch.plugins.capabilities import SupportsExampleCount, SupportsExampleWeights
from qsearch.plugins.contract import require_contract
from qsearch.plugins.evaluation import Metric
from qsearch.plugins.protocols import LoadedModel, Scores, Split, Task
from qsearch.plugins.trial_columns import require_names
from qsearch.spec.sections import ModelSpec
from qsearch.testing.comparison import assert_same, assert_same_tensors

BATCH = 4
SPLITS: tuple[Split, ...] = ("train", "validation")


class TaskConformance:
    """What every task must do; a subclass says which one, and for which model.

    ::

        class TestMine(TaskConformance):
            def make(self) -> Mine:
                return Mine(Mine.Options(train=TRAIN, validation=VALIDATION))

            def model(self) -> ModelSpec:
                return ModelSpec(name="path/to/a/small/model")

    Some dozen examples will do.
    """

    def make(self) -> Task:
        """Return a new task, always with the same options."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make")

    def model(self) -> ModelSpec:
        """Return a model that has the task's head, or can get one."""
        raise NotImplementedError(f"{type(self).__name__} needs a method model")

    def test_it_has_a_name_and_metrics(self) -> None:
        task = self.make()
        require_contract(task, "the task")
        assert isinstance(task.name, str), "name"
        assert task.name, "name"
        assert task.metrics, "metrics"
        assert all(isinstance(metric, Metric) for metric in task.metrics), "metrics"
        require_names([metric.name for metric in task.metrics], "the task")
        betters = {metric.better for metric in task.metrics}
        assert betters <= {"higher", "lower"}, "which values are better"

    def test_options_refuse_fields_that_they_do_not_know(self) -> None:
        options: Any = type(self.make()).Options  # type: ignore[attr-defined]
        assert issubclass(options, BaseModel)
        with pytest.raises(ValidationError, match="no_such_option"):
            options.model_validate({"no_such_option": 1})

    def test_the_model_is_a_function_of_the_seed(self) -> None:
        one, two = (self.make().load_model(self.model(), 3) for _ in range(2))
        state = one.module.state_dict()
        assert_same_tensors(two.module.state_dict(), state, "loaded again")
        floats = {name: one.dtype for name, one in state.items() if one.is_floating_point()}
        assert set(floats.values()) == {torch.float32}, f"types: {floats}"
        modules = dict(one.module.named_modules())
        for name in one.head:
            assert name in modules, f"head {name!r} is not a module"

    def test_batches_have_each_example_once_and_repeat(self) -> None:
        task, _ = self._prepared()
        other, _ = self._prepared()
        for split in SPLITS:
            batches = list(task.batches(split, BATCH))
            assert batches, f"no {split} batches"
            for again in (task, other):
                repeated = list(again.batches(split, BATCH))
                assert len(repeated) == len(batches), f"number of {split} batches"
                for batch, expected in zip(repeated, batches, strict=True):
                    assert_same_tensors(batch, expected, f"{split} batches, again")
            if isinstance(task, SupportsExampleCount):
                count = task.examples(split)
                predictions = sum(map(_size, batches))
                assert count is None or count >= predictions, f"examples of {split}"

    def test_a_generator_shuffles_and_its_seed_decides(self) -> None:
        task, _ = self._prepared()
        drawn = [self._drawn(task, seed) for seed in (1, 1, 2)]
        for batch, expected in zip(drawn[1], drawn[0], strict=True):
            assert_same_tensors(batch, expected, "batches of an equal generator")
        assert sum(map(_size, drawn[0])) == sum(map(_size, task.batches("train", BATCH)))
        assert not _equal(drawn[2], drawn[0]), "batches of another seed"

    def test_scores_are_of_each_example(self) -> None:
        task, loaded = self._prepared()
        for batch in task.batches("validation", BATCH):
            before = {name: tensor.clone() for name, tensor in batch.items()}
            logits = _logits(loaded, batch)
            scores = task.score(logits, batch)
            assert_same_tensors(batch, before, "the batch after it is scored")
            named = {"losses": scores.losses, "weights": scores.weights, **scores.metrics}
            for name, values in named.items():
                assert values.ndim == 1, name
                assert len(values) == len(scores.losses), name
                assert values.isfinite().all(), name
            assert (scores.weights > 0).all(), "weights"
            if isinstance(task, SupportsExampleWeights):
                own = task.example_weights(batch).to(scores.weights.dtype)
                assert_same(own, scores.weights, "weights before the batch is scored")
            assert scores.losses.requires_grad, "losses without a graph"
            alone = task.score(logits.detach(), batch)
            assert_same(alone.losses, scores.losses.detach(), "losses, again")

    def test_metrics_are_of_all_examples(self) -> None:
        task, loaded = self._prepared()
        parts = []
        with torch.no_grad():
            for batch in task.batches("validation", BATCH):
                parts.append(task.score(_logits(loaded, batch), batch))
        metrics = task.summarise(Scores.concatenate(parts))
        names = [metric.name for metric in task.metrics]
        assert names[0] in metrics, "main metric"
        assert set(metrics) <= set(names), "names of metrics"
        reverse = task.summarise(Scores.concatenate(parts[::-1]))
        for name, metric in metrics.items():
            assert math.isfinite(metric.value), name
            error = metric.standard_error
            assert math.isnan(error) or 0 <= error < math.inf, f"standard error of {name}"
            expected = pytest.approx(metric.value, rel=1e-5)
            assert reverse[name].value == expected, f"{name} in another order"

    def _prepared(self) -> tuple[Task, LoadedModel]:
        task = self.make()
        loaded = task.load_model(self.model(), 0)
        task.prepare(loaded.tokenizer)
        loaded.module.eval()
        return task, loaded

    def _drawn(self, task: Task, seed: int) -> list[Mapping[str, Tensor]]:
        return list(task.batches("train", BATCH, torch.Generator().manual_seed(seed)))


def _size(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


def _equal(one: Sequence[Mapping[str, Tensor]], two: Sequence[Mapping[str, Tensor]]) -> bool:
    return all(
        batch.keys() == other.keys()
        and all(torch.equal(batch[name], other[name]) for name in batch)
        for batch, other in zip(one, two, strict=True)
    )


def _logits(loaded: LoadedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Return what the model makes of a batch, all of whose tensors but ``labels`` are inputs."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    output = loaded.module(**inputs)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits
