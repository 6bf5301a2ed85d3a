"""Inference engines that run a study's exports: what trainers may measure in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split
from qsearch.space.configuration import Configuration


@dataclass(frozen=True)
class EngineSpeed:
    """How fast an engine runs a configuration on this machine, and what memory it takes.

    Args:
        prompt_tokens: Length of the prompt, after which tokens are generated.
        peak_bytes: By which the process's memory grows, at most.
    """

    threads: int
    prompt_tokens: int
    prompt_tokens_per_second: float
    generation_tokens_per_second: float
    peak_bytes: int


@dataclass(frozen=True)
class EngineEvaluation:
    """What the files of a configuration score in an engine, and what they take there."""

    evaluation: Evaluation
    file_bytes: int
    speed: EngineSpeed


@runtime_checkable
class SupportsEngines(Protocol):
    """Optional for trainers. With it, ``qsearch evaluate --in ENGINE`` runs exports in engines."""

    @property
    def engines(self) -> Sequence[str]:
        """Names of the engines that it knows."""
        ...

    def require_engine(self, engine: str) -> None:
        """Check that an engine is installed and runs the study's configurations.

        Raises:
            InputError: If it does not; nothing is loaded for it.
        """
        ...

    def evaluate_in(
        self, engine: str, configuration: Configuration, split: Split
    ) -> EngineEvaluation:
        """Evaluate a configuration as its files run in an engine, under the state as it is.

        The examples, and the model that they are compared with, are those of
        :meth:`Trainer.evaluate`.

        Raises:
            EvaluationError: If it cannot be written or evaluated.
        """
        ...
