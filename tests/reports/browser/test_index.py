"""What a reader does with the index of studies, by real clicks and keys in headless Chromium."""

from __future__ import annotations

import shlex
from urllib.parse import unquote

import pytest
from qsearch_reports.page.index import write_index
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from qsearch.storage.study_record import write_study
from tests.reports.accessibility import faults_in_any_appearance, violations
from tests.reports.realistic_studies import make_record
from tests.reports.report_page import Page

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp; \u202eשלום\u202c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Studies of two models, one of them hostile; one damaged, one without results."""
    root = tmp_path_factory.mktemp("runs")
    for place, name, quality, model in (
        ("b it's", "beta 10", 1.0, "small/model"),
        ("a", "beta 9", 2.0, "small/model"),
        ("deep/c#%", HOSTILE, 1.5, HOSTILE),
    ):
        record = make_record(
            name=name, model=model, quality=quality, rounds=1, trials_per_round=8, failed=0
        )
        (root / place).mkdir(parents=True)
        write_study(root / place, record)
    (root / "deep" / "c#%" / "report.html").write_text("<title>the report</title>")
    for name in ("damaged", "new"):
        (root / name / "state").mkdir(parents=True)
        (root / name / "study.yaml").write_text("name: x\n")
    (root / "damaged" / "state" / "study.json").write_text("{")
    write_index(root, root / "index.html")
    return root


@pytest.fixture
def page(browser, folder):
    return Page(browser, folder / "index.html")


def by_id(page, name):
    return page.driver.find_element(By.ID, name)


def names(page):
    """Names of the studies that are shown, from top to bottom."""
    rows = page.driver.find_elements(By.CSS_SELECTOR, ".studies tbody tr:not([hidden]) th")
    return [row.find_element(By.CSS_SELECTOR, "[dir]").get_property("textContent") for row in rows]


def heading(page, key):
    return page.driver.find_element(By.CSS_SELECTOR, f'[data-sort="{key}"]')


def tick(page, name):
    rows = page.driver.find_elements(By.CSS_SELECTOR, ".studies tbody tr")
    found = next(row for row in rows if name in row.get_property("textContent"))
    found.find_element(By.TAG_NAME, "input").click()


def test_headings_sort_by_click_and_by_key(page):
    heading(page, "loss").click()
    assert names(page) == ["beta 10", HOSTILE, "beta 9", "damaged", "new"]
    sorted_by = page.driver.find_elements(By.CSS_SELECTOR, "[aria-sort]")
    assert [cell.get_attribute("aria-sort") for cell in sorted_by] == ["ascending"]
    heading(page, "loss").send_keys(Keys.ENTER)
    assert names(page) == ["beta 9", HOSTILE, "beta 10", "damaged", "new"]
    assert sorted_by[0].get_attribute("aria-sort") == "descending"
    assert page.errors() == []
    assert page.requests() == []


def test_search_and_filters_narrow_the_table_as_one_types(page):
    count = by_id(page, "count")
    assert count.get_attribute("aria-live") == "polite"
    assert count.text == "5 studies"
    search = by_id(page, "search")
    search.send_keys("beta")
    assert count.text == "2 of 5 studies"
    search.send_keys(" nowhere")
    assert by_id(page, "none").is_displayed()
    by_id(page, "reset-none").click()
    assert count.text == "5 studies"
    assert page.driver.switch_to.active_element == search
    model = Select(page.driver.find_element(By.CSS_SELECTOR, "[data-filter=model]"))
    model.select_by_visible_text(HOSTILE)
    assert names(page) == [HOSTILE]
    by_id(page, "reset").click()
    assert len(names(page)) == 5
    assert page.driver.find_elements(By.CSS_SELECTOR, "[data-filter=task]") == []


def test_chosen_studies_make_a_command_to_copy(page, folder):
    command = by_id(page, "command")
    assert not command.is_displayed()
    assert len(page.driver.find_elements(By.CSS_SELECTOR, ".studies tbody input:disabled")) == 2
    tick(page, "beta 10")
    tick(page, HOSTILE[:20])
    chosen = [folder / "b it's", folder / "deep" / "c#%"]
    assert command.text == shlex.join(["qsearch", "report", *map(str, chosen)])
    assert by_id(page, "chosen").text == "2 studies chosen."
    heading(page, "model").send_keys(Keys.ENTER)
    assert shlex.split(command.text)[2:] == [str(path) for path in chosen[::-1]]
    by_id(page, "search").send_keys("beta")
    assert by_id(page, "chosen").text == "2 studies chosen, 1 of them not shown."
    every = by_id(page, "choose-all")
    assert every.get_property("indeterminate")
    every.send_keys(Keys.SPACE)
    assert by_id(page, "chosen").text.startswith("3 studies chosen")
    every.send_keys(Keys.SPACE)
    assert by_id(page, "chosen").text.startswith("1 study chosen")


def test_hostile_names_are_text_and_a_name_leads_to_the_report(page, folder):
    assert HOSTILE in names(page)
    assert page.driver.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
    text = page.driver.find_element(By.TAG_NAME, "main").text
    assert "no results yet" in text
    assert "study.json: damaged" in text
    page.driver.find_element(By.PARTIAL_LINK_TEXT, "onerror").click()
    page.wait(lambda: page.driver.title == "the report")
    assert unquote(page.driver.current_url).endswith(f"{folder.name}/deep/c#%/report.html")


def test_index_has_no_fault_that_axe_core_knows(page):
    tick(page, "beta 10")
    assert faults_in_any_appearance(page) == {}
    wide = "return document.documentElement.scrollWidth - innerWidth"
    assert page.driver.execute_script(wide) <= 0
    # A fault is found, also under the page's policy, which allows no such script.
    nameless = "document.querySelector('main').append(document.createElement('button'))"
    page.driver.execute_script(nameless)
    assert [rule for rule, *_ in violations(page.driver)] == ["button-name"]
