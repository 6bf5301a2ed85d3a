"""Every figure of one study says something, whatever the study, and shows names as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from qsearch_reports import figures, frames
from qsearch_reports.results import StudyResults

from qsearch.plugins.evaluation import Metric
from qsearch.space.configuration import Choices, Configuration, Knob
from qsearch.space.layers import LayerSpec
from tests.reports.realistic_studies import (
    INTEGER,
    OF_TRAINING,
    make_record,
    make_results,
    objective_results,
    only_failures,
)
from tests.reports.study_log import log_events

HOSTILE = "<script>alert(1)</script>\"'&{y} %{x}<b>\u202eשלום\u202c" + "long " * 60
ONE_LAYER = (LayerSpec("head", "query", 0, (8, 8)),)
SEVERAL_OF_A_ROLE = tuple(
    LayerSpec(f"{block}.expert.{expert}", "up", block, (8, 8))
    for block in range(2)
    for expert in range(3)
)


def figures_of(results):
    record = results.record
    points = frames.points_frame(record)
    latest = frames.latest_points(points)
    parallel = frames.parallel_frame(record)
    predictions = frames.predictions_frame(record)
    progress = frames.progress_frame(results)
    made = {
        "parallel": figures.parallel_figure(parallel, frames.parallel_axes(record, parallel)),
        "sensitivity": figures.sensitivity_figure(frames.sensitivity_frame(results)),
        "evaluations": figures.progress_figure(progress),
        "minutes": figures.progress_figure(progress, "minutes"),
        "predictions": figures.predictions_figure(predictions),
        "calibration": figures.calibration_figure(frames.calibration_frame(predictions)),
        "timeline": figures.timeline_figure(
            frames.timeline_frame(results), frames.phases_frame(results)
        ),
        "training": figures.training_figure(frames.training_frame(record)),
        "hypervolume": figures.hypervolume_figure(frames.hypervolume_frame(record)),
    }
    for value in ("loss", "metric") if record.metric else ("loss",):
        unit = frames.loss_unit(record)
        made[value] = figures.front_figure(
            latest, record.segment_edges, record.metric, value, unit=unit
        )
    for knob in record.choices.knobs:
        frame = frames.marginals_frame(record, knob.name)
        made[f"marginals {knob.name}"] = figures.marginals_figure(frame, knob)
        if len(record.trials) > 1:
            texts = record.trials["configuration"]
            configuration = Configuration.from_json(texts.iloc[0])
            heatmap = frames.heatmap_frame(record.layers, configuration, knob.name)
            made[f"heatmap {knob.name}"] = figures.heatmap_figure(heatmap, knob)
    return made


def says_something(figure):
    return bool(figure.layout.title.text) and (
        any(len(trace.x) for trace in figure.data) or bool(figure.layout.annotations[0].text)
    )


def failed_study():
    some = make_results(rounds=2, trials_per_round=8)
    failed = only_failures(some.record)
    unfinished = replace(failed, rounds=(), reference_point=None)
    return replace(some, record=unfinished, events=log_events(failed))


def running_study():
    some = make_results(rounds=1, trials_per_round=8)
    return replace(some, record=replace(some.record, rounds=()))


STUDIES = {
    "no trials": lambda: make_results(rounds=0),
    "one trial": lambda: make_results(rounds=1, trials_per_round=1, failed=0),
    "all failed": failed_study,
    "a running first round": running_study,
    "one layer": lambda: make_results(rounds=1, trials_per_round=6, layers=ONE_LAYER),
    "several of a role": lambda: make_results(trials_per_round=6, layers=SEVERAL_OF_A_ROLE),
    "other knobs": lambda: make_results(rounds=2, trials_per_round=6, choices=INTEGER),
    "one value": lambda: make_results(
        rounds=1, trials_per_round=6, choices=Choices((Knob("bits", (4,)),))
    ),
    "an objective": objective_results,
    "an objective with a metric": lambda: objective_results(Metric("accuracy", "higher")),
    "the record alone": lambda: StudyResults(make_record(rounds=2, trials_per_round=8), "a"),
}


@pytest.mark.parametrize("kind", STUDIES)
def test_every_figure_says_something_of_every_study(kind):
    for name, figure in figures_of(STUDIES[kind]()).items():
        assert says_something(figure), name
        json.dumps(json.loads(figure.to_json()), allow_nan=False)


@pytest.mark.parametrize("metric", [None, Metric("accuracy", "higher")])
def test_figures_of_an_objective_show_neither_training_nor_what_it_lacks(metric):
    made = figures_of(objective_results(metric))
    del made["training"]
    parts = {"seen"}
    shown = {
        name: set(texts_of(json.loads(figure.to_json()))) - parts for name, figure in made.items()
    }
    assert not [text for texts in shown.values() for text in texts if OF_TRAINING.search(text)]
    assert made["loss"].layout.yaxis.title.text == "loss"
    assert {trace.name for trace in made["loss"].data} == {
        *("overall Pareto front", "on segment front", "dominated in its segment")
    }
    assert all(":.4~g}" in trace.hovertemplate for trace in made["loss"].data[1:])
    hovers = "".join(text for text in shown["loss"] if "<br>" in text)
    assert ("accuracy" in hovers) == (metric is not None)
    assert "±" not in hovers


def test_names_are_text_in_every_figure():
    layers = tuple(
        LayerSpec(f"{HOSTILE}.{role}.{block}", f"{HOSTILE}{role}", block, (8, 8))
        for block in range(2)
        for role in range(2)
    )
    choices = Choices((Knob(HOSTILE, (2, 3, 4)), Knob(f"{HOSTILE} 2", (f"{HOSTILE}a", "b"))))
    results = make_results(
        rounds=2,
        trials_per_round=6,
        layers=layers,
        choices=choices,
        metric=Metric(HOSTILE, "higher"),
        method=HOSTILE,
    )
    trials = results.record.trials
    trials = trials.assign(reason=trials["reason"].where(trials["status"] != "failed", HOSTILE))
    events = [
        {**line, "reason": HOSTILE} if line["event"] == "failed" else line
        for line in results.events
    ]
    results = replace(results, record=replace(results.record, trials=trials), events=events)
    for name, figure in figures_of(results).items():
        for text in texts_of(json.loads(figure.to_json())):
            assert not re.search(r"<(?!br>|extra>|/extra>)", text), name
            assert len(text) < 700, name
        for trace in figure.data:
            read = re.findall(r"%\{(.*?)\}", trace.hovertemplate or "")
            assert all(re.match(r"(x|y|z|text|customdata)\b(?!\} )", part) for part in read), name
            assert "{y}" not in re.sub(r"%\{.*?\}", "", trace.hovertemplate or ""), name


def texts_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("bdata", "template"):
                yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)
