"""``pick`` and ``export``."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qsearch.deployment.budgets import Budget
from qsearch.deployment.criteria import Criteria
from qsearch.deployment.exporting import export_configuration
from qsearch.deployment.selection import best_among, best_under
from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.registry import load_plugin
from qsearch.storage.paths import FOOTPRINT_FILE
from qsearch.storage.study_record import (
    StudyRecord,
    read_study,
    row_configuration,
    row_values,
    write_study,
)
from tests.engine.fake_study import in_child, of_objective


@pytest.fixture(scope="module")
def record(finished: Path) -> StudyRecord:
    return read_study(finished)


@pytest.fixture
def picked(qsearch, finished: Path):
    """Return what ``pick --json`` says of a budget."""

    def pick(*budget: str) -> dict[str, Any]:
        code, output, errors = qsearch("pick", finished, *budget, "--json")
        assert code == 0, errors
        values: dict[str, Any] = json.loads(output)
        return values

    return pick


@pytest.fixture
def exported(qsearch, finished: Path, tmp_path: Path):
    """Export in the fake trainer's format to a new folder; return what it holds."""

    def export(*arguments: str, to: Path = tmp_path / "out") -> Path:
        into = ["--to", to, "--format", "json"]
        code, output, errors = qsearch("export", finished, *arguments, *into)
        assert code == 0, errors
        assert output.startswith("loading the model\nwriting trial "), output
        assert f"\nwrote {to}" in output
        return to

    return export


def file_bytes(record: StudyRecord, average_bits: float) -> int:
    """Return the bytes that the fake trainer's model takes: 1,200 that are not quantized."""
    return round(1200 + average_bits * sum(layer.parameters for layer in record.layers) / 8)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


# pick


def test_pick_prints_the_best_configuration_under_the_budget(picked, record: StudyRecord) -> None:
    found, best = picked("--bits", "3.5"), best_under(record, 3.5)
    assert found["average_bits"] <= 3.5
    assert found["configuration"] == json.loads(best["configuration"])
    figures = row_values(record, best)
    assert figures == {name: found[name] for name in figures}
    assert set(found) == {
        "trial", "round", "average_bits", "loss", "standard_error", "estimated_loss",
        "estimated_loss_std", "metrics", "seen",
        "configuration", "average_bits_with_adapter", "file_bytes", "memory_bytes",
        "memory_tokens", "speed", "difference", "smallest_alike",
    }  # fmt: skip
    assert found["estimated_loss"] is None  # The fake task does not count its examples.


def test_pick_begins_with_rounded_figures_and_their_units(
    qsearch, finished: Path, record: StudyRecord
) -> None:
    best = best_under(record, 3.5)
    lines = qsearch("pick", finished, "--bits", "3.5").output.splitlines()
    figures = dict(line.split("  ", 1) for line in lines[: lines.index("")])
    shown = {name: figure.strip() for name, figure in figures.items()}
    assert "estimated loss" not in shown
    assert shown["average bits"] == f"{best['average_bits']:.4f}"
    assert shown["loss"] == f"{best['loss']:.4f} ± {best['standard_error']:.4f}"
    nbytes = file_bytes(record, best["average_bits"])
    assert shown["weight files"] == f"{nbytes / 1000:.1f} kB as packed"
    of_adapter = 8 * 200 / sum(layer.parameters for layer in record.layers)
    assert shown["with adapter"] == f"{best['average_bits'] + of_adapter:.4f} average bits"
    assert shown["memory"].endswith("kB for 10 tokens, an estimate")


def test_pick_of_an_objective_shows_neither_training_nor_metric(
    qsearch, record: StudyRecord, tmp_path: Path
) -> None:
    made = of_objective(record)
    write_study(tmp_path, replace(made, trials=made.trials.assign(bytes=math.nan)))
    lines = qsearch("pick", tmp_path, "--bits", "6").output.splitlines()
    shown = dict(line.split("  ", 1) for line in lines[: lines.index("")])
    assert set(shown) - {"may be as good"} == {"trial", "average bits", "loss"}
    assert "±" not in shown["loss"]
    assert shown["trial"].strip().isdigit()
    values = json.loads(qsearch("pick", tmp_path, "--bits", "6", "--json").output)
    assert values["seen"] is None
    assert values["metrics"] == {}


