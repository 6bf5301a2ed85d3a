"""The search as an Ax generation node, and what Ax needs to save and reload it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from ax.api.configs import ChoiceParameterConfig
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.trial_status import TrialStatus
from ax.exceptions.generation_strategy import GenerationStrategyCompleted
from ax.generation_strategy.external_generation_node import ExternalGenerationNode
from ax.storage.json_store.registry import CORE_DECODER_REGISTRY, CORE_ENCODER_REGISTRY
from ax.storage.metric_registry import CORE_METRIC_REGISTRY
from ax.storage.registry_bundle import RegistryBundle
from ax.storage.runner_registry import CORE_RUNNER_REGISTRY

from qsearch.configuration import Choices, Knob
from qsearch.errors import InputError
from qsearch.layers import LayerSpec
from qsearch.search import WalkSettings, next_candidate
from qsearch.space import Floats, Integers, Space
from qsearch.surrogate import Features, Surrogate, error_features, fit_surrogate

LOSS = "loss"
AVERAGE_BITS = "average_bits"
_STORED_DECIMALS = 10


def ax_parameters(space: Space) -> list[ChoiceParameterConfig]:
    """Return the space as Ax parameters: one ordered choice for each knob of each group."""
    return [
        ChoiceParameterConfig(
            name=name,
            values=list(values),
            parameter_type="int" if isinstance(values[0], int) else "str",
            is_ordered=True,
        )
        for name, values in space.parameter_values().items()
    ]


def stored_precision(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Ax data with its figures as precise as Ax stores them.

    Ax writes ten decimals, and reads them back with an error in the last bit. Rounding what is in
    memory and what was read alike makes a resumed study compute with the same numbers as one that
    never stopped.

    Args:
        frame: Ax's table with the columns ``mean`` and ``sem``.
    """
    return frame.assign(
        mean=frame["mean"].astype(float).round(_STORED_DECIMALS),
        sem=frame["sem"].astype(float).round(_STORED_DECIMALS),
    )


class QsearchNode(ExternalGenerationNode):  # type: ignore[misc]  # Ax is untyped
    """Proposes the configuration with the greatest expected hypervolume improvement.

    The surrogate is fitted to the completed trials of the latest round (Ax progression) alone,
    since each round trains the adapter further and so moves every loss.

    Args:
        space: The space; its Ax parameters are :func:`ax_parameters`.
        bits: Interval of average bits to search.
        seed: Seed of the search's starting points.
        walk: Walk limits.
    """

    def __init__(
        self,
        space: Space,
        bits: tuple[float, float],
        seed: int = 0,
        walk: WalkSettings | None = None,
    ) -> None:
        super().__init__(name="qsearch")
        self.space = space
        self.bits = (float(bits[0]), float(bits[1]))
        self.seed = seed
        self.walk = walk or WalkSettings()
        self._features: Features | None = None
        self._known: Integers = np.zeros((0, len(space.groups)), dtype=np.int64)
        self._evaluated: Integers = self._known
        self._loss: Floats = np.zeros(0)
        self._surrogate: Surrogate | None = None

    def use_quantization_error(self, quantization_error: Floats) -> None:
        """Give the node what it predicts the loss from; needed before it generates.

        Args:
            quantization_error: Relative squared error (layers × choices).
        """
        self._features = error_features(self.space, quantization_error)
        self._surrogate = None

    def update_generator_state(self, experiment: Experiment, data: Data) -> None:
        """Fit the surrogate to the latest round; called by Ax before it asks for candidates."""
        if self._features is None:
            raise InputError("call use_quantization_error on the node before generating trials")
        trials = experiment.trials
        self._known = self._indices([trials[number].arm.parameters for number in sorted(trials)])
        completed = [n for n, t in trials.items() if t.status == TrialStatus.COMPLETED]
        frame = stored_precision(data.full_df)
        frame = frame[(frame["metric_name"] == LOSS) & frame["trial_index"].isin(completed)]
        latest = frame[frame["step"].fillna(0) == frame["step"].fillna(0).max()]
        latest = latest.sort_values("trial_index").drop_duplicates("trial_index", keep="last")
        evaluated = self._indices(
            [trials[number].arm.parameters for number in latest["trial_index"]]
        )
        loss = latest["mean"].to_numpy(dtype=np.float64)
        same = np.array_equal(evaluated, self._evaluated) and np.array_equal(loss, self._loss)
        if self._surrogate is None or not same:
            self._evaluated, self._loss = evaluated, loss
            self._surrogate = fit_surrogate(self._features, evaluated, loss)

    def get_next_candidate(self, pending_parameters: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the next configuration as Ax parameters.

        Raises:
            GenerationStrategyCompleted: If no new configuration is worth evaluating.
        """
        if self._surrogate is None:
            raise InputError("the node has no data yet; call update_generator_state first")
        done = {row.tobytes() for row in self._evaluated}
        waiting = [row for row in self._indices(pending_parameters) if row.tobytes() not in done]
        found = next_candidate(
            self._surrogate,
            self.space,
            self._evaluated,
            self._loss,
            np.array(waiting, dtype=np.int64).reshape(-1, len(self.space.groups)),
            self._known,
            self.bits,
            np.random.default_rng([self.seed, len(self._known) + len(waiting)]),
            self.walk,
        )
        if found is None:
            raise GenerationStrategyCompleted("no configuration left that improves the front")
        return dict(self.space.parameters(found))

    def _indices(self, parameters: list[dict[str, Any]]) -> Integers:
        rows = [self.space.from_parameters(values) for values in parameters]
        return np.array(rows, dtype=np.int64).reshape(-1, len(self.space.groups))


def _encode(node: QsearchNode) -> dict[str, Any]:
    space = node.space
    return {
        "__type": "QsearchNode",
        "layers": [asdict(layer) for layer in space.layers],
        "choices": {knob.name: list(knob.values) for knob in space.choices.knobs},
        "storage_bits": list(space.storage_bits),
        "fused_roles": [list(roles) for roles in space.fused_roles],
        "bits": list(node.bits),
        "seed": node.seed,
        "walk": asdict(node.walk),
    }


def _decode(
    layers: list[dict[str, Any]],
    choices: dict[str, list[Any]],
    storage_bits: list[float],
    fused_roles: list[list[str]],
    bits: list[float],
    seed: int,
    walk: dict[str, int],
) -> QsearchNode:
    space = Space(
        layers=tuple(LayerSpec(**{**layer, "shape": tuple(layer["shape"])}) for layer in layers),
        choices=Choices(tuple(Knob(name, tuple(values)) for name, values in choices.items())),
        storage_bits=tuple(storage_bits),
        fused_roles=tuple(tuple(roles) for roles in fused_roles),
    )
    return QsearchNode(space, (bits[0], bits[1]), seed, WalkSettings(**walk))


def registry_bundle() -> RegistryBundle:
    """Return the registries with which Ax saves and loads :class:`QsearchNode`."""
    return RegistryBundle(
        metric_clss=CORE_METRIC_REGISTRY,
        runner_clss=CORE_RUNNER_REGISTRY,
        json_encoder_registry={**CORE_ENCODER_REGISTRY, QsearchNode: _encode},
        json_decoder_registry={**CORE_DECODER_REGISTRY, "QsearchNode": _decode},
    )
