"""Jobs of a small Llama in integers, with layers of which tools quantize all but embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.plugins.components import space_of
from qsearch.plugins.exporters import ExportJob
from qsearch.spec.sections import SpaceSpec
from tests.coalora.conftest import causal_tasks, small_config, small_tokenizer

FACTS = Path(__file__).parent / "facts"
TIED = SpaceSpec(tied="fused")
FLOAT = "layers.1.mlp.down_proj"


def facts(name: str) -> dict[str, Any]:
    """What is known of a tool, from its own code."""
    loaded: dict[str, Any] = json.loads((FACTS / f"{name}.json").read_text())
    return loaded


@pytest.fixture(scope="session")
def wide_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama whose features are multiples of 32, with an output head of its own."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = small_config("Llama", **sizes, intermediate_size=96, vocab_size=64)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_job(
    wide_llama_folder: Path,
    make_trainer: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., ExportJob]:
    """Return a maker of jobs whose groups have different layer configurations.

    The last layer of the model is left in float, unless patterns say otherwise.
    """
    make_task = causal_tasks(tmp_path_factory.mktemp("text"))

    def make(
        space: SpaceSpec = TIED,
        quantizer: Any = None,
        patterns: tuple[str, ...] = ("*0.*", "*1.self_attn*", "*1.mlp.gate*", "*1.mlp.up*"),
        shift: int = 0,
        **options: Any,
    ) -> ExportJob:
        values = {"group_size": (32,), "bits": (4, 8)} | options
        plugin = quantizer or Integer(Integer.Options(**values))
        trainer = make_trainer(
            plugin=plugin,
            method=PTQTrainer,
            task=make_task(length=32),
            model=wide_llama_folder,
            layers=patterns,
            embeddings=space.embeddings,
        )
        whole = space_of(plugin, trainer.layers(), space)
        count = whole.choices.size
        index = [(7 * number + shift) % count for number in range(len(whole.groups))]
        job: ExportJob = trainer.export_job(whole.decode(torch.tensor(index).numpy()))
        return job

    return make
