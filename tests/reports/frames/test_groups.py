"""Which studies are one method, and what differs between methods."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports import frames
from qsearch_reports.frames.groups import common_label, flatten

from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.evaluation import Metric
from tests.reports.realistic_studies import with_metric
from tests.reports.small_studies import methods_of, study_of


def test_studies_that_differ_in_name_and_seed_alone_are_one_method():
    studies = [
        study_of([(3, 1)], name="coa seed 0", seed=0),
        study_of([(3, 1)], name="low rank", seed=0, rank=4),
        study_of([(3, 1)], name="coa seed 1", seed=1),
    ]
    assert methods_of(studies) == (
        frames.Method("coa", (0, 2), (0, 1)),
        frames.Method("low rank", (1,), (0,)),
    )


def test_study_without_settings_and_one_that_repeats_a_seed_stand_by_themselves():
    known = study_of([(3, 1)], name="known")
    studies = [known, replace(known, settings=None), replace(known, settings=None), known]
    methods = frames.group_methods(studies, ["a", "b", "c", "d"])
    assert [method.studies for method in methods] == [(0,), (1,), (2,), (3,)]
    assert [method.label for method in methods] == ["a", "b", "c", "d"]
    assert methods[1].seeds == (None,)


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["coa-seed0", "coa-seed1"], "coa"),
        (["coa seed 10", "coa seed 11"], "coa"),
        (["llama-3-a", "llama-3-b"], "llama-3"),
        (["rank16", "rank16"], "rank16"),
        (["seed0", "seed1"], "seed0"),
        (["pass", "pass2"], "pass"),
    ],
)
def test_method_is_called_what_its_studies_names_share(names, label):
    assert common_label(names) == label


@given(st.lists(st.sampled_from(["a", "a (2)", "a (3)", "b", ""]), max_size=8))
def test_labels_become_distinct_and_the_first_of_each_stays(labels):
    made = frames.distinct(labels)
    assert len(set(made)) == len(labels)
    for place, label in enumerate(labels):
        assert made[place].startswith(label)
        if label not in labels[:place]:
            assert made[place] == label


def test_settings_in_which_methods_differ_are_named_with_each_value():
    studies = [study_of([(3, 1)], name="a", rank=16), study_of([(3, 1)], name="b", seed=1)]
    methods = methods_of(studies)
    table = frames.setting_differences(studies, methods)
    assert table.to_dict("records") == [
        {"setting": "trainer.rank", "method": "a", "value": "16"},
        {"setting": "trainer.rank", "method": "b", "value": "not given"},
    ]


def test_losses_of_other_models_metrics_and_examples_are_not_comparable():
    one = study_of([(3, 1)])
    inputs = Inputs(data={"validation": ExamplesDigest(9, "f" * 64)})
    session = replace(one.record.sessions[-1], inputs=inputs)
    other = replace(with_metric(one.record, Metric("f1", "higher")), model="m", sessions=(session,))
    assert frames.incomparable([one, one]) == {}
    assert frames.incomparable([one, replace(one, record=other)]) == {
        "model": [one.record.model, "m"],
        "task metric": ["accuracy (higher is better)", "f1 (higher is better)"],
        "validation examples": [f"384 with SHA-256 {'d4' * 6}…", f"9 with SHA-256 {'f' * 12}…"],
    }


def test_examples_without_digests_are_told_apart_by_the_settings_of_the_task():
    one = study_of([(3, 1)])
    one = replace(one, record=replace(one.record, sessions=()))
    a, b = (replace(one, settings={**one.settings, "task": {"n": n}}) for n in (1, 2))
    assert frames.incomparable([a, b]) == {"settings of the task": ["n: 1", "n: 2"]}


def test_settings_with_keys_of_any_kind_are_compared():
    odd = {1: 2, "\ud800": "\ud800", None: [4], "b": {5: {6: 7}}, "empty": {}}
    assert flatten(odd) == {"1": "2", "?": "?", "None": "[4]", "b.5.6": "7", "empty": "{}"}
    a, b, c = (
        replace(study_of([(3, 1)], name=name), settings={"seed": seed, **odd, "x": x})
        for name, seed, x in (("s 0", 0, 1), ("s 1", 1, 1), ("other", 0, 2))
    )
    assert [method.studies for method in methods_of([a, b, c])] == [(0, 1), (2,)]
