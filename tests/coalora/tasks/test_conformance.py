"""The kit for plugin authors, run on our own tasks with the small models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qsearch.plugins.protocols import Task
from qsearch.spec.sections import ModelSpec
from qsearch.testing import TaskConformance
from tests.coalora.conftest import classification


class OurTask(TaskConformance):
    build: Callable[[], Task]
    folder: Path

    def make(self) -> Task:
        return self.build()

    def model(self) -> ModelSpec:
        return ModelSpec(name=str(self.folder))


class TestClassification(OurTask):
    @pytest.fixture(autouse=True)
    def _material(self, bert_folder: Path, table_files: tuple[Path, Path]) -> None:
        self.folder, self.build = bert_folder, lambda: classification(table_files)


class TestCausalLanguageModelling(OurTask):
    @pytest.fixture(autouse=True)
    def _material(self, llama_folder: Path, make_causal_task) -> None:
        self.folder, self.build = llama_folder, make_causal_task
