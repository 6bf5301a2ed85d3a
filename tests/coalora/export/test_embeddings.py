"""Exports of studies that quantize their embedding and output head too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from qsearch_coalora.models.loading import CAUSAL
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed.embedding import PackedEmbedding
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from qsearch.testing.samples import draw_configurations
from tests.coalora.conftest import causal_tasks
from tests.coalora.exported import export, loaded_logits, study_logits

KINDS = ("bert", "llama", "tied")


@pytest.fixture(scope="module", params=KINDS)
def study(
    request: Any,
    make_trainer: Any,
    bert_folder: Path,
    llama_folder: Path,
    tied_llama_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, ...]:
    """A trained study, one of its configurations, a batch, and what it computes of it."""
    kind = request.param
    folders = dict(zip(KINDS, (bert_folder, llama_folder, tied_llama_folder), strict=True))
    trainer = make_trainer(
        plugin=NormalFloat(NormalFloat.Options()),
        model=folders[kind],
        task=None if kind == "bert" else causal_tasks(tmp_path_factory.mktemp("text"))(),
        embeddings=True,
        steps=8,
        learning_rate=2e-2,
    )
    chosen = draw_configurations(trainer.layers(), trainer.study.quantizer.choices(), 2)
    trainer.train(chosen, 1)
    batch = next(iter(trainer.study.task.batches("validation", 8)))
    return trainer, chosen[0], batch, study_logits(trainer, chosen[0], batch)


def loaded(trainer: Any, folder: Path) -> Any:
    causal = getattr(trainer.study.task, "auto_class", "") == CAUSAL
    auto_class = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    return auto_class.from_pretrained(folder).eval()


def assert_like(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("format", ["packed", "merged"])
def test_a_whole_model_gives_the_studys_logits(
    study: tuple[Any, ...], tmp_path: Path, format: str
) -> None:
    trainer, chosen, batch, expected = study
    export(trainer, chosen, tmp_path, format)
    model = loaded(trainer, tmp_path)
    assert_like(loaded_logits(model, batch), expected)
    table = model.get_input_embeddings()
    assert isinstance(table, PackedEmbedding) == (format == "packed")


def test_the_adapter_on_its_packed_base_gives_the_studys_logits(
    study: tuple[Any, ...], tmp_path: Path
) -> None:
    trainer, chosen, batch, expected = study
    for format in ("packed-base", "adapter"):
        export(trainer, chosen, tmp_path / format, format)
    base = loaded(trainer, tmp_path / "packed-base")
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert_like(loaded_logits(model, batch), expected)


def test_a_footprint_counts_tables_as_quantized_and_a_tied_head_not_at_all(
    study: tuple[Any, ...], make_trainer: Any
) -> None:
    trainer, chosen, *_ = study
    trainer.place(chosen)  # The weights that are active play no part.
    own = trainer.footprint()
    task = trainer.study.task
    without = make_trainer(
        plugin=trainer.study.quantizer, model=trainer.study.model.name, task=task
    ).footprint()
    weights = sum(layer.parameters for layer in trainer.layers() if layer.is_table)
    assert own.quantized_weights == without.quantized_weights + weights
    assert own.adapter_bytes == without.adapter_bytes
    headers = 1500
    assert without.other_bytes - own.other_bytes > 2 * weights - headers


def test_a_state_has_original_tables_under_all_their_names(study: tuple[Any, ...]) -> None:
    trainer, chosen, *_ = study
    trainer.place(chosen)
    state = trainer._job(chosen).state()
    originals = trainer.study.adapted.weights.originals
    names = [name for name in state if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    for name in names:
        assert any(state[name] is original for original in originals), name
