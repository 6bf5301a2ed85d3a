"""A study that searches the embedding with its tied head, from its YAML to an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import qsearch_quantizers  # noqa: F401  # It makes transformers know the format.
import torch
from qsearch_quantizers.packed.embedding import PackedEmbedding, TiedHead
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from qsearch.plugins.components import build_components
from qsearch.plugins.protocols import Scores
from qsearch.spec.study_spec import load_spec
from qsearch.spec.yaml_text import dump_yaml
from qsearch.storage.study_record import read_study
from tests.coalora.conftest import WORDS, save_llama
from tests.end_to_end.conftest import command, run

TABLE = "embed_tokens"
KNOBS = ["bits", "group_size"]


@pytest.fixture(scope="module")
def embedding_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a study of a model of SmolLM2's kind, run by the command line."""
    folder = tmp_path_factory.mktemp("embeddings")
    (folder / "model").mkdir()
    save_llama(folder / "model", 64, tied=True)
    lines = [" ".join(WORDS[n:] + WORDS[:n]) for n in range(30)]
    for name in ("train", "validation"):
        (folder / f"{name}.txt").write_text("\n".join(lines))
        lines.reverse()
    values = {
        "name": "embeddings",
        "model": {"name": "./model"},
        "task": {
            "name": "causal-lm",
            "train": "./train.txt",
            "validation": "./validation.txt",
            "length": 24,
        },
        "quantizer": {"name": "integer", "bits": [2, 4, 8], "group_size": [32]},
        "trainer": {"name": "coa-lora", "rank": 4, "steps": 6, "batch_size": 8},
        "space": {"embeddings": True},
        "search": {"rounds": 2, "initial": 4, "candidates": 2, "average_bits": [3.0, 8.0]},
    }
    (folder / "study.yaml").write_text(dump_yaml(values))
    run(command("run", folder / "study.yaml", "--out", folder / "run"))
    return folder / "run"


def test_the_embedding_is_searched_and_reported(embedding_study: Path) -> None:
    record = read_study(embedding_study)
    (table,) = [layer for layer in record.layers if layer.is_table]
    assert (table.name, table.shape, record.layers[-1]) == (TABLE, (63, 32), table)
    configurations = [json.loads(text) for text in record.trials["configuration"]]
    assert len({one[TABLE]["bits"] for one in configurations}) > 1
    weights = sum(layer.parameters for layer in record.layers)
    for row, chosen in zip(record.trials.itertuples(), configurations, strict=True):
        bits = sum(layer.parameters * (chosen[layer.name]["bits"] + 0.5) for layer in record.layers)
        assert row.average_bits == pytest.approx(bits / weights)
    assert "embedding" in (embedding_study / "report.html").read_text(encoding="utf-8")
    checked = run(command("check", embedding_study / "study.yaml")).stdout
    assert "15 quantizable" in checked


def test_a_study_with_embeddings_does_not_continue_without(embedding_study: Path) -> None:
    path, out = embedding_study.parent / "study.yaml", embedding_study
    arguments = ("run", path, "--out", out, "--set", "space.embeddings=false")
    refused = run(command(*arguments), expect=2)
    assert "space.embeddings: True → False" in refused.stdout + refused.stderr


def test_the_packed_export_has_the_loss_that_was_evaluated(
    embedding_study: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    run(command("export", embedding_study, "--bits", "5", "--to", out, "--format", "packed"))
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    assert isinstance(model.get_input_embeddings(), PackedEmbedding)
    assert isinstance(model.get_output_embeddings(), TiedHead)
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118
    components = build_components(load_spec(embedding_study / "study.yaml", resolved=True))
    task = components.task
    task.prepare(AutoTokenizer.from_pretrained(out))  # type: ignore[attr-defined]
    scores = []
    with torch.no_grad():
        for batch in task.batches("validation", 8):  # type: ignore[attr-defined]
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            scores.append(task.score(model(**inputs).logits, batch))  # type: ignore[attr-defined]
    joined = Scores.concatenate(scores)
    loss = float((joined.losses * joined.weights).sum() / joined.weights.sum())
    assert loss == pytest.approx(json.loads((out / "qsearch.json").read_text())["loss"], abs=1e-5)
