"""The kit for plugin authors, run on our own trainers with the small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.plugins.protocols import Quantizer, Task, Trainer
from qsearch.plugins.registry import load_plugin
from qsearch.spec.sections import ModelSpec
from qsearch.testing import TrainerConformance
from tests.coalora.conftest import WORDS


class OurTrainer(TrainerConformance):
    """A trainer by the name of its entry point."""

    name: str
    model: Path
    # The small models are folders of transformers, which the format cannot hold.
    refused_formats = ("gguf",)

    def task(self) -> Task:
        raise NotImplementedError

    def quantizer(self) -> Quantizer:
        # One that all export formats can hold, of few enough choices for the slower trainers.
        return Integer(
            Integer.Options(bits=(2, 4, 8), group_size=(32,), scheme=("symmetric", "asymmetric"))
        )

    def make(self, **options: Any) -> Trainer:
        plugin = load_plugin("trainers", self.name)
        fields = {"rank": 4, "steps": 4, "batch_size": 8, "warmup_steps": 1, "checkpoint_steps": 2}
        trainer: Trainer = plugin(
            plugin.Options.model_validate(fields | options),
            ModelSpec(name=str(self.model)),
            self.task(),
            self.quantizer(),
            0,
        )
        return trainer

    def make_other(self) -> Trainer:
        return self.make(rank=2)


class OnBert(OurTrainer):
    @pytest.fixture(autouse=True)
    def _material(self, bert_folder: Path, table_files: tuple[Path, Path]) -> None:
        self.model = bert_folder
        self.train, self.validation = table_files

    def task(self) -> Task:
        options = Classification.Options(train=self.train, validation=self.validation)
        return Classification(options)


class TestCoALoRA(OnBert):
    name = "coa-lora"


class TestSharedLoRA(OnBert):
    name = "shared-lora"


class TestQLoRA(OnBert):
    name = "qlora"


class TestLQLoRA(OnBert):
    name = "lq-lora"


class TestPTQ(OnBert):
    name = "ptq"


class TestCoALoRAOfACausalModel(OurTrainer):
    name = "coa-lora"
    # Groups of 32 do not divide this model's 48 features.
    refused_formats = ("gguf", "compressed-tensors")

    @pytest.fixture(autouse=True)
    def _material(self, llama_folder: Path, tmp_path: Path) -> None:
        self.model = llama_folder
        self.text = tmp_path / "text.txt"
        self.text.write_text("\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(40)))

    def task(self) -> Task:
        options = CausalLanguageModelling.Options(train=self.text, validation=self.text, length=24)
        return CausalLanguageModelling(options)