def test_pick_says_the_estimated_loss_and_which_smaller_one_may_be_as_good(
    qsearch, record: StudyRecord, tmp_path: Path
) -> None:
    trials = record.trials.assign(estimated_loss=record.trials["loss"], estimated_loss_std=9.0)
    write_study(tmp_path, replace(record, trials=trials))
    output = qsearch("pick", tmp_path, "--bits", "6").output
    best, least = best_under(record, 6), record.latest["average_bits"].min()
    assert f"{best['loss']:.4f} ± 9.0000" in output
    assert f"{least:.4f} average bits: its loss is within the uncertainty" in output


@pytest.mark.parametrize("limit", ["accuracy", None])
def test_what_may_be_as_good_keeps_the_limits_of_the_user(
    limit: str | None, qsearch, record: StudyRecord, tmp_path: Path
) -> None:
    sizes = record.trials["average_bits"]
    trials = record.trials.assign(
        estimated_loss=record.trials["loss"], estimated_loss_std=9.0, accuracy=sizes / 10
    )
    write_study(tmp_path, replace(record, trials=trials))
    bits = sorted(record.latest["average_bits"])
    least = bits[3] / 10  # Three smaller ones do not keep it.
    options = ["--bits", "6"] + ([] if limit is None else ["--min", f"accuracy={least}"])
    found = json.loads(qsearch("pick", tmp_path, *options, "--json").output)
    assert found["average_bits"] > bits[3]
    assert found["smallest_alike"]["average_bits"] == (bits[0] if limit is None else bits[3])


