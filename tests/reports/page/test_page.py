"""What the page holds and what it must never hold."""

from __future__ import annotations

import base64
import hashlib
import html
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
from qsearch_reports.figures import (
    escape,
    front_figure,
    hypervolume_figure,
    value_colours,
)
from qsearch_reports.frames import (
    hypervolume_frame,
    latest_points,
    points_frame,
    study_budgets,
)
from qsearch_reports.names import distinct_names, shell_path
from qsearch_reports.page.assets import bare_plotly, inline_script, packed_json
from qsearch_reports.page.page import render_page
from qsearch_reports.page.payload import pack, study_payload
from qsearch_reports.results import StudyResults
from rich.console import Console

from qsearch.errors import InputError
from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.evaluation import Metric
from qsearch.provenance.session import Machine, Session, Source

SCRIPT = re.compile(r'<script type="module">(.*?)</script>', re.DOTALL)
DATA = re.compile(
    r'<script type="application/octet-stream" id="([a-z-]+)">(.*?)</script>', re.DOTALL
)


def page_of(records, directories):
    """The page of studies of which the results alone are known."""
    pairs = zip(records, directories, strict=True)
    return render_page([StudyResults(record, directory) for record, directory in pairs])


def embedded(page):
    """What the page holds packed, by the id of its element."""
    return {
        name: zlib.decompress(base64.b64decode(data)).decode() for name, data in DATA.findall(page)
    }


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
def test_front_of_losses_is_drawn_where_configurations_are_chosen_by(expected, make_record):
    points = latest_points(points_frame(make_record(estimated=expected)))
    front = front_figure(points, (2.25, 7.25), Metric("accuracy", "higher")).data[0]
    losses = points["estimated_loss" if expected else "loss"]
    assert min(front.y) == losses.min()
    assert list(front.y) == sorted(front.y, reverse=True)
    assert front.name == (
        "overall Pareto front, estimated loss" if expected else "overall Pareto front"
    )


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_knob_values_have_distinct_colours(count):
    assert len(set(value_colours(count))) == count


def test_packed_configurations_read_back():
    indices = np.array([[0, 431, 7], [70000, 1, 2]])
    packed = pack(indices, 70001)
    raw = zlib.decompress(base64.b64decode(packed["data"]))
    assert packed["width"] == 4
    assert np.frombuffer(raw, "<u4").reshape(2, 3).tolist() == indices.tolist()
    assert pack(indices[:1], 432)["width"] == 2


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


def hostile_sessions(text):
    """Two sessions that differ, with the text wherever there may be one."""
    inputs = Inputs({text: text}, {text: ExamplesDigest(1, text, text)})
    machine = Machine(text, text, text, None, None, None, (text,), text)
    sources = {text: Source(text, text, changed=True)}
    first = Session(text, {text: text}, machine, sources, inputs)
    return first, replace(first, versions={text: "2"}, machine=Machine(text + "2"))


def test_page_escapes_every_name(record, make_record):
    hostile = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>'
    layers = tuple(replace(layer, role=hostile + layer.role) for layer in record.layers)
    other = replace(
        record,
        name=hostile,
        model=hostile,
        task=hostile,
        quantizer=hostile,
        trainer=hostile,
        metric=Metric(hostile, "higher"),
        layers=layers,
        versions={hostile: hostile},
        sessions=hostile_sessions(hostile),
        trials=record.trials.assign(method=hostile).assign(
            reason=record.trials["reason"].where(record.trials["reason"] == "", hostile)
        ),
    )
    plain = page_of([record, record], ["a", "b"])
    page = page_of([other, record], [hostile, "b"])
    for tag in ("<script", "<img"):
        assert page.count(tag) == plain.count(tag)


def test_page_of_a_study_without_trials_says_what_to_do(make_record):
    page = page_of([make_record(rounds=0)], ["runs/a b"])
    assert "No evaluation has finished yet." in page
    assert "qsearch status 'runs/a b'" in html.unescape(page)


def test_page_of_a_study_whose_evaluations_all_failed_gives_reasons(record, only_failures):
    page = page_of([only_failures(record)], ["runs/a"])
    assert "All 300 evaluations failed." in page
    assert "loss is nan" in page


def test_missing_standard_errors_become_null(record):
    trials = record.trials.assign(metric_standard_error=float("nan"))
    data = study_payload(StudyResults(replace(record, trials=trials), "a"), "a")
    assert set(data["points"]["metric_standard_error"]) == {None}
    assert packed_json(data)


def test_report_is_written_where_asked(study, record, tmp_path):
    out = write_report([study(record)], tmp_path / "new" / "report.html")
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_report_of_a_directory_whose_name_is_not_utf_8_is_written(study, record, tmp_path):
    directory = study(record).rename(tmp_path / os.fsdecode(b"o\xff"))
    out = write_report([directory], tmp_path / "report.html")
    assert "/o?" in embedded(out.read_text(encoding="utf-8"))["report-data"]


