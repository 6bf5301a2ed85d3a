"""What somebody sees who leaves the live page open while a study runs, in headless Chromium."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qsearch_reports.page.page import render_page
from qsearch_reports.serving import make_server
from selenium.webdriver.common.by import By

from qsearch.monitoring.events import Event, EventKind, event_log
from qsearch.monitoring.tracker import status_keeper
from qsearch.spec.search_spec import SearchSpec
from qsearch.storage.lock import study_lock
from qsearch.storage.study_record import write_study
from tests.reports.realistic_studies import make_record, objective_results
from tests.reports.report_page import Page

pytestmark = pytest.mark.browser

CLOCK = """
if (window === top) {
  const {now} = Date, start = now(), later = setTimeout;
  Date.now = () => PACE * (now() - start);
  window.setTimeout = (call, wait, ...given) => later(call, wait / 20, ...given);
}
"""
"""Lets the live page ask twenty times as often, and its patience with a report end by a pace."""

HOSTILE = "<img src=x onerror=alert(1)>"

Tell = Callable[..., None]


@pytest.fixture
def tell(tmp_path: Path) -> Tell:
    """Records events of a study as a run does, each with its status."""
    directory = tmp_path / "study"
    (directory / "state").mkdir(parents=True)
    clock = itertools.count(time.time() - 1000, 2).__next__
    log, status = event_log(directory / "log.jsonl"), status_keeper(directory, SearchSpec(), clock)

    def record(*events: Event) -> None:
        for event in events:
            log(event)
            status(event)

    return record


@pytest.fixture
def directory(tmp_path: Path, tell: Tell) -> Iterator[Path]:
    """A study that this process runs, and that has evaluated two configurations."""
    directory = tmp_path / "study"
    tell(
        Event(EventKind.STARTED, 1, {"rounds": 2}),
        Event(EventKind.ROUND_STARTED, 1, {"training_set": 8}),
        Event(EventKind.EVALUATING_THE_SET, 1, {"total": 8}),
        *(evaluated(trial) for trial in range(2)),
    )
    with study_lock(directory):
        yield directory


@pytest.fixture
def url(directory: Path) -> Iterator[str]:
    with make_server(directory, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def evaluated(trial: int) -> Event:
    return Event(EventKind.EVALUATED, 1, {"trial": trial, "average_bits": 3.0, "loss": 0.5})


class Live(Page):
    """The open page."""

    def __init__(self, driver, url: str, pace: int = 0) -> None:
        self.driver = driver
        clock = {"source": CLOCK.replace("PACE", str(pace))}
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", clock)
        driver.get_log("performance")
        driver.get(url)

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).get_property("textContent")

    def report(self, script: str):
        """Run a script in the report that is shown."""
        frame = 'document.querySelector("iframe:not(.coming)")?.contentWindow'
        return self.driver.execute_script(f"const report = {frame}; return report && {script};")


def test_the_page_of_an_objective_counts_no_rounds(browser, directory: Path, url: str) -> None:
    page = Live(browser, url)
    page.wait(lambda: page.text("counts") == "0 rounds finished, 2 evaluations")
    study = objective_results()
    write_study(directory, study.record)
    page.wait(lambda: page.text("counts") == f"{len(study.record.latest)} evaluations")
    assert page.text("phase") == "evaluating"


def test_the_page_follows_a_study_from_nothing_to_its_report_and_its_end(
    browser, directory: Path, url: str, tell: Tell
) -> None:
    page = Live(browser, url)
    page.wait(lambda: "2/8" in page.text("phase"))
    assert "2 evaluations" in page.text("counts")
    assert not page.driver.find_element(By.ID, "failures").is_displayed()
    assert page.driver.find_element(By.ID, "empty").is_displayed()
    assert page.driver.find_elements(By.TAG_NAME, "iframe") == []

    tell(evaluated(2), Event(EventKind.FAILED, 1, {"trial": 3, "reason": HOSTILE}))
    page.wait(lambda: "4/8" in page.text("phase"))
    assert "3 evaluations" in page.text("counts")
    assert page.text("failures").split() == ["1", "failed", "1", "×", *HOSTILE.split()]

    write_study(directory, make_record(name=HOSTILE, rounds=1))
    rows = 'report.document.querySelectorAll("tbody tr[data-row]").length'
    page.wait(lambda: page.report(rows))
    assert page.text("name") == HOSTILE
    assert not page.driver.find_element(By.ID, "empty").is_displayed()

    tell(Event(EventKind.FINISHED, 1, {"reason": "enough"}))
    (directory / "state" / "lock").unlink()
    page.wait(lambda: page.text("phase") == "finished: enough")
    assert page.text("left") == ""
    assert not page.driver.find_element(By.ID, "bar").is_displayed()
    assert page.errors() == []


def test_new_results_are_shown_without_a_reload_where_the_reader_was_and_as_it_was_set(
    browser, directory: Path, url: str
) -> None:
    write_study(directory, make_record(rounds=1))
    page = Live(browser, url)
    rounds = 'report.document.body.textContent.includes("round 2")'
    page.wait(lambda: page.report("report.document.documentElement.dataset.ready"))
    page.driver.execute_script("window.mine = true")
    settings = """(() => {
      const part = (name) => report.document.querySelector(`[data-part="${name}"]`);
      const sorted = report.document.querySelector("th[aria-sort]");
      const trials = report.kept()[0];
      return [part("slider").value, part("rounds").value, part("front-only").checked,
        part("origin").open, part("knobs").querySelector("input:checked").value,
        sorted.querySelector("button").dataset.sort, sorted.getAttribute("aria-sort"),
        trials.pinned, trials.selected];
    })()"""
    assert page.report(settings)[1:4] == ["latest", False, False]
    page.report("""(() => {
      const part = (name) => report.document.querySelector(`[data-part="${name}"]`);
      const change = (node, event) => node.dispatchEvent(new Event(event));
      part("slider").value = part("slider").max; change(part("slider"), "input");
      part("rounds").value = "all"; change(part("rounds"), "change");
      part("front-only").checked = true; change(part("front-only"), "change");
      part("origin").open = true;
      part("knobs").querySelector("input:not(:checked)").click();
      part("pin").click();
      report.document.querySelectorAll("tbody .select input")[2].click();
      for (const _ of "12") report.document.querySelector('[data-sort="loss"]').click();
    })()""")
    before = page.report(settings)
    assert before[1:4] == ["all", True, True]
    assert before[5:7] == ["loss", "descending"]
    assert len(before[8]) == 1
    page.report("(report.scrollTo(0, 600), true)")
    assert page.report("report.scrollY") == 600
    assert not page.report(rounds)

    first = page.driver.execute_script("return document.documentElement.dataset.version")
    write_study(directory, make_record(rounds=2))
    changed = "return document.documentElement.dataset.version"
    page.wait(lambda: page.driver.execute_script(changed) != first)
    assert page.report(rounds)
    page.wait(lambda: page.report(settings) == before)
    # What is drawn above the reader may still move what the reader sees.
    assert abs(page.report("report.scrollY") - 600) < 200
    assert page.driver.execute_script("return window.mine")
    page.wait(lambda: len(page.driver.find_elements(By.TAG_NAME, "iframe")) == 1)
    assert page.errors() == []
    assert [request for request in page.requests() if not request.startswith(url)] == []


def test_a_report_that_does_not_get_drawn_in_time_is_shown_and_not_loaded_again(
    browser, directory: Path, url: str, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_ready(*arguments: object) -> str:
        # Its policy refuses a script that was changed.
        return render_page(*arguments).replace("dataset.ready", "dataset.never")

    monkeypatch.setattr("qsearch_reports.serving.render_page", never_ready)
    write_study(directory, make_record(rounds=1))
    page = Live(browser, url, pace=20)
    page.wait(lambda: page.report("(report.mark = 1)"))
    tell(evaluated(2), evaluated(3))
    page.wait(lambda: "4/8" in page.text("phase"))
    assert page.report("report.mark") == 1
    assert len(page.driver.find_elements(By.TAG_NAME, "iframe")) == 1
