"""The search as a node of Ax's generation strategies, and what Ax needs to save and reload it."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.trial_status import TrialStatus
from ax.exceptions.generation_strategy import GenerationStrategyCompleted
from ax.generation_strategy.external_generation_node import ExternalGenerationNode
from ax.storage.json_store.registry import CORE_DECODER_REGISTRY, CORE_ENCODER_REGISTRY
from ax.storage.metric_registry import CORE_METRIC_REGISTRY
from ax.storage.registry_bundle import RegistryBundle
from ax.storage.runner_registry import CORE_RUNNER_REGISTRY
from pydantic import BaseModel, ConfigDict

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.experiment.parameters import (
    AVERAGE_BITS,
    LOSS,
    from_parameters,
    stored_precision,
    to_parameters,
)
from qsearch.search.candidate_pool import SearchSettings
from qsearch.search.searcher import Searcher
from qsearch.space.configuration import Choices, Knob, KnobValue, LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import LayerSpec
from qsearch.surrogate.features import require_correlation

NODE = "qsearch"


class QsearchNode(ExternalGenerationNode):  # type: ignore[misc]  # Ax is untyped
    """Proposes the configuration with the greatest expected hypervolume improvement.

    The surrogate is fitted to the completed trials of the current round (latest Ax progression)
    alone, since each round trains the adapter further and so moves every loss.

    Args:
        space: Its Ax parameters are :func:`~qsearch.experiment.parameters.ax_parameters`.
        bits: Interval of average bits to search.
        seed: Of the search's starting points.
        segments: Of average bits, each of which should get candidates.
        settings: How far the search looks.
        scores: Predicted rise of the loss, which the surrogate starts from (groups × choices);
            Ax stores them with the node. Or give them later by :meth:`use_scores`.
        correlation: Correlation of the errors of two choices (choices × choices), from
            :func:`~qsearch.surrogate.error_correlation.error_correlation`; stored with the
            scores. Without it, the surrogate learns more slowly.
        examples: How many examples each loss is a mean over, so that the search does not take
            sampling noise for gain (:func:`~qsearch.surrogate.surrogate.fit_surrogate`); None if
            the loss on them is itself to be lowered.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        bits: tuple[float, float],
        seed: int = 0,
        segments: int = 40,
        settings: SearchSettings | None = None,
        scores: Floats | None = None,
        correlation: npt.NDArray[np.floating[Any]] | None = None,
        examples: int | None = None,
    ) -> None:
        super().__init__(name=NODE)
        self.searcher = Searcher(space, bits, seed, segments, settings)
        self.space, self.bits, self.segments = space, self.searcher.bits, segments
        self.scores: Floats | None = None
        self.correlation: npt.NDArray[np.float32] | None = None
        self.examples: int | None = None
        self._known = self._indices([])
        if scores is not None:
            # Single precision, as it is stored: a reloaded node computes with the same numbers.
            single = None if correlation is None else _symmetric_single(correlation)
            self.use_scores(scores, None if single is None else single.astype(np.float64), examples)
            self.scores, self.correlation, self.examples = scores, single, examples
        elif correlation is not None or examples is not None:
            raise InputError("correlation and examples are of no use without scores")

    def use_scores(
        self, scores: Floats, correlation: Floats | None = None, examples: int | None = None
    ) -> None:
        """Replace what the node predicts the loss from (:meth:`Searcher.use_scores`).

        Ax does not store these with the node: give them again after reloading it.
        """
        self.searcher.use_scores(scores, correlation, examples)
        self.scores, self.correlation, self.examples = None, None, None

    def update_generator_state(self, experiment: Experiment, data: Data) -> None:
        """Fit the surrogate to the current round; called by Ax before it asks for candidates."""
        trials = experiment.trials
        self._known = self._indices([trials[number].arm.parameters for number in sorted(trials)])
        completed = [n for n, t in trials.items() if t.status == TrialStatus.COMPLETED]
        frame = data.full_df
        frame = frame[
            (frame["metric_name"] == objective_of(experiment))
            & frame["trial_index"].isin(completed)
        ]
        latest = frame[frame["step"].fillna(0) == frame["step"].fillna(0).max()]
        latest = latest.sort_values("trial_index").drop_duplicates("trial_index", keep="last")
        index = self._indices([trials[number].arm.parameters for number in latest["trial_index"]])
        self.searcher.fit(index, stored_precision(latest["mean"]))

    def get_next_candidate(self, pending_parameters: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the next configuration as Ax parameters, if one is worth evaluating."""
        index = self.searcher.propose(self._known, self._indices(pending_parameters))
        if index is None:
            raise GenerationStrategyCompleted("no configuration left that improves the front")
        return to_parameters(self.space, index)

    def _indices(self, parameters: list[dict[str, Any]]) -> Integers:
        rows = [from_parameters(self.space, values) for values in parameters]
        return np.array(rows, dtype=np.int64).reshape(-1, len(self.space.groups))


def objective_of(experiment: Experiment) -> str:
    """Return the metric that is lowered next to average bits, such as the loss."""
    config = experiment.optimization_config
    names = [] if config is None else [*config.objective.metric_names]
    return next((name for name in names if name != AVERAGE_BITS), LOSS)


class _StoredNode(BaseModel):
    """A node as Ax stores it, its arrays as short texts: Ax writes it again with every trial."""

    model_config = ConfigDict(extra="forbid")

    layers: tuple[LayerSpec, ...]
    choices: dict[str, tuple[KnobValue, ...]]
    storage_bits: tuple[float, ...]
    fused_roles: tuple[tuple[str, ...], ...]
    shape_bits: tuple[tuple[tuple[int, int], tuple[float, ...]], ...] = ()
    shape_choices: tuple[tuple[tuple[int, int], tuple[int, ...]], ...] = ()
    pinned: dict[str, dict[str, KnobValue]] = {}
    bits: tuple[float, float]
    seed: int
    segments: int
    settings: SearchSettings
    scores: str | None
    correlation: str | None
    examples: int | None


def _encode(node: QsearchNode) -> dict[str, Any]:
    space, searcher, correlation = node.space, node.searcher, node.correlation
    stored = _StoredNode(
        layers=space.layers,
        choices={knob.name: knob.values for knob in space.choices.knobs},
        storage_bits=space.storage_bits,
        fused_roles=space.fused_roles,
        shape_bits=tuple(space.shape_bits.items()),
        shape_choices=tuple(space.shape_choices.items()),
        pinned={name: dict(one) for name, one in space.pinned.items()},
        bits=searcher.bits,
        seed=searcher.seed,
        segments=searcher.segments,
        settings=searcher.settings,
        scores=None if node.scores is None else _pack(node.scores, "<f8"),
        correlation=(
            None
            if correlation is None
            else _pack(correlation[np.triu_indices(len(correlation))], "<f4")
        ),
        examples=node.examples,
    )
    return {"__type": "QsearchNode", **stored.model_dump(mode="json")}


def _decode(**values: Any) -> QsearchNode:
    stored = _StoredNode.model_validate(values)
    choices = Choices(tuple(Knob(name, own) for name, own in stored.choices.items()))
    space = ConfigurationSpace(
        *(stored.layers, choices, stored.storage_bits, stored.fused_roles),
        *(dict(stored.shape_bits), dict(stored.shape_choices)),
        {name: LayerConfiguration(one) for name, one in stored.pinned.items()},
    )
    size = choices.size
    scores = correlation = None
    if stored.scores is not None:
        scores = _unpack(stored.scores, "<f8").reshape(len(space.groups), size)
    if stored.correlation is not None:
        upper = np.zeros((size, size), dtype=np.float32)
        upper[np.triu_indices(size)] = _unpack(stored.correlation, "<f4")
        correlation = upper + np.triu(upper, 1).T
    return QsearchNode(
        space,
        stored.bits,
        stored.seed,
        stored.segments,
        stored.settings,
        scores,
        correlation,
        stored.examples,
    )


def _pack(values: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(zlib.compress(values.astype(kind).tobytes())).decode("ascii")


def _unpack(text: str, kind: str) -> npt.NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=kind).copy()


def _symmetric_single(matrix: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    single = np.asarray(matrix, dtype=np.float32)
    require_correlation(single.astype(np.float64), len(single))
    return np.triu(single) + np.triu(single, 1).T


def registry_bundle() -> RegistryBundle:
    """Return the registries with which Ax saves and loads :class:`QsearchNode`."""
    return RegistryBundle(
        metric_clss=CORE_METRIC_REGISTRY,
        runner_clss=CORE_RUNNER_REGISTRY,
        json_encoder_registry={**CORE_ENCODER_REGISTRY, QsearchNode: _encode},
        json_decoder_registry={**CORE_DECODER_REGISTRY, "QsearchNode": _decode},
    )
