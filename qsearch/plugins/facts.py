"""What a study keeps of its data, so that its exports need none of them: two capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from qsearch.plugins.protocols import TrainerState


@runtime_checkable
class SupportsTaskFacts(Protocol):
    """Optional for tasks. With it, a study's exports need none of its data."""

    def facts(self) -> Mapping[str, Any]:
        """Return what the model's head follows from, such as names of labels, as JSON data.

        Called after :meth:`Task.load_model`.
        """
        ...

    def use_facts(self, facts: Mapping[str, Any]) -> None:
        """Load models by facts that the study kept from now on.

        Called before :meth:`Task.load_model`, which then reads no data. The first call of
        :meth:`Task.batches` does, without :meth:`Task.prepare`.
        """
        ...


@runtime_checkable
class SupportsDataFacts(Protocol):
    """Optional for trainers. With it, a study's exports need none of its data."""

    def data_facts(self) -> TrainerState:
        """Return what an export needs of the data, as measured; model and data may be loaded.

        What would take too much room may be left out: an export then reads the data for it.
        """
        ...

    def use_data_facts(self, facts: TrainerState) -> None:
        """Export by facts that the study kept; called before anything is loaded."""
        ...
