"""A folder of studies: what is found there, and what the page says of each."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.page.index import (
    find_studies,
    index_row,
    render_index,
    sparkline,
    write_index,
)
from typer.testing import CliRunner

from qsearch._text import with_error
from qsearch.cli import main as cli
from qsearch.errors import InputError
from qsearch.storage.lock import study_lock
from qsearch.storage.study_record import write_study
from tests.reports.realistic_studies import make_record, objective_results, only_failures

POINTS = st.lists(st.tuples(st.floats(2, 9), st.floats(-5, 5)), min_size=1, max_size=90)


@pytest.fixture(scope="module")
def small():
    return make_record(rounds=2, trials_per_round=6)


@pytest.fixture
def put(tmp_path, small):
    """Write a study into a folder of the test's folder."""

    def write(place, record=small):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        write_study(tmp_path / place, record)
        return tmp_path / place

    return write


def listed(folder, note=lambda text: None):
    return [os.path.relpath(path, folder) for path in find_studies(folder, note)]


def plain(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_studies_are_found_at_any_depth_and_not_inside_each_other(put, tmp_path):
    for place in ("b", "a/deep/er", "b/inside", ".hidden/c"):
        put(place)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "study.yaml").write_text("name: new\n")
    (tmp_path / "notes").mkdir()
    assert listed(tmp_path) == ["a/deep/er", "b", "new"]
    assert listed(tmp_path / "b") == ["."]


def test_links_to_studies_are_followed_and_those_to_other_folders_are_not(put, tmp_path):
    put("elsewhere/c")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "study").symlink_to(tmp_path / "elsewhere" / "c")
    (folder / "loop").symlink_to(folder)
    (folder / "other").symlink_to(tmp_path / "elsewhere")
    assert listed(folder) == ["study"]


def test_folder_that_cannot_be_looked_into_is_told_of(put, tmp_path, monkeypatch):
    put("a")
    (tmp_path / "shut").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    told = []
    assert listed(tmp_path, told.append) == ["a"]
    assert "shut" in told[0]


def test_row_tells_what_the_report_does(put, tmp_path, small):
    directory = put("runs/a")
    row = index_row(directory, tmp_path, tmp_path / "index.html")
    latest = small.latest
    assert (row.name, row.place, row.directory) == ("quickstart", "runs/a", str(directory))
    assert (row.rounds, row.evaluations, row.failed) == (2, 16, 2)
    assert row.loss == latest["estimated_loss"].min()
    assert row.hypervolume == small.rounds[-1].hypervolume
    assert row.minutes == pytest.approx((34.0 * 2 + 1.9 * 18 + 5.2 * 2) / 60)
    assert row.front[0].tolist() == sorted(row.front[0])
    assert row.front[1, -1] == row.loss
    assert (row.link, row.problem, row.running) == (None, "", "")
    assert row.time == datetime.fromtimestamp(
        (directory / "state" / "study.json").stat().st_mtime, UTC
    ).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize("place", ["javascript:alert(1)", "ü#?%20", "<b>'\" ", "-x"])
def test_link_leads_from_the_page_to_the_report_whatever_the_directory_is_called(
    place, put, tmp_path
):
    directory = put(place)
    (directory / "report.html").touch()
    page = tmp_path / "pages" / "index.html"
    link = index_row(directory, tmp_path, page).link
    parts = urlsplit(link)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
    page.parent.mkdir()
    assert (page.parent / unquote(parts.path)).samefile(directory / "report.html")


def test_running_study_is_named_as_such(put, tmp_path):
    directory = put("a")
    with study_lock(directory):
        row = index_row(directory, tmp_path, tmp_path / "index.html")
        assert row.running.startswith(f"process {os.getpid()} on ")
        assert re.search(r"yes\s+process \d+ on", plain(render_index([row], "runs")))


@pytest.mark.parametrize("kind", ["no trials", "all failed", "one trial"])
def test_any_study_has_a_row(kind, put, tmp_path, small):
    record = {
        "no trials": lambda: make_record(rounds=0),
        "all failed": lambda: only_failures(small),
        "one trial": lambda: make_record(rounds=1, trials_per_round=1, failed=0),
    }[kind]()
    row = index_row(put("a", record), tmp_path, tmp_path / "index.html")
    html = render_index([row], "runs")
    assert (row.loss is None) == (kind != "one trial")
    assert ("<svg" in html) == (kind == "one trial")


@given(POINTS)
def test_sparkline_stays_in_its_box_and_never_rises(points):
    bits = np.sort([bits for bits, _ in points])
    losses = np.sort([loss for _, loss in points])[::-1]
    path, words = sparkline(np.array([bits, losses]), (2.0, 9.0))
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    down = [numbers[1], *(float(number) for number in re.findall(r"V(-?[\d.]+)", path))]
    across = [numbers[0], *(float(number) for number in re.findall(r"H(-?[\d.]+)", path))]
    assert down == sorted(down)
    assert across == sorted(across)
    assert min(down) >= 0
    assert max(down) <= 26
    assert min(across) >= 0
    assert max(across) <= 96
    assert len(down) <= 40
    assert words.startswith(f"Pareto front: loss {with_error(losses[0])} at {bits[0]:.2f} average")


def test_an_objective_has_no_rounds_and_a_small_loss(put, tmp_path):
    directory = put("a", objective_results().record)
    row = index_row(directory, tmp_path, tmp_path / "index.html")
    html = render_index([row], "runs")
    assert (row.task, row.trainer, row.rounds) == ("objective", "", None)
    assert ">None<" not in html
    assert f">{row.loss:.4g}<" in html


def test_command_writes_the_page_and_refuses_what_is_no_folder(put, tmp_path):
    put("a")
    done = CliRunner().invoke(cli.app, ["index", str(tmp_path)])
    assert done.stdout == f"index: {tmp_path / 'index.html'}\n"
    assert "1 study" in plain((tmp_path / "index.html").read_text(encoding="utf-8"))
    out = tmp_path / "pages" / "all.html"
    CliRunner().invoke(cli.app, ["index", str(tmp_path), "--out", str(out)])
    assert out.is_file()
    refused = CliRunner().invoke(cli.app, ["index", str(tmp_path / "none")])
    assert isinstance(refused.exception, InputError)
    assert "there is no such folder" in str(refused.exception)
    with pytest.raises(InputError, match="cannot be written"):
        write_index(tmp_path, tmp_path / "index.html" / "index.html")


def test_what_is_not_known_or_no_number_is_not_shown(put, tmp_path):
    record = make_record(rounds=1, trials_per_round=4, failed=0)
    trials = record.trials.assign(estimated_loss=math.nan, loss=math.inf)
    rounds = tuple(replace(entry, train_seconds=math.nan) for entry in record.rounds)
    directory = put("a", replace(record, trials=trials, rounds=rounds))
    row = replace(index_row(directory, tmp_path, tmp_path / "index.html"), changed=1e13)
    assert (row.loss, row.minutes, row.time) == (None, None, "")
    assert not re.search("Infinity|NaN", render_index([row], "runs").split("index-data")[1])


def test_page_of_no_studies_says_how_to_make_one(tmp_path):
    html = write_index(tmp_path, tmp_path / "index.html").read_text(encoding="utf-8")
    assert "No studies here yet" in html
    assert "<table" not in html
