"""What all checks of trainers have in common: trainers, configurations, and comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import Quantizer, Split, Trainer, TrainerState
from qsearch.space.configuration import Configuration
from qsearch.storage.checkpoints import read_adapter, write_adapter
from qsearch.storage.paths import adapter_path
from qsearch.testing.base import Conformance, described, require, require_equal
from qsearch.testing.samples import draw_configurations
from qsearch.testing.tensors import require_same, require_same_tensors

SET = 3
"""Configurations that trainers are trained on."""


class TrainerChecks(Conformance):
    """The trainer that is checked.

    Attributes:
        tolerance: By which part results may differ that should be the same. On a CPU the same
            operations in one process give the same bits, so it is 0; a trainer on a GPU whose sums
            are in no fixed order needs some 1e-5. Resuming is then as exact, and no more.
        split: The examples that are evaluated on.
        refused_formats: Export formats that can hold no configuration of this model and quantizer;
            they must be refused.
    """

    __test__ = False
    tolerance: ClassVar[float] = 0.0
    split: ClassVar[Split] = "validation"
    refused_formats: ClassVar[Collection[str]] = ()

    def make(self) -> Trainer:
        """Return a new trainer, always with the same options, model, data, quantizer and seed."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make")

    def make_other(self) -> Trainer:
        """Return a new trainer of another model or other options, whose state is no use here."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_other")

    def quantizer(self) -> Quantizer:
        """Return a quantizer with the knobs of the trainers', of which configurations are made."""
        raise NotImplementedError(f"{type(self).__name__} needs a method quantizer")

    def configurations(self, trainer: Trainer) -> tuple[list[Configuration], Configuration]:
        """Return the set that trainers are trained on, and a configuration outside it."""
        drawn = draw_configurations(trainer.layers(), self.quantizer().choices(), SET + 1)
        return list(drawn[:SET]), drawn[SET]

    def trained(self) -> tuple[Trainer, list[Configuration], TrainReport]:
        """Return a new trainer after round 1, the set, and the report of the round."""
        trainer = self.make()
        chosen, _ = self.configurations(trainer)
        return trainer, chosen, trainer.train(chosen, 0)

    def require_same_state(self, what: str, found: TrainerState, expected: TrainerState) -> None:
        """Check that two states hold the same tensors."""
        require_same_tensors(what, found.tensors, expected.tensors, self.tolerance)

    def require_kept_state(self, what: str, found: TrainerState, before: TrainerState) -> None:
        """Check that a state holds what it held before; it may hold more.

        Such as an adapter of its own for a configuration that was not trained on.
        """
        for name, tensor in before.tensors.items():
            require(name in found.tensors, f"{what}: expected {name!r}, found none")
            require_same(f"{what}: {name!r}", found.tensors[name], tensor, self.tolerance)

    def require_same_evaluations(
        self, what: str, found: Sequence[Evaluation], expected: Sequence[Evaluation]
    ) -> None:
        """Check that evaluations agree in all but the time that they took."""
        require_equal(f"{what}: number of evaluations", len(found), len(expected))
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            # A standard error is rounded as the figure that it is of.
            for name, of in (
                ("loss", other.loss),
                ("standard_error", other.loss),
                ("metric", other.metric),
                ("metric_standard_error", other.metric),
            ):
                ours, theirs = getattr(one, name), getattr(other, name)
                off = self.tolerance * max(abs(of), abs(theirs))
                same = math.isclose(ours, theirs, rel_tol=0.0, abs_tol=off) or (
                    math.isnan(ours) and math.isnan(theirs)
                )
                require(same, f"{what}: {name} of no. {place}: expected {theirs}, found {ours}")


def copied(state: TrainerState) -> TrainerState:
    """Return a state that training and loading do not change."""
    return TrainerState(
        {name: tensor.detach().clone() for name, tensor in state.tensors.items()},
        json.loads(json.dumps(dict(state.metadata))),
    )


def saved(state: TrainerState, report: TrainReport) -> TrainerState:
    """Return a state as a resumed study finds it: saved and loaded as the engine does.

    Raises:
        AssertionError: If it or the report cannot be saved, or the report comes back otherwise.
    """
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        adapter_path(directory, 0).parent.mkdir()
        try:
            write_adapter(directory, 0, state, report)
        except Exception as error:  # What safetensors and JSON raise depends on the fault.
            raise AssertionError(
                "expected a state for safetensors and JSON, found one that cannot be saved:"
                f" {described(error)}"
            ) from error
        loaded, found = read_adapter(directory, 0)
    require_equal("report, saved and loaded", found, report)
    return loaded
