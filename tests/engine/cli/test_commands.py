"""The command line: exit codes, messages, and what each command prints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from qsearch.cli import main as cli
from qsearch.cli import output as cli_output
from qsearch.deployment.selection import best_under
from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, event_log
from qsearch.spec.templates import read_template, template_names
from qsearch.storage.lock import study_lock
from qsearch.storage.measurements import read_footprint
from qsearch.storage.paths import FOOTPRINT_FILE
from qsearch.storage.state_file import StateFile
from qsearch.storage.study_record import read_study, row_figures, write_study
from tests.engine.support import (
    command,
    command_environment,
    imported_by,
    results,
    study_values,
    write_study_yaml,
)


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["qsearch", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        cli.main()
        code = 0
    except SystemExit as caught:
        code = caught.code if isinstance(caught.code, int) else 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    output, errors = capsys.readouterr()
    return code, output, errors


@pytest.fixture
def qsearch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    return lambda *arguments: call(capsys, monkeypatch, *arguments)


# Mistakes: exit code 2, one line, no traceback


def refused(result: tuple[int, str, str]) -> str:
    code, _, errors = result
    assert code == 2, errors
    assert errors.startswith("qsearch: ")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    return errors


def test_wrong_study_is_refused_and_named(qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml", search__rounds=0)
    for arguments in (["check", study], ["run", study, "--out", tmp_path / "run"]):
        errors = refused(qsearch(*arguments))
        assert f"{study}: search.rounds" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("section", ["trainer", "task", "quantizer"])
def test_unknown_plugin_lists_what_is_installed(section: str, qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml", **{f"{section}__name": "nope"})
    errors = refused(qsearch("check", study))
    assert f"{section}.name: no {section} is called 'nope'; installed: [" in errors
    assert "'fake'" in errors


def test_run_names_the_study_file_when_a_plugin_refuses_its_options(
    qsearch, tmp_path: Path
) -> None:
    study = write_study_yaml(tmp_path / "my.yaml", trainer__block=1)
    errors = refused(qsearch("run", study, "--out", tmp_path / "run"))
    assert f"{study}: trainer.block: unknown field" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "none.yaml"],
        ["run", "none.yaml", "--out", "run"],
        ["status", "none"],
        ["pick", "none", "--bits", "3"],
        ["report", "none"],
        ["export", "none", "--bits", "3", "--to", "out"],
        ["init", "nope"],
        ["run", "none.yaml", "--out", "run", "--workers", "2"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_does_not_exist_is_refused(
    arguments: list[str], qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    errors = refused(qsearch(*arguments))
    assert "none" in errors or "nope" in errors or "--workers 2" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["pick"],
        ["pick", ".", "--bits", "x"],
        ["pick", ".", "--bits", "nan"],
        ["pick", ".", "--bits", "-1"],
        ["run"],
        ["nope"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], qsearch) -> None:
    code, _, errors = qsearch(*arguments)
    assert code == 2
    assert "Usage:" in errors
    assert "Traceback" not in errors


def test_directory_that_cannot_be_written_is_refused(qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml")
    errors = refused(qsearch("run", study, "--out", study / "run"))
    assert "cannot be written" in errors


def test_changed_study_is_refused(qsearch, finished: Path, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml")
    before = results(finished)
    errors = refused(qsearch("run", study, "--out", finished, "--set", "search.rounds=1"))
    assert "search.rounds: 2 → 1" in errors
    assert results(finished).equals(before)


# Failures: exit code 1


def test_failure_exits_1_and_resumes_after(qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml", trainer__faults=[{"kind": "error"}])
    code, _, errors = qsearch("run", study, "--out", tmp_path / "run")
    assert code == 1
    assert "qsearch: round 1: 5 of 8 evaluations failed" in errors
    assert "Traceback" not in errors


# Commands


def test_init_writes_a_study_that_check_accepts_or_explains(
    qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = qsearch("init")
    assert code == 0
    assert "qsearch check quickstart.yaml" in output
    assert (tmp_path / "quickstart.yaml").read_text() == read_template("quickstart")
    errors = refused(qsearch("init"))
    assert "quickstart.yaml exists" in errors
    assert qsearch("init", "--out", "other.yaml")[0] == 0
    assert "cannot be written" in refused(qsearch("init", "--out", "other.yaml/x"))


def test_every_template_is_listed_and_read() -> None:
    assert "quickstart" in template_names()
    for name in template_names():
        assert read_template(name).strip()
    with pytest.raises(InputError, match=r"no ready study is called 'nope'; there are: \["):
        read_template("nope")


def test_check_prints_what_the_study_needs(qsearch, tmp_path: Path) -> None:
    code, output, _ = qsearch("check", write_study_yaml(tmp_path / "my.yaml"))
    assert code == 0
    words = " ".join(output.split())
    for expected in ("layers 8 quantizable", "space 16 variables in 8 groups", "memory about 1.0"):
        assert expected in words


def test_check_applies_assignments(qsearch, tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml")
    code, output, _ = qsearch("check", study, "--set", "trainer.blocks=5")
    assert code == 0
    assert "20 quantizable" in output


def test_plugins_names_class_and_package(qsearch) -> None:
    code, output, _ = qsearch("plugins")
    assert code == 0
    lines = [line for line in output.splitlines() if "qsearch-fake 1.0" in line]
    assert any("trainer" in line and "qsearch_fake:FakeTrainer" in line for line in lines)
    for name in ("normal-float", "integer", "coa-lora", "classification", "causal-lm"):
        assert name in output


def test_status_tells_how_far_a_study_is(qsearch, finished: Path) -> None:
    code, output, _ = qsearch("status", finished)
    record = read_study(finished)
    assert code == 0
    assert f"{len(record.trials)} completed, 0 failed" in output
    assert f"{record.rounds[-1].hypervolume:.4f}" in output
    assert "finished at" in output
    running = next(line for line in output.splitlines() if line.startswith("running"))
    assert running.split() == ["running", "no"]


def test_status_of_a_study_without_results_says_who_runs_it(qsearch, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    event_log(tmp_path / "log.jsonl")(Event(EventKind.MEASURING_QUANTIZATION_ERROR, 0))
    with study_lock(tmp_path):
        code, output, _ = qsearch("status", tmp_path)
    assert code == 0
    lines = {line.split("  ")[0]: line for line in output.splitlines()}
    assert "none yet" in lines["results"]
    assert "measuring quantization error, since 20" in lines["last event"]
    assert f"process {os.getpid()} on" in lines["running"]


def test_pick_prints_the_best_configuration_under_the_budget(qsearch, finished: Path) -> None:
    code, output, _ = qsearch("pick", finished, "--bits", "3.5", "--json")
    assert code == 0
    picked = json.loads(output)
    best = best_under(read_study(finished), 3.5)
    assert picked["trial"] == best["trial"]
    assert picked["loss"] == best["loss"]
    assert picked["average_bits"] <= 3.5
    assert picked["configuration"] == json.loads(best["configuration"])
    assert set(picked) == {
        "trial", "round", "average_bits", "loss", "standard_error", "estimated_loss",
        "estimated_loss_std", "metric_name", "metric", "metric_standard_error", "seen",
        "configuration", "file_bytes", "memory_bytes", "memory_tokens", "smallest_alike",
    }  # fmt: skip
    assert picked["estimated_loss"] is None  # The fake task does not count its examples.


def test_a_pick_and_its_export_have_the_same_figures(
    qsearch, finished: Path, tmp_path: Path
) -> None:
    budget, record = ["--bits", "3.5"], read_study(finished)
    picked = json.loads(qsearch("pick", finished, *budget, "--json")[1])
    qsearch("export", finished, *budget, "--to", tmp_path / "out", "--format", "json")
    facts = json.loads((tmp_path / "out" / "qsearch.json").read_text())
    figures = row_figures(record, best_under(record, 3.5))
    assert figures == {name: picked[name] for name in figures}
    assert figures == {name: facts[name] for name in figures}


def test_a_trial_is_picked_and_exported_by_its_number(
    qsearch, finished: Path, tmp_path: Path
) -> None:
    wanted = read_study(finished).latest.iloc[2]
    trial = ["--trial", str(wanted["trial"])]
    code, output, _ = qsearch("pick", finished, *trial, "--json")
    assert code == 0
    picked = json.loads(output)
    assert (picked["trial"], picked["round"]) == (wanted["trial"], 2)
    assert picked["configuration"] == json.loads(wanted["configuration"])
    assert qsearch("export", finished, *trial, "--to", tmp_path / "out", "--format", "json")[0] == 0
    facts = json.loads((tmp_path / "out" / "qsearch.json").read_text())
    assert facts["loss"] == wanted["loss"]
    assert facts["budget"] == {"kind": "trial", "limit": wanted["trial"], "tokens": None}


def test_a_trial_that_the_latest_round_did_not_complete_is_refused_with_the_reason(
    qsearch, finished: Path, tmp_path: Path
) -> None:
    record = read_study(finished)
    last, dropped = record.latest.index[0], {*record.trials["trial"]} - {*record.latest["trial"]}
    trials = record.trials.copy()
    trials.loc[last, ["status", "reason"]] = "failed", "no memory"
    write_study(tmp_path, replace(record, trials=trials))
    said = refused(qsearch("pick", tmp_path, "--trial", str(trials.loc[last, "trial"])))
    assert "its evaluation failed in round 2: no memory" in said
    said = refused(qsearch("pick", tmp_path, "--trial", str(dropped.pop())))
    assert "it was evaluated in round 1 alone" in said
    assert "give one of round 2, the latest" in said


def test_pick_prints_a_table(qsearch, finished: Path) -> None:
    code, output, _ = qsearch("pick", finished, "--bits", "3.5")
    assert code == 0
    assert "group_size" in output
    assert "block.1.output" in output
    assert "expected" not in output


def test_pick_begins_with_rounded_figures_and_their_units(qsearch, finished: Path) -> None:
    best = best_under(read_study(finished), 3.5)
    lines = qsearch("pick", finished, "--bits", "3.5")[1].splitlines()
    figures = dict(line.split("  ", 1) for line in lines[: lines.index("")])
    told = {name: figure.strip() for name, figure in figures.items()}
    assert told["average bits"] == f"{best['average_bits']:.4f}"
    assert told["loss"] == f"{best['loss']:.4f} ± {best['standard_error']:.4f}"
    assert told["weight files"] == f"{(1200 + 100 * best['average_bits']) / 1000:.1f} kB as packed"
    assert told["memory"].endswith("kB for 10 tokens, an estimate")


def test_tables_that_are_piped_have_each_row_whole_on_a_line(finished: Path) -> None:
    result = command(["pick", finished, "--bits", "3.5"], COLUMNS="20")
    configuration = json.loads(best_under(read_study(finished), 3.5)["configuration"])
    lines = [line.split() for line in result.stdout.splitlines()]
    for name, layer in configuration.items():
        assert [name, *map(str, layer.values())] in lines


def test_headings_break_before_names_on_a_narrow_terminal(
    qsearch, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_output, "Console", partial(Console, width=41, force_terminal=True))
    output = qsearch("pick", finished, "--bits", "3.5")[1]
    assert "group_size" not in output
    assert "block.1.output" in output


def test_names_fold_on_a_terminal_too_narrow_for_them(
    qsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_output, "Console", partial(Console, width=80, force_terminal=True))
    output = qsearch("plugins")[1]
    assert "…" not in output
    assert "bitsandbytes" in output


@pytest.mark.parametrize(
    ("budget", "bits"),
    [
        # The fake model takes 1,200 bytes and 100 a bit; running, 300 and 5 a token more.
        (["--bytes", "1550"], 3.5),
        (["--bytes", "1.55 kB"], 3.5),
        (["--memory", "1900"], 3.5),
        (["--memory", "1950", "--tokens", "20"], 3.5),
    ],
)
def test_pick_by_size_is_pick_by_bits_that_fit(
    budget: list[str], bits: float, qsearch, finished: Path
) -> None:
    code, output, _ = qsearch("pick", finished, *budget, "--json")
    assert code == 0
    picked = json.loads(output)
    assert picked["trial"] == best_under(read_study(finished), bits)["trial"]
    assert picked["file_bytes"] == round(1200 + 100 * picked["average_bits"])
    assert picked["memory_bytes"] - picked["file_bytes"] == 300 + 5 * picked["memory_tokens"]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ([], "give one budget, --bits, --bytes or --memory, or a --trial; got none"),
        (["--bits", "3", "--bytes", "2kB"], "got --bits and --bytes"),
        (["--bytes", "2 parsec"], "--bytes '2 parsec': give a positive number of bytes"),
        (["--bytes", "0"], "--bytes '0': give a positive number"),
        (["--bytes", "1 kB"], "--bytes 1kB: the smallest configuration takes 1."),
        (["--bytes", "1kB"], " kB (1.20 kB of it not quantized)"),
        (["--bytes", "1300"], "--bytes 1300: the smallest configuration takes 1"),
        (["--bytes", "1300"], " bytes (1200 bytes of it not quantized)"),
        (["--memory", "1.4kB"], " kB (1.55 kB of it next to the quantized weights)"),
        (["--memory", "1kB", "--tokens", "900"], "--memory 1kB --tokens 900: the smallest"),
        (["--bits", "3", "--tokens", "5"], "--tokens is for --memory alone"),
        (["--bits", "inf"], "--bits inf: give a number of average bits"),
        (["--trial", "1", "--bits", "3"], "got --bits and --trial"),
        (["--trial", "1", "--tokens", "5"], "--tokens is for --memory alone"),
        (["--trial", "99"], "--trial 99: the study has no trial of that number; its last is "),
    ],
)
def test_a_budget_that_is_none_is_refused(
    budget: list[str], said: str, qsearch, finished: Path
) -> None:
    assert said in refused(qsearch("pick", finished, *budget))


def test_bytes_need_a_study_that_says_how_large_its_model_is(
    qsearch, finished: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / FOOTPRINT_FILE).unlink()
    errors = refused(qsearch("pick", copy, "--bytes", "2kB"))
    assert "does not say how large the model is" in errors
    picked = json.loads(qsearch("pick", copy, "--bits", "4", "--json")[1])
    assert picked["file_bytes"] is None
    right = asdict(read_footprint(finished))
    for wrong in ({}, {**right, "tokens": None}, {**right, "quantized_weights": 0}):
        StateFile(dict[str, Any]).write(copy / FOOTPRINT_FILE, wrong)
        errors = refused(qsearch("pick", copy, "--bytes", "2kB"))
        assert "footprint.json: damaged" in errors
        assert "run the study again" in errors


@pytest.mark.parametrize("bits", ["1", "0"])
def test_pick_below_every_configuration_is_refused(bits: str, qsearch, finished: Path) -> None:
    errors = refused(qsearch("pick", finished, "--bits", bits))
    assert f"--bits {bits}: the smallest configuration takes 2." in errors


@pytest.mark.parametrize(
    "budget", [["--bits", "1"], ["--bytes", "1kB"], ["--bytes", "0.001MiB"], ["--memory", "1kB"]]
)
def test_what_a_refused_budget_is_told_is_enough(
    budget: list[str], qsearch, finished: Path
) -> None:
    told = refused(qsearch("pick", finished, *budget)).split("takes ")[1]
    enough = told.split(" (")[0].removesuffix(" average bits\n")
    assert qsearch("pick", finished, budget[0], enough, "--json")[0] == 0


def test_export_writes_and_refuses(qsearch, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["export", finished, "--bits", "4", "--to", out]
    assert "writes ['json']" in refused(qsearch(*arguments))
    code, output, _ = qsearch(*arguments, "--format", "json")
    assert code == 0
    assert f"wrote {out}" in output
    assert (out / "configuration.json").is_file()
    assert "not an empty folder" in refused(qsearch(*arguments, "--format", "json"))


def test_a_sweep_writes_one_folder_for_each_configuration(
    qsearch, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    budgets = [2.5, 3.5, 5.75, 5.8]
    arguments = ["export", finished, "--to", out, "--format", "json"]
    code, output, _ = qsearch(*arguments, "--sweep", ",".join(map(str, budgets)))
    assert code == 0
    assert output.count("wrote") == len(budgets)
    index = json.loads((out / "index.json").read_text())
    assert [entry["bits"] for entry in index["budgets"]] == budgets
    trials = [int(best_under(read_study(finished), bits)["trial"]) for bits in budgets]
    assert [entry["trial"] for entry in index["budgets"]] == trials
    assert trials[2] == trials[3]  # Else nothing would be shared.
    folders = [entry["folder"] for entry in index["budgets"]]
    assert folders[2] == folders[3] == "5.75"
    assert {path.name for path in out.iterdir()} == {*folders, "index.json"}
    for entry in index["budgets"]:
        facts = json.loads((out / entry["folder"] / "qsearch.json").read_text())
        assert facts["trial"] == entry["trial"]
        assert facts["average_bits"] <= entry["bits"]


def test_budgets_that_are_almost_alike_have_folders_of_their_own(
    qsearch, finished: Path, tmp_path: Path
) -> None:
    bits = sorted(read_study(finished).latest["average_bits"])[0] + 0.5
    near = f"{bits},{bits + 1e-9}"
    arguments = ["export", finished, "--to", tmp_path / "out", "--format", "json"]
    assert qsearch(*arguments, "--sweep", near)[0] == 0
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["budgets"][0]["folder"] == str(bits)


def test_an_export_goes_into_an_empty_folder_as_it_is(
    qsearch, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    arguments = ["export", finished, "--bits", "4", "--format", "json", "--to"]
    assert qsearch(*arguments, tmp_path / "link")[0] == 0
    assert (tmp_path / "real" / "configuration.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert qsearch(*arguments, ".")[0] == 0
    assert (tmp_path / "here" / "configuration.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link", "here"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sweep", "2.5,x"], "'x' is not a positive number of average bits"),
        (["--sweep", "3,3.0"], "3 is there twice"),
        (["--sweep", "3", "--bits", "3"], "--sweep holds the budgets"),
        (["--sweep", "3", "--trial", "3"], "--sweep holds the budgets"),
        (["--sweep", "4,1"], "--bits 1: the smallest configuration takes"),
    ],
)
def test_a_sweep_of_bad_budgets_writes_nothing(
    arguments: list[str], said: str, qsearch, finished: Path, tmp_path: Path
) -> None:
    command_line = ["export", finished, "--to", tmp_path / "out", "--format", "json", *arguments]
    assert said in refused(qsearch(*command_line))
    assert list(tmp_path.iterdir()) == []


def test_report_writes_one_page(qsearch, finished: Path, tmp_path: Path) -> None:
    code, output, _ = qsearch("report", finished, "--out", tmp_path / "page.html")
    assert code == 0
    assert str(tmp_path / "page.html") in output
    assert (tmp_path / "page.html").read_text().lstrip().lower().startswith("<!doctype html")


def test_report_that_cannot_be_written_is_refused(qsearch, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    errors = refused(qsearch("report", finished, "--out", tmp_path / "file" / "page.html"))
    assert "cannot be written" in errors


def test_help_lists_every_command() -> None:
    output = CliRunner().invoke(cli.app, ["--help"]).output
    for name in ("init", "check", "run", "status", "serve", "report", "pick", "export", "plugins"):
        assert name in output


# In processes of their own


def write_slow_study(folder: Path, seconds: float) -> Path:
    """Write a study of five evaluations, each of so many seconds."""
    return write_study_yaml(
        folder / "my.yaml",
        trainer__blocks=1,
        trainer__seconds=seconds,
        search__rounds=1,
        search__initial=5,
        search__candidates=0,
    )


def start(study: Path, out: Path, event: str) -> subprocess.Popen[str]:
    """Start a study in a new process; return once its log holds an event."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qsearch.cli.main", "run", str(study), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_environment(),
    )
    deadline = time.monotonic() + 60
    log = out / "log.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and f'"event": "{event}"' in log.read_text():
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no {event}: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_study_cleanly_and_the_same_command_resumes(
    number: signal.Signals, tmp_path: Path
) -> None:
    study = write_slow_study(tmp_path, 1.0)
    process = start(study, tmp_path / "run", "evaluated")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "qsearch: interrupted; the same command resumes" in errors
    assert "Traceback" not in errors
    assert 0 < len(read_study(tmp_path / "run").trials) < 5
    if number == signal.SIGINT:
        again = command(["run", study, "--out", tmp_path / "run"])
        assert again.returncode == 0, again.stderr
        assert "Traceback" not in again.stderr
        assert f"report: {tmp_path / 'run' / 'report.html'}" in again.stdout
        assert (tmp_path / "run" / "report.html").is_file()
        assert len(read_study(tmp_path / "run").trials) == 5


def test_second_process_on_a_directory_is_refused(tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml")
    (tmp_path / "run" / "state").mkdir(parents=True)
    with study_lock(tmp_path / "run"):
        second = command(["run", study, "--out", tmp_path / "run"])
    assert second.returncode == 2
    assert f"run already, by process {os.getpid()}" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_clean_run_writes_nothing_to_its_errors(tmp_path: Path) -> None:
    study = write_study_yaml(
        tmp_path / "my.yaml", trainer__blocks=1, search__rounds=1, search__initial=4
    )
    result = command(["run", study, "--out", tmp_path / "run"])
    assert result.returncode == 0
    assert result.stderr == ""
    assert "round 1: found 2 candidates" in result.stdout


def test_light_commands_start_without_heavy_imports(finished: Path) -> None:
    heavy = {"torch", "ax", "transformers", "botorch"}
    assert imported_by(["pick", str(finished), "--bits", "3", "--json"], heavy) == "[]"


def test_study_yaml_in_the_directory_is_itself_a_study(finished: Path, qsearch) -> None:
    assert qsearch("check", finished / "study.yaml")[0] == 0
    assert study_values()["name"] in (finished / "study.yaml").read_text()
