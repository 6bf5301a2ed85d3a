"""The search as an Ax generation node, and what Ax needs to save and reload it."""

from __future__ import annotations

import base64
import zlib
from dataclasses import asdict, replace
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

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.experiment.parameters import LOSS, stored_precision
from qsearch.search.candidate_pool import (
    Evaluated,
    SearchSettings,
    candidate_pool,
    next_candidate,
)
from qsearch.search.pareto import segment_edges
from qsearch.space.configuration import Choices, Knob
from qsearch.space.layers import LayerSpec
from qsearch.space.space import Space
from qsearch.surrogate.features import Features, require_correlation, score_features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate, require_examples

_NO_DATA = "the node has no data yet; call update_generator_state first"


class QsearchNode(ExternalGenerationNode):  # type: ignore[misc]  # Ax is untyped
    """Proposes the configuration with the greatest expected hypervolume improvement.

    The surrogate is fitted to the completed trials of the latest round (Ax progression) alone,
    since each round trains the adapter further and so moves every loss.

    Args:
        space: The space; its Ax parameters are :func:`ax_parameters`.
        bits: Interval of average bits to search.
        seed: Seed of the search's starting points.
        segments: Segments of average bits, each of which shall get candidates.
        settings: How far the search looks.
        scores: Predicted rise of the loss, which the surrogate starts from (groups × choices);
            Ax stores them with the node. Or give them later by :meth:`use_scores`.
        correlation: Correlation of the errors of two choices (choices × choices), from
            :func:`~qsearch.surrogate.error_correlation.error_correlation`; stored with the
            scores. Without it, the surrogate learns more slowly.
        examples: How many examples each loss is a mean over, so that the search does not take
            sampling noise for gain (:func:`~qsearch.surrogate.surrogate.fit_surrogate`); None if
            the loss on them is itself what shall be lowered.

    Raises:
        InputError: If scores or correlation do not fit the space, or are none, or there are no
            examples.
    """

    def __init__(
        self,
        space: Space,
        bits: tuple[float, float],
        seed: int = 0,
        segments: int = 40,
        settings: SearchSettings | None = None,
        scores: Floats | None = None,
        correlation: npt.NDArray[np.floating[Any]] | None = None,
        examples: int | None = None,
    ) -> None:
        super().__init__(name="qsearch")
        self.space = space
        self.bits = (float(bits[0]), float(bits[1]))
        self.seed = seed
        self.segments = segments
        self.settings = settings or SearchSettings()
        self.scores: Floats | None = None
        self.correlation: npt.NDArray[np.float32] | None = None
        self.examples: int | None = None
        self._features: Features | None = None
        none = np.zeros((0, len(space.groups)), dtype=np.int64)
        self._known: Integers = none
        self._evaluated = Evaluated(none, np.zeros(0), none)
        self._surrogate: Surrogate | None = None
        self._pool: Integers | None = None
        if scores is not None:
            # Single precision, as it is stored: a reloaded node computes with the same numbers.
            single = None if correlation is None else _symmetric_single(correlation)
            self.use_scores(scores, None if single is None else single.astype(np.float64), examples)
            self.scores, self.correlation = scores, single
        elif correlation is not None or examples is not None:
            raise InputError("correlation and examples are of no use without scores")

    def use_scores(
        self, scores: Floats, correlation: Floats | None = None, examples: int | None = None
    ) -> None:
        """Give the node what it predicts the loss from, in place of earlier scores.

        Ax does not store these with the node: give them again after reloading it.

        Args:
            scores: Predicted rise of the loss (groups × choices), not negative.
            correlation: Correlation of the errors of two choices (choices × choices).
            examples: How many examples each loss is a mean over, as in the constructor.

        Raises:
            InputError: If scores or correlation do not fit the space, or are none, or there are
                no examples.
        """
        if examples is not None:
            require_examples(examples)
        self._features = score_features(self.space, scores, correlation)
        self.examples = examples
        self.scores, self.correlation = None, None
        self._surrogate = None

    def update_generator_state(self, experiment: Experiment, data: Data) -> None:
        """Fit the surrogate to the latest round; called by Ax before it asks for candidates."""
        if self._features is None:
            raise InputError("give the node scores, by use_scores, before generating trials")
        trials = experiment.trials
        self._known = self._indices([trials[number].arm.parameters for number in sorted(trials)])
        completed = [n for n, t in trials.items() if t.status == TrialStatus.COMPLETED]
        frame = stored_precision(data.full_df)
        frame = frame[(frame["metric_name"] == LOSS) & frame["trial_index"].isin(completed)]
        latest = frame[frame["step"].fillna(0) == frame["step"].fillna(0).max()]
        latest = latest.sort_values("trial_index").drop_duplicates("trial_index", keep="last")
        index = self._indices([trials[number].arm.parameters for number in latest["trial_index"]])
        loss = latest["mean"].to_numpy(dtype=np.float64)
        before = self._evaluated
        same = np.array_equal(index, before.index) and np.array_equal(loss, before.loss)
        if self._surrogate is None or not same:
            self._evaluated = Evaluated(index, loss, index[:0])
            self._surrogate = fit_surrogate(self._features, index, loss, self.examples)
            self._pool = None

    def get_next_candidate(self, pending_parameters: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the next configuration as Ax parameters.

        Raises:
            GenerationStrategyCompleted: If no new configuration is worth evaluating.
        """
        if self._surrogate is None:
            raise InputError(_NO_DATA)
        done = {row.tobytes() for row in self._evaluated.index}
        waiting = [row for row in self._indices(pending_parameters) if row.tobytes() not in done]
        pending = np.array(waiting, dtype=np.int64).reshape(-1, len(self.space.groups))
        done |= {row.tobytes() for row in pending}
        # Anew each time: a trial may have failed since the pool was made.
        others = np.array([row.tobytes() not in done for row in self._known], dtype=bool)
        self._evaluated = replace(self._evaluated, exclude=self._known[others])
        if self._pool is None:
            # Pending trials must not change the pool: a resumed batch goes on as it began.
            self._pool = candidate_pool(
                self._surrogate,
                self.space,
                self._evaluated,
                self.bits,
                np.random.default_rng([self.seed, len(self._known) - len(pending)]),
                self.settings,
            )
        found = next_candidate(
            self._surrogate,
            self.space,
            self._evaluated,
            self._pool,
            pending,
            self.bits,
            segment_edges(self.bits, self.segments),
            self.settings,
        )
        if found is None:
            raise GenerationStrategyCompleted("no configuration left that improves the front")
        return dict(self.space.parameters(found))

    def estimated_loss(self, index: Integers) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the loss that the surrogate expects (n), (n).

        Args:
            index: Choice indices (n × groups).

        Raises:
            InputError: If the node has no data yet.
        """
        mean, std = self._fitted().predict(index)
        return mean.numpy(), std.numpy()

    def predicted_loss(self, index: Integers) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of what losses will be observed to be (n), (n).

        Other than :meth:`estimated_loss`, it is of losses on the examples at hand: the deviation
        holds sampling noise with them, and the noise of single losses.

        Args:
            index: Choice indices (n × groups).

        Raises:
            InputError: If the node has no data yet.
        """
        mean, std = self._fitted().predict_observed(index)
        return mean.numpy(), std.numpy()

    def _fitted(self) -> Surrogate:
        if self._surrogate is None:
            raise InputError(_NO_DATA)
        return self._surrogate

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
        "segments": node.segments,
        "settings": asdict(node.settings),
        "scores": None if node.scores is None else _pack(node.scores, "<f8"),
        "correlation": None if node.correlation is None else _pack_symmetric(node.correlation),
        "examples": None if node.scores is None else node.examples,
    }


def _decode(
    layers: list[dict[str, Any]],
    choices: dict[str, list[Any]],
    storage_bits: list[float],
    fused_roles: list[list[str]],
    bits: list[float],
    seed: int,
    segments: int,
    settings: dict[str, Any],
    scores: str | None,
    correlation: str | None = None,
    examples: int | None = None,
) -> QsearchNode:
    space = Space(
        layers=tuple(LayerSpec(**{**layer, "shape": tuple(layer["shape"])}) for layer in layers),
        choices=Choices(tuple(Knob(name, tuple(values)) for name, values in choices.items())),
        storage_bits=tuple(storage_bits),
        fused_roles=tuple(tuple(roles) for roles in fused_roles),
    )
    size = space.choices.size
    return QsearchNode(
        space,
        (bits[0], bits[1]),
        seed,
        segments,
        SearchSettings(**settings),
        None if scores is None else _unpack(scores, "<f8", (len(space.groups), size)),
        None if correlation is None else _unpack_symmetric(correlation, size),
        examples,
    )


def _pack(values: npt.NDArray[Any], kind: str) -> str:
    """Return values as text: Ax writes a node again with every trial, so it shall be short."""
    return base64.b64encode(zlib.compress(values.astype(kind).tobytes())).decode("ascii")


def _unpack(text: str, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=kind).reshape(shape).copy()


def _symmetric_single(matrix: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    single = np.asarray(matrix, dtype=np.float32)
    require_correlation(single.astype(np.float64), len(single))
    return np.triu(single) + np.triu(single, 1).T


def _pack_symmetric(matrix: npt.NDArray[np.float32]) -> str:
    return _pack(matrix[np.triu_indices(len(matrix))], "<f4")


def _unpack_symmetric(text: str, size: int) -> Floats:
    upper = np.zeros((size, size), dtype=np.float32)
    upper[np.triu_indices(size)] = _unpack(text, "<f4", (size * (size + 1) // 2,))
    return (upper + np.triu(upper, 1).T).astype(np.float64)


def registry_bundle() -> RegistryBundle:
    """Return the registries with which Ax saves and loads :class:`QsearchNode`."""
    return RegistryBundle(
        metric_clss=CORE_METRIC_REGISTRY,
        runner_clss=CORE_RUNNER_REGISTRY,
        json_encoder_registry={**CORE_ENCODER_REGISTRY, QsearchNode: _encode},
        json_decoder_registry={**CORE_DECODER_REGISTRY, "QsearchNode": _decode},
    )
