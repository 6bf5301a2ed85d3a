"""The kit for plugin authors, run on our own trainers with the small models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from qsearch_coalora.methods import decomposition
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.plugins.protocols import Quantizer, Trainer
from qsearch.plugins.registry import load_plugin
from qsearch.testing import TrainerConformance
from qsearch.testing.trainer.base import TrainerChecks
from qsearch.testing.trainer.evaluation import EvaluationChecks
from qsearch.testing.trainer.exports import ExportChecks


class OurTrainer(TrainerChecks):
    build: Callable[..., Trainer]

    def quantizer(self) -> Quantizer:
        # One that all export formats can hold, of few enough choices for the slower trainers.
        return Integer(
            Integer.Options(bits=(2, 4, 8), group_size=(32,), scheme=("symmetric", "asymmetric"))
        )

    def make(self) -> Trainer:
        return self.build(rank=4)

    def make_other(self) -> Trainer:
        return self.build(rank=2)


class OnBert(OurTrainer, TrainerConformance):
    name: str
    # All but GGUF, which cannot hold the small models: they are folders of transformers.
    formats = ("adapter", "compressed-tensors", "merged", "packed", "packed-base")

    @pytest.fixture(autouse=True)
    def _material(self, make_trainer) -> None:
        self.build = partial(
            make_trainer,
            plugin=self.quantizer(),
            method=load_plugin("trainers", self.name),
            steps=3,
            checkpoint_steps=2,
            calibration_batches=1,
        )


class TestCoALoRA(OnBert):
    name = "coa-lora"


class TestComposedLoRA(OnBert):
    name = "composed-lora"


class TestComposedLoRAOfSearchedRanks(OnBert):
    name = "composed-lora"

    def make(self) -> Trainer:
        return self.build(rank=4, ranks=(0, 2, 4))

    def make_other(self) -> Trainer:
        return self.build(rank=2, ranks=(0, 2))


class TestSharedLoRA(OnBert):
    name = "shared-lora"


class TestQLoRA(OnBert):
    name = "qlora"


class TestLQLoRA(OnBert):
    name = "lq-lora"
    formats = ("merged", "packed")

    @pytest.fixture(autouse=True)
    def _few_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decomposition, "MAX_TURNS", 2)


class TestPTQ(OnBert):
    name = "ptq"
    formats = ("compressed-tensors", "merged", "packed")


class TestCoALoRAOfACausalModel(OurTrainer, EvaluationChecks, ExportChecks):
    # Groups of 32 do not divide this model's 48 features, as compressed-tensors needs.
    formats = ("adapter", "merged", "packed", "packed-base")

    @pytest.fixture(autouse=True)
    def _material(self, make_trainer, llama_folder: Path, make_causal_task) -> None:
        self.build = partial(
            make_trainer, model=llama_folder, task=make_causal_task(), plugin=self.quantizer()
        )