def test_where_output_is_piped_each_layer_is_whole_on_a_line(
    qsearch, finished: Path, record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    output = qsearch("pick", finished, "--bits", "3.5").output
    lines = [line.split() for line in output.splitlines()]
    for name, layer in json.loads(best_under(record, 3.5)["configuration"]).items():
        assert [name, *map(str, layer.values())] in lines


@pytest.mark.parametrize("unit", ["", "B", " kB"])
@pytest.mark.parametrize(("option", "more"), [("--bytes", 0), ("--memory", 350)])
def test_pick_by_size_is_pick_by_bits_that_fit(
    option: str, more: int, unit: str, picked, record: StudyRecord
) -> None:
    best = best_under(record, 3.5)
    limit = file_bytes(record, best["average_bits"]) + more
    found = picked(option, f"{limit / 1000 if unit == ' kB' else limit}{unit}")
    assert found["trial"] == best["trial"]
    assert found["file_bytes"] == limit - more
    assert found["memory_bytes"] == found["file_bytes"] + 300 + 5 * found["memory_tokens"]


def test_a_longer_sequence_takes_more_memory(picked, record: StudyRecord) -> None:
    best = best_under(record, 3.5)
    limit = file_bytes(record, best["average_bits"]) + 300 + 5 * 20
    assert picked("--memory", str(limit), "--tokens", "20")["trial"] == best["trial"]
    assert picked("--memory", str(limit - 1), "--tokens", "20")["trial"] != best["trial"]


@pytest.mark.parametrize(
    ("budget", "error"),
    [
        ([], "give one budget, --bits, --bytes or --memory, or a --trial; got none"),
        (["--bits", "3", "--bytes", "2kB"], "got --bits and --bytes"),
        (["--bytes", "2 parsec"], "--bytes '2 parsec': give a positive number of bytes"),
        (["--bytes", "1 kB"], " kB (1.20 kB of it not quantized)"),
        (["--bytes", "1300"], " bytes (1200 bytes of it not quantized)"),
        (["--memory", "1.4kB"], " kB (1.55 kB of it next to the quantized weights)"),
        (["--memory", "1kB", "--tokens", "900"], "--memory 1kB --tokens 900: the smallest"),
        (["--bits", "3", "--tokens", "5"], "--tokens is for --memory alone"),
        (["--bits", "inf"], "--bits inf: give a number of average bits"),
        (["--bits", "1"], "--bits 1: the smallest configuration takes 2."),
        (["--trial", "1", "--bits", "3"], "got --bits and --trial"),
        (["--trial", "99"], "--trial 99: the study has no trial of that number; its last is "),
    ],
)
def test_a_budget_that_is_none_is_refused(
    budget: list[str], error: str, qsearch, finished: Path
) -> None:
    assert error in qsearch("pick", finished, *budget).refused()


@pytest.mark.parametrize(
    ("option", "limit"),
    [("--bits", "1"), ("--bytes", "1kB"), ("--bytes", "0.001MiB"), ("--memory", "1kB")],
)
def test_what_the_smallest_configuration_takes_is_enough(
    option: str, limit: str, qsearch, picked, finished: Path
) -> None:
    errors = qsearch("pick", finished, option, limit).refused().split("takes ")[1]
    assert picked(option, errors.split(" (")[0].removesuffix(" average bits\n"))


def test_bytes_need_a_study_that_knows_its_size(
    qsearch, finished: Path, record: StudyRecord, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / FOOTPRINT_FILE).unlink()
    errors = qsearch("pick", copy, "--memory", "2MB").refused()
    assert "does not say what memory running takes" in errors
    write_study(copy, replace(record, trials=record.trials.assign(bytes=math.nan)))
    errors = qsearch("pick", copy, "--bytes", "2MB").refused()
    assert "does not say how large the model is" in errors
    assert json.loads(qsearch("pick", copy, "--bits", "4", "--json").output)["file_bytes"] is None
    right = read_json(finished / FOOTPRINT_FILE)
    for wrong in ({}, {**right, "adapter_bytes": None}, {**right, "quantized_weights": 0}):
        for path in copy.glob(f"{FOOTPRINT_FILE}*"):
            path.unlink()
        (copy / FOOTPRINT_FILE).write_text(json.dumps(wrong))
        assert "footprint.json: damaged" in qsearch("pick", copy, "--memory", "2MB").refused()


# A trial


def test_a_trial_is_picked_and_exported_with_its_figures_by_its_number(
    picked, exported, record: StudyRecord
) -> None:
    row = record.latest.iloc[2]
    found = picked("--trial", str(row["trial"]))
    assert (found["trial"], found["round"]) == (row["trial"], 2)
    assert found["configuration"] == json.loads(row["configuration"])
    facts = read_json(exported("--trial", str(row["trial"])) / "qsearch.json")
    assert facts | row_values(record, row) == facts
    assert facts["budget"] == {"kind": "trial", "limit": row["trial"], "tokens": None}
    assert (facts["limits"], facts["within"]) == ([], None)


def test_a_trial_that_the_latest_round_did_not_complete_is_refused_with_the_reason(
    qsearch, record: StudyRecord, tmp_path: Path
) -> None:
    last, other = record.latest.index[:2]
    dropped, trials = record.trials.loc[other, "trial"], record.trials.drop(index=other)
    trials.loc[last, ["status", "reason"]] = "failed", "no memory"
    write_study(tmp_path, replace(record, trials=trials))
    errors = qsearch("pick", tmp_path, "--trial", str(trials.loc[last, "trial"])).refused()
    assert "its evaluation failed in round 2: no memory" in errors
    errors = qsearch("pick", tmp_path, "--trial", str(dropped)).refused()
    assert "it was evaluated in round 1 alone" in errors
    assert "give one of round 2, the last finished" in errors


# export


@pytest.mark.parametrize(
    ("format", "error"),
    [
        ("jsn", "--format 'jsn': no exporter is called so; trainer 'fake' and quantizer 'fake' "),
        ("plain", "--format 'plain': it is for trainers ['tiny'], not 'fake'; "),
        ("codes", "--format 'codes': it is for quantizers ['other'], not 'fake'; "),
        ("adapter", "have ['json', 'merged', 'packed', 'recipe:auto-round', 'recipe:gptqm"),
        ("packed", "quantizer 'fake' cannot be exported as packed: it has no layout"),
        ("bare", "exporter 'bare' has no 'quantizers'; its package must add what qsearch.plugins."),
        ("future", "exporter 'future' of qsearch-fake 1.0 is written for version 99 of qsearch's"),
    ],
)
def test_an_export_in_a_format_that_is_not_for_the_study_is_refused(
    format: str, error: str, qsearch, finished: Path, tmp_path: Path
) -> None:
    out = ["--to", tmp_path / "out", "--format", format]
    assert error in qsearch("export", finished, "--bits", "4", *out).refused()


def test_an_export_of_a_trainer_without_export_jobs_is_refused(
    qsearch, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = load_plugin("trainers", "fake")
    mute = type("Mute", (fake,), {"export_job": None})
    monkeypatch.setattr(
        "qsearch.plugins.components.load_plugin",
        lambda group, name: mute if group == "trainers" else load_plugin(group, name),
    )
    out = ["--to", tmp_path / "out", "--format", "json"]
    errors = qsearch("export", finished, "--bits", "4", *out).refused()
    assert "--format json: trainer 'fake' exports nothing" in errors


def test_another_model_than_the_study_s_is_not_exported(
    qsearch, finished: Path, record: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, before, now = shutil.copytree(finished, tmp_path / "run"), "a" * 64, "b" * 64
    of_study = Inputs({"model.safetensors": before}, {"train": ExamplesDigest(2, before)})
    sessions = tuple(replace(session, inputs=of_study) for session in record.sessions)
    write_study(directory, replace(record, sessions=sessions))
    trainer = load_plugin("trainers", "fake")
    arguments = ("export", directory, "--bits", "4", "--format", "json", "--to")
    # An export needs no data, so those may be others.
    same = replace(of_study, data={"train": ExamplesDigest(2, now)})
    monkeypatch.setattr(trainer, "inputs", same)
    assert qsearch(*arguments, tmp_path / "same").code == 0
    monkeypatch.setattr(trainer, "inputs", replace(of_study, model={"model.safetensors": now}))
    errors = qsearch(*arguments, tmp_path / "other").refused()
    assert f"{directory} has results of another model or other examples (SHA-256)" in errors
    assert f"model model.safetensors: {before} → {now}" in errors
    assert not (tmp_path / "other").exists()


def test_an_exports_facts_have_the_bytes_of_the_weight_files_that_the_exporter_names(
    exported,
) -> None:
    out = exported("--bits", "4")
    size = (out / "configuration.json").stat().st_size
    assert read_json(out / "qsearch.json")["weight_file_bytes"] == size


@pytest.mark.parametrize("budget", [["--bits", "4"], ["--sweep", "3.5,4"]])
def test_a_dry_run_prints_the_bytes_of_each_weight_file_and_writes_nothing(
    budget: list[str], qsearch, exported, finished: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    output = qsearch("export", finished, *budget, "--format", "json", "--dry-run").output
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    out = exported(*budget, to=tmp_path / "out")
    for path in out.rglob("configuration.json"):
        assert f"  configuration.json  {path.stat().st_size:,} bytes" in output
    for facts in map(read_json, out.rglob("qsearch.json")):
        assert f"trial {facts['trial']}, {facts['average_bits']:.4f} average bits" in output
    assert "would write json" in output


def test_a_dry_run_needs_a_format_that_says_what_it_would_write(
    qsearch, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = SimpleNamespace(weight_files=(".json",))
    monkeypatch.setattr("qsearch.deployment.exporting.load_exporter", lambda *_: silent)
    errors = qsearch("export", finished, "--bits", "4", "--format", "json", "--dry-run").refused()
    assert "--dry-run: the format 'json' does not say what it would write" in errors


@pytest.mark.parametrize("run", [["--dry-run"], ["--to", "out"]])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--dtype", "half"], "--dtype 'half': must be one of auto, bfloat16, float16, float32"),
        (["--adapter-bits", "4"], "--adapter-bits 4: must be 8; without it the adapter is stored"),
        (["--adapter-bits", "8"], "'json' does not store an adapter in codes; formats that do: pa"),
        (["--bytes", "1210"], "--bytes"),
    ],
)
def test_types_that_cannot_be_stored_are_refused(
    run: list[str], options: list[str], error: str, qsearch, finished: Path
) -> None:
    budget = [] if "--bytes" in options else ["--bits", "4"]
    out = qsearch("export", finished, *budget, "--format", "json", *options, *run)
    assert error in out.refused()


def test_an_export_needs_a_folder(qsearch, finished: Path) -> None:
    errors = qsearch("export", finished, "--bits", "4", "--format", "json").refused()
    assert "--to OUT: name the folder to write, or give --dry-run" in errors


@pytest.mark.parametrize(
    ("options", "dtype"), [([], "bfloat16"), (["--dtype", "float16"], "float16")]
)
def test_exports_say_in_which_type_they_are_stored(
    options: list[str], dtype: str, exported
) -> None:
    facts = read_json(exported("--bits", "4", *options) / "qsearch.json")
    assert (facts["dtype"], facts["adapter_bits"]) == (dtype, None)


def test_help_lists_the_formats_that_are_installed_with_what_they_are(qsearch) -> None:
    words = " ".join(qsearch("export", "--help").output.replace("│", " ").split())
    assert "adapter: the adapter alone, which PEFT loads;" in words
    assert "json: the configuration as JSON" in words
    assert "future: exporter 'future' of qsearch-fake 1.0 is written for" in words


def test_a_format_is_refused_and_help_is_written_without_torch() -> None:
    script = (
        "import sys\n"
        "from qsearch.plugins.formats import installed_formats, load_exporter\n"
        "installed_formats()\n"
        "load_exporter('packed', 'ptq', 'integer')\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_an_export_goes_into_an_empty_folder_alone_as_it_is(
    qsearch, exported, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    exported("--bits", "4", to=tmp_path / "link")
    assert (tmp_path / "real" / "configuration.json").is_file()
    again = ["export", finished, "--bits", "4", "--format", "json", "--to", tmp_path / "real"]
    assert "not an empty folder" in qsearch(*again).refused()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    exported("--bits", "4", to=Path())
    assert (tmp_path / "here" / "configuration.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link", "here"}


@pytest.mark.parametrize("end", ["interrupted", "killed"])
def test_an_export_that_does_not_end_leaves_no_folder(
    end: str, finished: Path, exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = load_plugin("exporters", "json")

    def write_half(self: object, job: object, directory: Path) -> None:
        (directory / "configuration.json").write_text("{")
        if end == "killed":
            os._exit(9)
        raise KeyboardInterrupt

    def export_once() -> None:
        criteria = Criteria(Budget("bits", 4.0))
        export_configuration(finished, criteria, tmp_path / "out", "json")

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "write", write_half)
        if end == "killed":
            assert in_child(export_once) == 9
        else:
            with pytest.raises(KeyboardInterrupt):
                export_once()
    # What a killed process leaves has another name, and goes with the next export.
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({".out.partial"} if end == "killed" else set())
    out = exported("--bits", "4")
    assert read_json(out / "configuration.json")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_facts_come_last_into_a_folder_that_is_there(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    monkeypatch.setattr(shutil, "move", lambda path, _: moved.append(path.name))
    (tmp_path / "out").mkdir()
    export_configuration(finished, Criteria(Budget("bits", 4.0)), tmp_path / "out", "json")
    assert sorted(moved) == ["configuration.json", "qsearch.json"]
    assert moved[-1] == "qsearch.json"


@pytest.mark.parametrize("writes", [False, True])
def test_bytes_are_those_of_the_file_in_its_own_format(
    writes: bool,
    qsearch,
    finished: Path,
    record: StudyRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more, run = 40, ["--to", tmp_path / "out"] if writes else ["--dry-run"]

    def weight_bytes(self: object, job: Any) -> dict[str, int]:
        rows = record.latest
        own = [row_configuration(row) == job.configuration for _, row in rows.iterrows()]
        return {"configuration.json": int(rows[own]["bytes"].iloc[0]) + more}

    monkeypatch.setattr(load_plugin("exporters", "json"), "weight_bytes", weight_bytes)
    sizes = sorted(record.latest["bytes"].astype(int))
    middle, least = sizes[len(sizes) // 2], sizes[0]
    fitting = record.latest[record.latest["bytes"] + more <= middle]
    expected = int(best_among(fitting)["trial"])
    arguments = ["export", finished, "--format", "json"]
    assert f"trial {expected}" in qsearch(*arguments, "--bytes", str(middle), *run).output
    errors = qsearch(*arguments, "--bytes", str(least + more - 1), "--dry-run").refused()
    assert f"takes {least + more} bytes" in errors


def test_a_sweep_writes_one_folder_for_each_configuration(exported, record: StudyRecord) -> None:
    budgets = [2.5, 3.5, 5.75, 5.75 + 1e-9]
    out = exported("--sweep", ",".join(map(str, budgets)))
    index = read_json(out / "index.json")["budgets"]
    assert [entry["bits"] for entry in index] == budgets
    trials = [int(best_under(record, bits)["trial"]) for bits in budgets]
    assert [entry["trial"] for entry in index] == trials
    assert trials[2] == trials[3]  # Else nothing would be shared.
    folders = [entry["folder"] for entry in index]
    assert folders[2] == folders[3] == "5.75"
    assert {path.name for path in out.iterdir()} == {*folders, "index.json"}
    for entry in index:
        facts = read_json(out / entry["folder"] / "qsearch.json")
        assert facts["trial"] == entry["trial"]
        assert facts["average_bits"] <= entry["bits"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--sweep", "2.5,x"], "'x' is not a positive number of average bits"),
        (["--sweep", "3,3.0"], "3 is there twice"),
        (["--sweep", "3", "--bits", "3"], "--sweep holds the budgets"),
        (["--sweep", "3", "--trial", "3"], "--sweep holds the budgets"),
        (["--sweep", "4,1"], "--bits 1: the smallest configuration takes"),
    ],
)
def test_a_sweep_of_bad_budgets_writes_nothing(
    arguments: list[str], error: str, qsearch, finished: Path, tmp_path: Path
) -> None:
    out = ["--to", tmp_path / "out", "--format", "json"]
    assert error in qsearch("export", finished, *out, *arguments).refused()
    assert list(tmp_path.iterdir()) == []


# pick, with limits of metrics


@pytest.mark.parametrize(
    "options", [("--min", "accuracy={}"), ("--min-accuracy", "{}"), ("--min", " accuracy = {}")]
)
def test_pick_takes_the_smallest_that_keeps_a_limit(
    picked, record: StudyRecord, options: tuple[str, str]
) -> None:
    limit = float(record.latest["accuracy"].median())
    found = picked(options[0], options[1].format(limit))
    fitting = record.latest[record.latest["accuracy"] >= limit]
    assert 0 < len(fitting) < len(record.latest)
    assert found["average_bits"] == fitting["average_bits"].min()
    assert found["metrics"]["accuracy"]["value"] >= limit


def test_pick_takes_the_best_within_a_budget_that_keeps_limits(picked, record: StudyRecord) -> None:
    most = float(record.latest["accuracy"].median())
    found = picked("--bits", "6", "--max", f"accuracy={most}", "--max", "loss=9")
    fitting = record.latest[record.latest["accuracy"] <= most]
    assert found["loss"] == fitting["loss"].min()
    assert found["loss"] > picked("--bits", "6")["loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-kl", "0.1"), r"--max kl=0.1: the study has no metric 'kl'; it has .'loss', 'acc"),
        (("--min-accuracy", "2"), "--min accuracy=2: the greatest accuracy of the last finished"),
        (("--max", "loss=0.001"), r"the least loss .* is 0\.\d+, of trial \d+ with \d+\.\d+ aver"),
        (("--max", "loss"), "--max 'loss': give a metric and a number, such as --max perpl"),
        (("--min", "=3"), "--min '=3': give a metric and a number"),
        (("--max", "loss=nan"), "give a metric and a number"),
        (("--max", "loss=1", "--max", "loss=2"), "--max of loss: give it once"),
        (("--trial", "1", "--max", "loss=9"), "--trial 1 is a configuration already; leave --max"),
        (("--min-accuracy", "0.1", "--bits", "0.5"), r"smallest .* of those that keep --min accu"),
        ((), "give one budget"),
    ],
)
def test_pick_refuses_limits_that_nothing_keeps(
    qsearch, finished: Path, options: tuple[str, ...], message: str
) -> None:
    code, _, errors = qsearch("pick", finished, *options)
    assert code == 2
    assert re.search(message, " ".join(errors.split()))


# export and evaluate, by what pick is for


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        (("--min-accuracy", "{median}"), 1),
        (("--bits", "6", "--max", "accuracy={median}", "--max", "loss=9"), 2),
        (("--bytes", "30kB", "--min", "accuracy={median}"), 1),
        (("--memory", "40kB", "--tokens", "7"), 0),
    ],
)
def test_export_and_evaluate_take_what_pick_takes(
    qsearch,
    picked,
    exported,
    finished: Path,
    record: StudyRecord,
    options: tuple[str, ...],
    limits: int,
) -> None:
    given = [option.format(median=record.latest["accuracy"].median()) for option in options]
    trial = picked(*given)["trial"]
    facts = read_json(exported(*given) / "qsearch.json")
    assert facts["trial"] == trial
    assert len(facts["limits"]) == limits
    assert (facts["budget"] is None) == (given[0] == "--min-accuracy")
    models = json.loads(qsearch("evaluate", finished, *given, "--json").output)["models"]
    assert models[0]["name"] == f"trial {trial}"


def test_each_budget_of_a_sweep_keeps_the_limits(exported, record: StudyRecord) -> None:
    most = float(record.latest["accuracy"].median())
    out = exported("--sweep", "4,6", "--max", f"accuracy={most}")
    fitting = record.latest[record.latest["accuracy"] <= most]
    for entry in read_json(out / "index.json")["budgets"]:
        within = fitting[fitting["average_bits"] <= entry["bits"]]
        assert entry["loss"] == within["loss"].min()
        facts = read_json(out / entry["folder"] / "qsearch.json")
        assert facts["limits"] == [{"metric": "accuracy", "side": "max", "value": most}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-accuracy", "2"), "--min accuracy=2: the greatest accuracy of the last finished"),
        (("--within", "1%", "--bits", "4"), "--within picks by the loss; leave budgets and limits"),
        (("--within", "1%", "--max-kl", "4"), "--within picks by the loss; leave budgets and lim"),
        (("--within", "much"), "--within 'much': give a share of the loss"),
        ((), "give one budget, --bits, --bytes or --memory, or a --trial; got none"),
    ],
)
def test_what_nothing_can_be_picked_by_is_refused_alike(
    qsearch, finished: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    for command in (["pick"], ["evaluate"], ["export", "--to", tmp_path / "out"]):
        errors = qsearch(command[0], finished, *command[1:], *options).refused()
        assert re.search(message, " ".join(errors.split()))
    assert not (tmp_path / "out").exists()


def test_a_share_excludes_a_sweep_too(qsearch, finished: Path, tmp_path: Path) -> None:
    errors = qsearch("export", finished, "--within", "1%", "--sweep", "3,4", "--to", tmp_path / "o")
    assert "--within picks by the loss; leave budgets and limits out" in errors.refused()
