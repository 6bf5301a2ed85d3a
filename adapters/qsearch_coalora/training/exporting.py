"""The part of a trainer that exports configurations and tells how large they are."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from qsearch.plugins.footprint import Footprint
from qsearch.plugins.protocols import LoadedModel, Quantizer, Task
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.estimation.footprint import model_footprint
from qsearch_coalora.estimation.workload import task_workload
from qsearch_coalora.export.formats import EXPORTERS, ExportJob, require_format, write_export
from qsearch_coalora.weights.cache import FULL_PRECISION

_TOKENS = 512
"""Length of a sequence where the task does not tell its own."""


class ExportsModels:
    """Writes configurations of the trainer's model as it is now."""

    method: ClassVar[str]
    export_formats: ClassVar[tuple[str, ...]] = tuple(EXPORTERS)
    model: ModelSpec
    task: Task
    quantizer: Quantizer
    loaded: LoadedModel
    adapted: AdaptedModel

    def export(self, configuration: Configuration, directory: Path, format: str) -> None:
        """Write one of :attr:`export_formats` for a configuration into a directory.

        Raises:
            InputError: If the format is unknown, or cannot hold the configuration.
        """
        self.require_format(format)
        write_export(self._job(configuration), directory, format)

    def require_format(self, format: str) -> None:
        """Check that a format can hold the study's weights, without loading the model.

        Raises:
            InputError: If the format is unknown, or not for weights of the study's quantizer.
        """
        require_format(self.quantizer, format, self.export_formats)

    def footprint(self) -> Footprint:
        """Return what the model takes on a device."""
        workload = task_workload(self.task)
        tokens = _TOKENS if workload is None else workload.example_tokens
        return model_footprint(self._job(FULL_PRECISION), tokens)

    def _job(self, configuration: Configuration) -> ExportJob:
        adapted, tokenizer = self.adapted, self.loaded.tokenizer
        return ExportJob(adapted, self.model, tokenizer, configuration, self.quantizer, self.method)
