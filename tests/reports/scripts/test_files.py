"""Files that the page writes: their names, and CSV and YAML that other programs read."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.scripts.script_scope import QUICK, Scope

pytestmark = pytest.mark.browser

HOSTILE = [
    'a,b "c"',
    "line\r\nbreak",
    "a\rb",
    "",
    " 'x' # y: {z}",
    "\u2028\u0085\ufeff\x7f",
    "𝒳\u202eabc",
    "no",
]


NAMES = st.text(max_size=30) | st.text("-:{}[]#&*!|>'\"%@`?, \t\n\\", max_size=10)
VALUES = st.integers(-(2**53) + 1, 2**53 - 1) | NAMES
TABLES = st.lists(NAMES, min_size=2, max_size=5, unique=True).flatmap(
    lambda names: st.lists(
        st.fixed_dictionaries({name: VALUES | st.none() for name in names}), min_size=1, max_size=5
    )
)


def test_csv_is_read_back_whatever_its_cells_hold(scripts: Scope) -> None:
    records = [{"name": text, 'odd "name"': 1.5} for text in HOSTILE]
    text = scripts.evaluate("toCsv(records)", records=records)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["name"] for row in rows] == HOSTILE
    assert {row['odd "name"'] for row in rows} == {"1.5"}


def test_csv_has_missing_values_as_empty_cells_and_configurations_as_json(scripts: Scope) -> None:
    configuration = {"layer": {"bits": 3}}
    text = scripts.evaluate(
        "toCsv([record])", record={"loss": None, "configuration": configuration}
    )
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["loss"] == ""
    assert json.loads(row["configuration"]) == configuration


@QUICK
@given(configuration=st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=4))
def test_any_configuration_is_read_back_from_yaml(
    scripts: Scope, configuration: dict[str, dict[str, int | str]]
) -> None:
    text = scripts.evaluate("toYaml(given)", given=configuration)
    assert (yaml.safe_load(text) or {}) == configuration


@pytest.mark.parametrize("length", [500, 1022, 1023, 5000])
@pytest.mark.parametrize("letter", ["x", "\ufeff"])
def test_a_long_name_is_read_back_from_yaml_too(scripts: Scope, length: int, letter: str) -> None:
    configuration = {letter * length: {letter * length: 2, "bits": letter * length}}
    text = scripts.evaluate("toYaml(given)", given=configuration)
    assert yaml.safe_load(text) == configuration


def test_a_configuration_as_csv_has_one_row_for_each_layer(scripts: Scope) -> None:
    configuration = {"first": {"bits": 2, "scale": "row"}, "second": {"bits": 8, "scale": "tensor"}}
    text = scripts.evaluate("CONFIGURATION_FILES.csv[1](given)", given=configuration)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows == [
        {"layer": "first", "bits": "2", "scale": "row"},
        {"layer": "second", "bits": "8", "scale": "tensor"},
    ]


@QUICK
@given(name=st.text(max_size=150))
def test_any_name_becomes_one_that_file_systems_take(scripts: Scope, name: str) -> None:
    found = scripts.evaluate("fileName(name)", name=name)
    assert len(found) <= 100
    assert all(sign.isalnum() or sign in "._-" or sign.isnumeric() for sign in found)
    assert (found == "") == (name == "")
