"""A search from its losses to its next proposal: the surrogate, the pool, and what is pending."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search.candidate_pool import Evaluated, SearchSettings, candidate_pool
from qsearch.search.next_candidate import next_candidate
from qsearch.search.pareto import segment_edges
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.surrogate.features import Features, score_features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate

Predictions = tuple[Floats, Floats]
"""Means (n) and standard deviations (n), nats."""


class Searcher:
    """Proposes the configuration with the greatest expected hypervolume improvement.

    Give it scores (:meth:`use_scores`), then losses (:meth:`fit`), then ask. The seed is that of
    its starting points; each segment of average bits should get candidates.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        bits: tuple[float, float],
        seed: int = 0,
        segments: int = 40,
        settings: SearchSettings | None = None,
    ) -> None:
        self.space = space
        self.bits = (float(bits[0]), float(bits[1]))
        self.seed = seed
        self.segments = segments
        self.settings = settings or SearchSettings()
        self._features: Features | None = None
        self._examples: int | None = None
        self._index: Integers = np.zeros((0, len(space.groups)), dtype=np.int64)
        self._loss: Floats = np.zeros(0)
        self._surrogate: Surrogate | None = None
        self._pool: Integers | None = None

    def use_scores(
        self, scores: Floats, correlation: Floats | None = None, examples: int | None = None
    ) -> None:
        """Set what the loss is predicted from; the next :meth:`fit` starts from it.

        Scores and correlation are those of :func:`score_features`. ``examples`` is how many each
        loss is a mean over, so that sampling noise is not taken for gain; without, the loss on them
        is itself to be lowered.

        Raises:
            InputError: If scores or correlation do not fit the space, or ``examples`` is below 1.
        """
        if examples is not None and examples < 1:
            raise InputError(f"a loss is a mean over 1 or more examples, not {examples}")
        self._features = score_features(self.space, scores, correlation)
        self._examples = examples
        self._surrogate = None

    def fit(self, index: Integers, loss: Floats) -> None:
        """Fit the surrogate to choice indices (n × groups) and their losses (n).

        The same losses again fit nothing new, and keep the pool of the batch in work.

        Raises:
            InputError: If there are no scores yet.
        """
        if self._features is None:
            raise InputError("the search has no scores yet; give it some by use_scores")
        same = np.array_equal(index, self._index) and np.array_equal(loss, self._loss)
        if self._surrogate is None or not same:
            self._index, self._loss = index, loss
            self._surrogate = fit_surrogate(self._features, index, loss, self._examples)
            self._pool = None

    def propose(self, known: Integers, pending: Integers) -> Integers | None:
        """Return choice indices (groups) of a new configuration; None if none is left to propose.

        Known are all tried so far, failed and pending ones too (m × groups); pending are those
        proposed and not evaluated yet (p × groups).
        """
        surrogate = self._fitted()
        taken = {row.tobytes() for row in self._index}
        waiting = [row for row in pending if row.tobytes() not in taken]
        pending = np.array(waiting, dtype=np.int64).reshape(-1, len(self.space.groups))
        taken |= {row.tobytes() for row in pending}
        others = np.array([row.tobytes() not in taken for row in known], dtype=bool)
        evaluated = Evaluated(self._index, self._loss, exclude=known[others])
        if self._pool is None:
            # Pending trials must not change the pool: a resumed batch continues as it began.
            self._pool = candidate_pool(
                surrogate,
                self.space,
                evaluated,
                self.bits,
                np.random.default_rng([self.seed, len(known) - len(pending)]),
                self.settings,
            )
        return next_candidate(
            surrogate,
            self.space,
            evaluated,
            self._pool,
            pending,
            self.bits,
            segment_edges(self.bits, self.segments),
            self.settings,
        )

    def estimated_loss(self, index: Integers) -> Predictions:
        """Return the estimated loss of choice indices (n × groups)."""
        mean, std = self._fitted().predict(index)
        return mean.numpy(), std.numpy()

    def predicted_loss(self, index: Integers) -> Predictions:
        """Return what the losses of choice indices (n × groups) will be observed to be.

        Other than in :meth:`estimated_loss`, the std includes sampling noise and the noise of
        single losses.
        """
        mean, std = self._fitted().predict_observed(index)
        return mean.numpy(), std.numpy()

    def _fitted(self) -> Surrogate:
        if self._surrogate is None:
            raise InputError("the search has no data yet; fit it to losses first")
        return self._surrogate
