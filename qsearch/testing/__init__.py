"""Conformance kits for pytest: what every quantizer, task, trainer and exporter must do.

A plugin's tests need one class, of which pytest collects a test for each behaviour::

    from qsearch.testing import QuantizerConformance

    class TestMine(QuantizerConformance):
        def make(self):
            return Mine(Mine.Options())

Tasks have :class:`TaskConformance`, trainers :class:`TrainerConformance`, and exporters
:class:`ExporterConformance`. A class that several such tests share must not be called ``Test…``.
"""

import pytest

for _name in ("comparison", "exporter", "quantizer", "task", "trainer"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from qsearch.testing.exporter.job import sample_job  # noqa: E402
from qsearch.testing.exporter.kit import ExporterConformance  # noqa: E402
from qsearch.testing.quantizer.kit import QuantizerConformance  # noqa: E402
from qsearch.testing.task.kit import TaskConformance  # noqa: E402
from qsearch.testing.trainer.kit import TrainerConformance  # noqa: E402

__all__ = [
    "ExporterConformance",
    "QuantizerConformance",
    "TaskConformance",
    "TrainerConformance",
    "sample_job",
]
