"""The search methods that qsearch is compared with, each with its best documented settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from benchmarks.search_methods.allocation import allocator_peer, random_peer, uniform_peer
from benchmarks.search_methods.amq import amq_peer
from benchmarks.search_methods.ax_default import ax_peer
from benchmarks.search_methods.evopress import evopress_peer
from benchmarks.search_methods.optuna_samplers import (
    optuna_gp_peer,
    optuna_nsga2_peer,
    optuna_tpe_peer,
)
from benchmarks.search_methods.protocol import Archive, Peer, Problem, Proposals, run_peer

PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "random": random_peer,
        "uniform": uniform_peer,
        "allocated": allocator_peer,
        "ax": ax_peer,
        "ax-one-restart": partial(ax_peer, restarts=1),
        "optuna-tpe": optuna_tpe_peer,
        "optuna-nsga2": optuna_nsga2_peer,
        "optuna-gp": optuna_gp_peer,
        "evopress": evopress_peer,
        "amq": amq_peer,
    }
)
"""All peers by name."""

__all__ = ["PEERS", "Archive", "Peer", "Problem", "Proposals", "run_peer"]
