"""qsearch's own engine, in the form that its peers have."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from benchmarks.search_methods.protocol import Archive, Peer, Problem, Proposals
from qsearch.search.candidate_pool import Evaluated, SearchSettings, candidate_pool
from qsearch.search.next_candidate import next_candidate
from qsearch.search.pareto import segment_edges
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import fit_surrogate

COLD_START = 10
"""Random configurations that a search without any evaluation begins with."""


@dataclass(frozen=True)
class Variant:
    """The engine with other settings.

    Args:
        target: What is lowered: the loss on the ``task``, or that on the ``examples`` at hand.
        batch: Candidates chosen between two fits.
        settings: How far the search looks.
    """

    target: Literal["task", "examples"] = "task"
    batch: int = 5
    settings: SearchSettings = field(default_factory=SearchSettings)


def qsearch_searcher(
    problem: Problem,
    generator: np.random.Generator,
    variant: Variant = Variant(),  # frozen
) -> Proposals:
    """Propose configurations as a study's round does, batch by batch."""
    space, bits = problem.space, problem.bits
    archive = Archive(problem)
    while len(archive) < COLD_START:
        for index in sample_configurations(space, COLD_START - len(archive), bits, generator):
            if archive.admits(index):
                archive.add(index, (yield index))
    edges = segment_edges(bits, problem.segments)
    features = score_features(space, problem.scores, problem.correlation)
    examples = problem.examples if variant.target == "task" else None
    while True:
        index, loss = archive.index, archive.loss
        evaluated = Evaluated(index, loss, index[:0])
        surrogate = fit_surrogate(features, index, loss, examples)
        pool = candidate_pool(surrogate, space, evaluated, bits, generator, variant.settings)
        pending = index[:0]
        for _ in range(variant.batch):
            found = next_candidate(
                surrogate, space, evaluated, pool, pending, bits, edges, variant.settings
            )
            if found is None:
                return
            pending = np.concatenate([pending, found[None]])
        for index in pending:
            archive.add(index, (yield index))


SEARCHERS: dict[str, Peer] = {
    "qsearch": qsearch_searcher,
    "qsearch-on-examples": partial(qsearch_searcher, variant=Variant(target="examples")),
}
"""The engine by name; the second takes sampling noise for gain, as its peers do."""
