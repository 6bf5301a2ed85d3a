"""Reading all that a report shows of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qsearch_reports.results import read_results

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, event_log
from qsearch.plugins.footprint import Footprint, RunningMemory
from qsearch.spec.yaml_text import dump_yaml
from qsearch.storage.checksums import yaml_with_checksum
from qsearch.storage.measurements import write_footprint, write_measurement
from qsearch.storage.paths import FOOTPRINT_FILE, STUDY_FILE, layer_scores_name

FOOTPRINT = Footprint(800, 1000, 200, RunningMemory(300, 2, 3, 10))
SETTINGS = {"name": "quickstart", "search": {"rounds": 4, "average_bits": [2.25, 7.25]}}


@pytest.fixture
def directory(study, record) -> Path:
    return study(record)


def write_settings(directory: Path, text: str) -> None:
    (directory / "study.yaml").write_bytes(yaml_with_checksum(text))


def test_everything_that_a_directory_holds_is_read(directory, record):
    write_footprint(directory, FOOTPRINT)
    write_settings(directory, dump_yaml(SETTINGS))
    event_log(directory / "log.jsonl")(Event(EventKind.STARTED, 1, {"rounds": 4}))
    last = len(record.rounds)
    scores = np.random.default_rng(0).random((len(record.layers), record.choices.size))
    write_measurement(directory, layer_scores_name(last), scores)
    write_measurement(directory, layer_scores_name(1), scores + 1)
    results = read_results(directory)
    assert results.footprint == FOOTPRINT
    assert results.settings == SETTINGS
    assert [event["event"] for event in results.events] == ["started"]
    assert np.array_equal(results.layer_scores, scores)


def test_while_the_first_round_runs_layer_scores_are_its_own(study, record):
    directory = study(replace(record, rounds=()))
    scores = np.ones((len(record.layers), record.choices.size))
    write_measurement(directory, layer_scores_name(1), scores)
    assert np.array_equal(read_results(directory).layer_scores, scores)


def test_layer_scores_that_cannot_be_used_are_damage(directory, record):
    shape = (len(record.layers), record.choices.size)
    name = layer_scores_name(record.rounds[-1].round)
    write_measurement(directory, name, np.full(shape, np.inf))
    with pytest.raises(InputError, match=f"{name}.safetensors: damaged: .*; delete it"):
        read_results(directory)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (STUDY_FILE, "{", "study.json: damaged"),
        (FOOTPRINT_FILE, "{}", "footprint.json: damaged"),
        ("study.yaml", "edited: yes", "study.yaml: damaged"),
    ],
)
def test_what_cannot_be_read_is_one_message(file, content, said, directory):
    (directory / file).write_text(content)
    with pytest.raises(InputError, match=said) as raised:
        read_results(directory)
    assert str(directory / file) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "a study is a mapping of sections, not list"),
        ("a: [", "study.yaml: not valid YAML"),
    ],
)
def test_settings_that_no_study_has_are_one_message(text, said, directory):
    write_settings(directory, text)
    with pytest.raises(InputError, match=said):
        read_results(directory)
