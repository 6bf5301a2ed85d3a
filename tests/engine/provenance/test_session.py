"""What a session ran on, as data, and how two sessions differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.provenance.session import (
    Machine,
    Session,
    Source,
    environment_changes,
    input_changes,
)

SESSION = Session(
    start="2026-11-27T09:00:00+00:00",
    versions={"torch": "2.13.0", "hqq": "0.2"},
    machine=Machine(processor="AMD EPYC", threads=1),
    sources={"qsearch": Source("c5da44", "main", changed=False)},
    inputs=Inputs({"model.safetensors": "aa"}, {"train": ExamplesDigest(3, "bb", "cc")}),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"start": "2026-12-01T00:00:00+00:00"},
        # Started from a folder that is in a repository.
        {"sources": {**SESSION.sources, "working directory": Source("77aa01", "main", True)}},
        {"sources": {"qsearch": Source("c5da44", "release", False)}},
    ],
)
def test_another_start_or_branch_is_no_change(changes: dict[str, Any]) -> None:
    later = replace(SESSION, **changes)
    assert environment_changes(SESSION, later) == environment_changes(later, SESSION) == []


def test_changes_name_what_changed_from_what_to_what() -> None:
    later = replace(
        SESSION,
        versions={"torch": "2.14.0", "peft": "0.21"},
        machine=replace(SESSION.machine, threads=2, accelerators=("NVIDIA H100",)),
        sources={"qsearch": Source("c5da44", "main", changed=True)},
    )
    assert environment_changes(SESSION, later) == [
        "torch: 2.13.0 → 2.14.0",
        "hqq: 0.2 → unknown",
        "peft: unknown → 0.21",
        "threads: 1 → 2",
        "accelerators: none → NVIDIA H100",
        "qsearch source: c5da44 → c5da44 with changes",
    ]


@pytest.mark.parametrize(
    "other",
    [
        Inputs(),
        replace(SESSION.inputs, data={"train": ExamplesDigest(3, "bb", "another file")}),
        replace(SESSION.inputs, model={**SESSION.inputs.model, "config.json": "cc"}),
    ],
)
def test_inputs_of_which_one_side_has_more_or_another_file_are_the_same(other: Inputs) -> None:
    assert input_changes(SESSION.inputs, other) == []


@pytest.mark.parametrize(
    ("after", "changes"),
    [
        ({"model.safetensors": "aa"}, ["tokenizer.json: tt → unknown"]),
        ({"model.safetensors": "aa", "tokenizer.json": "t2"}, ["tokenizer.json: tt → t2"]),
        (
            {"1.safetensors": "a2", "tokenizer.json": "tt"},
            ["1.safetensors: unknown → a2", "model.safetensors: aa → unknown"],
        ),
    ],
)
def test_a_file_of_the_model_that_went_or_changed_is_a_difference(
    after: dict[str, str], changes: list[str]
) -> None:
    before = Inputs({"model.safetensors": "aa", "tokenizer.json": "tt"})
    expected = [f"model {change}" for change in changes]
    assert sorted(input_changes(before, Inputs(after))) == expected
