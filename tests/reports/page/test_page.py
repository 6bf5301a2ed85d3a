"""What the page holds and what it must never hold."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
import zlib
from dataclasses import replace

import numpy as np
import plotly.offline
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports import summary_table, write_report
from qsearch_reports.figures import escape, front_figure, hypervolume_figure
from qsearch_reports.frames import hypervolume_frame, latest_points, points_frame, study_budgets
from qsearch_reports.names import distinct_names
from qsearch_reports.page.assets import bare_plotly, inline_script, packed_json
from qsearch_reports.page.page import render_page
from qsearch_reports.results import StudyResults
from rich.console import Console

from qsearch.errors import InputError
from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.evaluation import Metric
from qsearch.provenance.session import Machine, Session, Source
from tests.reports.realistic_studies import (
    OF_TRAINING,
    hostile_record,
    make_record,
    objective_results,
    only_failures,
)

SCRIPT = re.compile(r'<script type="module">(.*?)</script>', re.DOTALL)
DATA = re.compile(
    r'<script type="application/octet-stream" id="([a-z-]+)">(.*?)</script>', re.DOTALL
)


@pytest.fixture(scope="module")
def record():
    """A study of two rounds, all that these pages need."""
    return make_record(rounds=2, trials_per_round=20)


def page_of(records, directories):
    """The page of studies of which the results alone are known."""
    pairs = zip(records, directories, strict=True)
    return render_page([StudyResults(record, directory) for record, directory in pairs])


def embedded(page):
    """What the page holds packed, by the id of its element."""
    return {
        name: zlib.decompress(base64.b64decode(data)).decode() for name, data in DATA.findall(page)
    }


def text_of(page):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner)))
def test_packed_json_reads_back(value):
    text = zlib.decompress(base64.b64decode(packed_json(value))).decode()
    assert json.loads(text) == value


@given(st.text())
def test_plotly_text_reads_back_as_the_same_words(text):
    escaped = escape(text)
    assert not set(escaped) & set("<>")
    assert html.unescape(escaped) == html.unescape(html.escape(" ".join(text.split()), quote=False))


def test_figures_name_their_axes_with_units(record):
    points = points_frame(record)
    figure = front_figure(points, record.segment_edges, record.metric)
    assert figure.layout.xaxis.title.text == "average bits per quantized weight"
    assert figure.layout.yaxis.title.text == "loss (nats)"
    assert len(figure.layout.shapes) == len(record.segment_edges)
    figure = hypervolume_figure(hypervolume_frame(record))
    assert figure.layout.yaxis.title.text == "hypervolume (normalised)"


def test_every_point_is_drawn_once_by_seen_and_on_front(record):
    points = points_frame(record)
    figure = front_figure(points, record.segment_edges, record.metric)
    drawn = [
        details[0] for trace in figure.data if trace.customdata for details in trace.customdata
    ]
    assert sorted(drawn) == points.index.tolist()
    by_name = {trace.name: len(trace.x) for trace in figure.data if trace.customdata}
    assert by_name["unseen, on segment front"] == (~points["seen"] & points["on_front"]).sum()


@pytest.mark.parametrize("expected", [True, False])
def test_front_of_losses_is_drawn_where_configurations_are_chosen_by(expected):
    points = latest_points(points_frame(make_record(estimated=expected)))
    front = front_figure(points, (2.25, 7.25), Metric("accuracy", "higher")).data[0]
    losses = points["estimated_loss" if expected else "loss"]
    assert min(front.y) == losses.min()
    assert list(front.y) == sorted(front.y, reverse=True)
    assert front.name == (
        "overall Pareto front, estimated loss" if expected else "overall Pareto front"
    )


def test_page_runs_only_scripts_whose_hash_its_policy_lists(record):
    page = page_of([record], ["runs/a"])
    policy = html.unescape(re.search(r'Policy" content="([^"]*)"', page)[1])
    (own,) = SCRIPT.findall(page)
    for script in (own, embedded(page)["plotly"]):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


@pytest.mark.parametrize("text", ["a </script> b", "a <!-- b", "</SCRIPT >"])
def test_a_script_that_would_end_its_element_is_refused(text):
    with pytest.raises(ValueError, match="must hold neither"):
        inline_script(text)


def test_the_installed_plotly_is_bared_of_the_function_around_it():
    whole = plotly.offline.get_plotlyjs()
    bare = bare_plotly(whole)
    assert "factory" in whole[:1000]
    assert "factory" not in bare[:1000]
    licence = whole[: whole.index("*/") + 2]
    assert "MIT" in licence
    assert bare.startswith(licence)
    assert bare.endswith("window.Plotly = Plotly;")
    assert whole.count("*/") == bare.count("*/")


@pytest.mark.parametrize(
    "text", ["", "/* MIT */\nvar Plotly = {};", "(() => {\nreturn Plotly;\n}));"]
)
def test_a_plotly_that_is_wrapped_otherwise_stays_as_it_is(text):
    assert bare_plotly(text) == text


def test_page_escapes_every_name():
    """Two sessions that differ, with the hostile name wherever there may be one."""
    hostile = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>'
    small = hostile_record(hostile)
    layers = tuple(replace(layer, role=hostile + layer.role) for layer in small.layers)
    inputs = Inputs({hostile: hostile}, {hostile: ExamplesDigest(1, hostile, hostile)})
    machine = Machine(hostile, hostile, hostile, None, None, None, (hostile,), hostile)
    sources = {hostile: Source(hostile, hostile, changed=True)}
    first = Session(hostile, {hostile: hostile}, machine, sources, inputs)
    other = replace(
        small,
        layers=layers,
        sessions=(first, replace(first, versions={hostile: "2"}, machine=Machine(hostile + "2"))),
        trials=small.trials.assign(method=hostile),
    )
    same = hostile_record("plain")
    plain = page_of([same, same], ["a", "b"])
    page = page_of([other, same], [hostile, "b"])
    assert html.escape(hostile, quote=False).replace('"', "&#34;") in page
    for tag in ("<script", "<img"):
        assert page.count(tag) == plain.count(tag)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("empty", "No evaluation has finished yet. No round has finished. qsearch status 'a b'"),
        ("failed", "All 60 evaluations failed."),
        ("alone", "Within 1 % of the best loss at "),
        ("lossless", "; full precision 0.0000."),
    ],
)
def test_page_opens_with_what_there_is_to_say(record, kind, sentence):
    *before, last = record.rounds
    full = replace(last.full_precision, loss=0.0)
    shown = {
        "alone": replace(record, rounds=(*before, replace(last, full_precision=None))),
        "empty": make_record(rounds=0),
        "failed": only_failures(record),
        "lossless": replace(record, rounds=(*before, replace(last, full_precision=full))),
    }[kind]
    page = page_of([shown], ["a b"])
    assert sentence in text_of(page)
    assert "% above it" not in page
    assert ("loss is nan" in page) == (kind != "empty")


@pytest.mark.parametrize("metric", [None, Metric("accuracy", "higher")])
def test_page_of_an_objective_shows_neither_training_nor_what_it_lacks(metric):
    study = objective_results(metric)
    page = render_page([study])
    body = re.sub(r"<(script|style).*?</\1>", "", page.split("<main")[1], flags=re.DOTALL)
    body = body.split('data-part="origin"')[0]
    text = text_of(body)
    labels = " ".join(re.findall(r'aria-label="([^"]*)"', body))
    assert not OF_TRAINING.search(f"{text} {labels}")
    assert "all-MiniLM quantized with" not in text
    assert "quantized with normal-float ; the loss is that of a Python objective" in text
    assert ("metric" in f"{text} {labels}".lower()) == (metric is not None)
    (data,) = json.loads(embedded(page)["report-data"])["studies"]
    assert data["python"] == "qsearch.load_study('runs/quickstart')"
    assert data["metric"] == (metric and {"name": "accuracy", "better": "higher"})
    assert set(data["points"]["seen"]) == {None}
    assert "training" not in data["figures"]
    assert ("metric" in data["figures"]) == (metric is not None)


def test_numbers_that_are_not_known_are_shown_as_such(record):
    names = ("standard_error", "estimated_loss_std", "accuracy", "accuracy_standard_error")
    unknown = replace(
        record,
        trials=record.trials.assign(**dict.fromkeys(names, np.nan)),
        rounds=tuple(replace(entry, hypervolume=np.nan) for entry in record.rounds),
    )
    page = page_of([unknown], ["a"])
    assert "± nan" not in page.split('<dl class="tiles">')[1].split("</dl>")[0]
    (data,) = json.loads(embedded(page)["report-data"])["studies"]
    assert set(data["points"]["metric_standard_error"]) == {None}
    assert [drawn["hypervolume"] for drawn in data["drawn_rounds"]] == [None] * 2


def test_report_of_a_directory_whose_name_is_not_utf_8_is_written(study, record, tmp_path):
    directory = study(record).rename(tmp_path / os.fsdecode(b"o\xff"))
    out = write_report([directory], tmp_path / "report.html")
    assert "/o?" in embedded(out.read_text(encoding="utf-8"))["report-data"]


def test_report_of_no_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one study directory"):
        write_report([], tmp_path / "report.html")


def test_summary_table_shows_the_front_at_budgets_within_80_columns(record):
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(record))
    lines = console.file.getvalue().splitlines()
    row = next(line for line in lines if line.split()[:1] == ["3"])
    best = record.latest[record.latest["average_bits"] <= 3].sort_values("estimated_loss").iloc[0]
    assert row.split() == [
        *("3", str(best["trial"]), f"{best['average_bits']:.4f}", f"{best['bytes'] / 1e6:.1f}"),
        *(f"{best['loss']:.4f}", "±", f"{best['standard_error']:.4f}"),
        f"{best['estimated_loss']:.4f}",
        *(f"{best['accuracy']:.4f}", "±", f"{best['accuracy_standard_error']:.4f}"),
        "seen" if best["seen"] else "unseen",
    ]
    assert len([line for line in lines if line.strip()]) == 3 + len(study_budgets(record))


def test_labels_of_studies_are_distinct_text_whatever_their_directories(record):
    names = distinct_names(
        [StudyResults(record, d) for d in ("runs/\udcff", "runs/\udcff", "runs/b")]
    )
    assert len(set(names)) == 3
    assert all(name.encode() for name in names)


def test_page_says_how_the_study_was_made(record):
    (first,) = record.sessions
    machine = replace(first.machine, threads=2, accelerators=())
    second = replace(first, start="2026-11-28T10:00:00+00:00", machine=machine)
    page = page_of([replace(record, sessions=(first, second))], ["a"])
    text = text_of(page.split('data-part="origin">')[1].split("</details>")[0])
    for said in (
        "torch 2.13.0",
        "processor AMD EPYC",
        "PyTorch's threads 2",
        "accelerators none",
        "memory 128 GiB",
        "c5da440ff468a4b7, branch main, with changes that are not committed",
        f"model model.safetensors {first.inputs.model['model.safetensors']}",
        f"train 8,400 examples {first.inputs.data['train'].sha256}",
        f"train its file {first.inputs.data['train'].file_sha256}",
        "2026-11-27 09:00:00 AMD EPYC, NVIDIA H100 8 –",
        "2026-11-28 10:00:00 AMD EPYC 2 threads: 8 → 2 accelerators: NVIDIA H100 → none",
    ):
        assert said in text
    assert "validation its file" not in text