def test_report_of_no_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one study directory"):
        write_report([], tmp_path / "report.html")


def test_report_over_a_folder_is_refused(study, record, tmp_path):
    directory = study(record)
    with pytest.raises(InputError, match="cannot be written"):
        write_report([directory], directory / "state")


@pytest.mark.parametrize(
    ("path", "quoted"),
    [("a b", "'a b'"), ("-rf", "./-rf"), ("$(x)", "'$(x)'"), ("runs/a", "runs/a")],
)
def test_directories_are_quoted_for_the_shell(path, quoted):
    assert shell_path(path) == quoted


def test_summary_table_shows_the_front_at_budgets_within_80_columns(record):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(summary_table(record))
    lines = console.export_text().splitlines()
    row = next(line for line in lines if line.split()[:1] == ["3"])
    best = record.latest[record.latest["average_bits"] <= 3].sort_values("estimated_loss").iloc[0]
    assert row.split() == [
        *("3", str(best["trial"]), f"{best['average_bits']:.4f}"),
        *(f"{best['loss']:.4f}", "±", f"{best['standard_error']:.4f}"),
        f"{best['estimated_loss']:.4f}",
        *(f"{best['metric']:.4f}", "±", f"{best['metric_standard_error']:.4f}"),
        "seen" if best["seen"] else "unseen",
    ]
    assert len([line for line in lines if line.strip()]) == 3 + len(study_budgets(record))


def origin_of(page):
    """The text of the section that says how the study was made."""
    section = re.search(r'data-part="origin">(.*?)</details>', page, re.DOTALL)[1]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", section)).split())


def test_page_says_how_the_study_was_made(record):
    text = origin_of(page_of([record], ["a"]))
    (session,) = record.sessions
    for said in (
        "torch 2.13.0",
        "processor AMD EPYC",
        "PyTorch's threads 8",
        "accelerators NVIDIA H100",
        "memory 128 GiB",
        "c5da440ff468a4b7, branch main, with changes that are not committed",
        f"model model.safetensors {session.inputs.model['model.safetensors']}",
        f"train 8,400 examples {session.inputs.data['train'].sha256}",
        f"train its file {session.inputs.data['train'].file_sha256}",
        f"validation 384 examples {session.inputs.data['validation'].sha256}",
        "2026-11-27 09:00:00",
    ):
        assert said in text
    assert "validation its file" not in text


def test_page_shows_each_session_and_what_changed(record):
    (first,) = record.sessions
    machine = replace(first.machine, threads=2, accelerators=())
    second = replace(first, start="2026-11-28T10:00:00+00:00", machine=machine)
    text = origin_of(page_of([replace(record, sessions=(first, second))], ["a"]))
    assert "2026-11-27 09:00:00 AMD EPYC, NVIDIA H100 8 –" in text
    assert (
        "2026-11-28 10:00:00 AMD EPYC 2 threads: 8 → 2 accelerators: NVIDIA H100 → none"
    ) in text


def test_page_of_a_study_of_an_earlier_version_shows_its_versions_alone(record):
    text = origin_of(page_of([replace(record, sessions=())], ["a"]))
    assert "torch 2.13.0" in text
    assert "ran with a version of qsearch that recorded nothing more" in text
    assert "Machine" not in text


def test_page_of_a_model_that_loses_nothing_without_quantization_names_no_excess(record):
    full = replace(record.rounds[-1].full_precision, loss=0.0)
    rounds = (*record.rounds[:-1], replace(record.rounds[-1], full_precision=full))
    page = render_page([StudyResults(replace(record, rounds=rounds), "runs/a")])
    answer = page.split('<p class="answer">')[1].split("</p>")[0]
    assert "No configuration is within 1 % of full precision" in answer
    assert "above it" not in answer


def test_page_shows_no_error_and_no_metric_that_is_not_known(record):
    unknown = dict.fromkeys(("standard_error", "estimated_loss_std", "metric"), np.nan)
    page = render_page([StudyResults(replace(record, trials=record.trials.assign(**unknown)), "a")])
    assert "nan" not in page.split('<dl class="tiles">')[1].split("</dl>")[0]


def test_labels_of_studies_are_distinct_text_whatever_their_directories(record):
    names = distinct_names(
        [StudyResults(record, d) for d in ("runs/\udcff", "runs/\udcff", "runs/b")]
    )
    assert len(set(names)) == 3
    assert all(name.encode() for name in names)


def test_page_of_a_study_whose_hypervolume_is_no_number_is_written(record):
    rounds = tuple(replace(entry, hypervolume=np.nan) for entry in record.rounds)
    payload = study_payload(StudyResults(replace(record, rounds=rounds), "a"), "a")
    assert [drawn["hypervolume"] for drawn in payload["drawn_rounds"]] == [None] * 4
    packed_json(payload)
