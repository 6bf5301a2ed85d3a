"""Files of further configurations, made from one that was exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qsearch_coalora.export.formats import GGUFExporter
from qsearch_coalora.llama_cpp.evaluating import FileEvaluations, written
from qsearch_coalora.llama_cpp.template import template_of
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF

from qsearch.space.configuration import Configuration, LayerConfiguration
from tests.coalora.export.small_gguf import write_small

pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
pytest.importorskip("gguf")

KINDS = ("MXFP4", "Q5_1", "Q8_0")


@pytest.fixture(scope="module")
def trainer(make_trainer: Any, tmp_path_factory: pytest.TempPathFactory) -> PTQTrainer:
    """Queries and keys have other rows in the file than in the model; embeddings are layers."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text("The film was good and the plot was fine. " * 20)
    text = {"train": folder / "text.txt", "validation": folder / "text.txt", "length": 32}
    made: PTQTrainer = make_trainer(
        method=PTQTrainer,
        model=write_small(folder / "small.gguf", 96, 128),
        task=CausalLanguageModelling(CausalLanguageModelling.Options(**text)),
        plugin=GGUF(GGUF.Options(types=KINDS)),
        fine_tune=False,
        embeddings=True,
        evaluate_in="llama.cpp",
    )
    made.load_state(made.state())
    return made


def by_turns(trainer: PTQTrainer, first: int) -> Configuration:
    layers = enumerate(trainer.layers(), start=first)
    return Configuration(
        {layer.name: LayerConfiguration({"type": KINDS[n % 3]}) for n, layer in layers}
    )


def test_files_are_those_of_exports_byte_for_byte(trainer: PTQTrainer, tmp_path: Path) -> None:
    with written(trainer.export_job(by_turns(trainer, 0))) as files:
        template = template_of(trainer.export_job(by_turns(trainer, 0)), files.model)
        assert template is not None
        for first in range(3):
            job = trainer.export_job(by_turns(trainer, first))
            template.write(job, tmp_path / "made.gguf")
            exported = tmp_path / str(first)
            exported.mkdir()
            GGUFExporter().write(job, exported)
            made = (tmp_path / "made.gguf").read_bytes()
            assert made == (exported / "model.gguf").read_bytes()


def test_a_study_exports_once_and_evaluates_all_files(
    trainer: PTQTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [by_turns(trainer, first) for first in range(3)]
    alone = [
        FileEvaluations(trainer.study).evaluate(trainer.export_job(one), "validation", None).loss
        for one in chosen
    ]
    exports = counted(monkeypatch)
    assert [one.loss for one in trainer.evaluate(chosen, "validation")] == alone
    assert len(set(alone)) == 3
    assert len(exports) == 1


def test_where_layers_are_not_clear_every_file_is_exported(
    trainer: PTQTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as with two layers of the same weights."""
    chosen = [by_turns(trainer, first) for first in range(2)]
    first, second = (n for n, one in enumerate(trainer.layers()) if one.role == "up")
    weights = trainer.study.adapted.weights
    originals = list(weights.originals)
    originals[second] = originals[first]
    same = Configuration(
        {**chosen[0], trainer.layers()[second].name: chosen[0][trainer.layers()[first].name]}
    )
    with written(trainer.export_job(same)) as files, monkeypatch.context() as patch:
        patch.setattr(weights, "originals", tuple(originals))
        weights.cache.clear()
        assert template_of(trainer.export_job(same), files.model) is None
    weights.cache.clear()
    monkeypatch.setattr("qsearch_coalora.llama_cpp.evaluating.template_of", lambda *_: None)
    exports = counted(monkeypatch)
    evaluations = FileEvaluations(trainer.study)
    for one in chosen:
        evaluations.evaluate(trainer.export_job(one), "validation", None)
    assert len(exports) == 2


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note where exports are written from now on."""
    folders: list[Path] = []
    write: Callable[..., None] = GGUFExporter.write

    def noted(self: GGUFExporter, job: Any, directory: Path) -> None:
        folders.append(directory)
        write(self, job, directory)

    monkeypatch.setattr(GGUFExporter, "write", noted)
    return folders
