"""The sessions of a study: what each ran on is written down, model and examples stay the same."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, all_of
from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.registry import load_plugin
from qsearch.provenance.environment import find_machine
from qsearch.spec.sections import PluginSpec
from qsearch.storage.directory import read_study_yaml, write_study_yaml
from qsearch.storage.paths import STUDY_YAML
from qsearch.storage.session_files import read_sessions
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import SMALL, Stop, stopping_at, study_spec

INPUTS = Inputs({"model.safetensors": "a" * 64}, {"train": ExamplesDigest(9, "b" * 64)})
OTHERS = Inputs({"model.safetensors": "d" * 64}, {"train": ExamplesDigest(9, "c" * 64)})


def run(directory: Path, stop_at: str | None = None) -> list[Event]:
    """Run a short fake study, or the rest of it, and return its events."""
    events: list[Event] = []
    spec = study_spec(search__rounds=1, search__candidates=1, trainer__blocks=1)
    observe = all_of([events.append, *([stopping_at(stop_at)] if stop_at else [])])
    with pytest.raises(Stop) if stop_at else nullcontext():
        run_spec(spec, directory, observer=observe)
    return events


def with_inputs(patch: pytest.MonkeyPatch, inputs: Inputs) -> None:
    """Have the fake trainer report its model and examples."""
    patch.setattr(load_plugin("trainers", "fake"), "inputs", inputs)


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    volatile = {"log.jsonl", "clock.json", "status.json"}
    return {str(path): path.read_bytes() for path in files if path.name not in volatile}


def test_each_session_is_recorded_once_with_what_it_ran_on_and_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_inputs(monkeypatch, INPUTS)
    run(tmp_path, stop_at="measured quantization error")
    assert "environment changed" not in [event.kind for event in run(tmp_path, "trained")]
    machine = find_machine()
    threads = machine.threads
    assert threads is not None
    other = replace(machine, threads=threads + 1)
    monkeypatch.setattr("qsearch.study.opening.find_machine", lambda: other)
    events = run(tmp_path)
    (change,) = [event for event in events if event.kind == "environment changed"]
    assert f"threads: {threads} → {threads + 1}" in change.fields["changed"]
    assert events[-1].kind == "finished"
    run(tmp_path)  # It is finished, so this is not a further session.
    record = read_study(tmp_path)
    assert record.sessions == read_sessions(tmp_path)
    threads_of = [session.machine.threads for session in record.sessions]
    assert threads_of == [threads, threads, threads + 1]
    last = record.sessions[-1]
    assert last.start.endswith("+00:00")
    assert last.versions == record.versions
    assert record.versions["qsearch-fake"] == "1.0"
    assert last.inputs == INPUTS


def test_a_study_does_not_resume_with_another_model_and_other_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_inputs(monkeypatch, INPUTS)
    run(tmp_path / "run", stop_at="trained")
    before = contents(tmp_path / "run")
    with_inputs(monkeypatch, OTHERS)
    with pytest.raises(InputError) as caught:
        run(tmp_path / "run")
    assert f"model model.safetensors: {'a' * 64} → {'d' * 64}" in str(caught.value)
    assert f"train examples: {'b' * 64} → {'c' * 64}" in str(caught.value)
    assert contents(tmp_path / "run") == before
    with_inputs(monkeypatch, INPUTS)
    run(tmp_path / "run", stop_at="started")


def test_before_anything_is_measured_they_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_inputs(monkeypatch, INPUTS)
    run(tmp_path / "run", stop_at="measuring quantization error")
    with_inputs(monkeypatch, OTHERS)
    run(tmp_path / "run", stop_at="started")
    (session,) = read_sessions(tmp_path / "run")
    assert session.inputs == OTHERS


def test_a_study_resumes_under_a_version_that_has_an_option_more(tmp_path: Path) -> None:
    spec = study_spec(**SMALL)
    first = run_spec(spec, tmp_path)
    resolved = read_study_yaml(tmp_path / STUDY_YAML)
    known = {name: value for name, value in resolved.trainer.options.items() if name != "noise"}
    assert len(known) < len(resolved.trainer.options)
    trainer = PluginSpec(name=resolved.trainer.name, **known)
    write_study_yaml(tmp_path, resolved.model_copy(update={"trainer": trainer}))
    assert run_spec(spec, tmp_path).trials.equals(first.trials)
    with pytest.raises(InputError, match=r"trainer\.noise: .* → 0\.5"):
        run_spec(study_spec(**SMALL, trainer__noise=0.5), tmp_path)
