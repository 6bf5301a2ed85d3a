"""One trained study, and its exports, which tests read and do not change."""

from __future__ import annotations

from pathlib import Path

import pytest
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.tasks.classification import Classification
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.spec.sections import ModelSpec
from qsearch.testing.samples import draw_configurations
from tests.coalora.exported import study_logits


@pytest.fixture(scope="session")
def packing_study(bert_folder, table_files):
    """A trained study of normal float, one of its configurations, and what it computes."""
    train, validation = table_files
    trainer = CoALoRATrainer(
        CoALoRATrainer.Options(rank=4, steps=8, batch_size=8, warmup_steps=1, learning_rate=2e-2),
        ModelSpec(name=str(bert_folder)),
        Classification(Classification.Options(train=train, validation=validation)),
        NormalFloat(NormalFloat.Options()),
        0,
    )
    chosen = draw_configurations(trainer.layers(), trainer.study.quantizer.choices(), 2)
    trainer.train(chosen, 1)
    batch = next(iter(trainer.study.task.batches("validation", 8)))
    return trainer, chosen[0], batch, study_logits(trainer, chosen[0], batch)


@pytest.fixture(scope="session")
def exports(packing_study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the study's exports by format, with the adapter of another configuration."""
    trainer, chosen, *_ = packing_study
    folder = tmp_path_factory.mktemp("exports")
    for format in ("packed", "packed-base", "adapter", "merged"):
        trainer.export(chosen, folder / format, format)
    *_, other = draw_configurations(trainer.layers(), trainer.study.quantizer.choices(), 2)
    trainer.export(other, folder / "foreign", "adapter")
    return folder
