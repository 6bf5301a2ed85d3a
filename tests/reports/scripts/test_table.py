"""Columns of the table of evaluations, and the order of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reports.page_scripts import Scope

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def table(script: Callable[..., Scope]) -> Scope:
    return script("study.js")


def columns(table: Scope, expected: list[float | None]) -> list[list[Any]]:
    study = {"metric": {"name": "perplexity"}, "points": {"estimated_loss": expected}}
    found: list[list[Any]] = table.evaluate(
        "tableColumns(study).map(({key, heading}) => [key, heading])", study=study
    )
    return found


def test_estimated_losses_have_columns_if_any_is_known(table: Scope) -> None:
    all_columns, fewer = columns(table, [None, 0.3]), columns(table, [None, None])
    keys = ["estimated_loss", "estimated_loss_std"]
    assert [column for column in all_columns if column[0] not in keys] == fewer
    assert len(all_columns) == len(fewer) + 2
    assert ["metric", "perplexity"] in fewer


def test_cells_are_written_by_their_kind_and_a_dash_where_nothing_is_known(table: Scope) -> None:
    given = {
        "trial": 7,
        "average_bits": 3.25,
        "loss": 0.29164,
        "standard_error": None,
        "seen": False,
        "on_front": True,
        "method": "<b>",
        "seconds": 1.999,
    }
    found = table.evaluate(
        "{const columns = tableColumns({metric: {name: ''}, points: {estimated_loss: []}});"
        " return Object.entries(given).map(([key, value]) =>"
        " columns.find((column) => column.key === key).text(value))}",
        given=given,
    )
    assert found == ["7", "3.2500", "0.2916", "–", "unseen", "yes", "<b>", "2.00"]


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ([3, None, 1, 20], [1, 3, 20, None]),
        ([True, False, True], [False, True, True]),
        (["search", "Ax", "warm start"], ["Ax", "search", "warm start"]),
        ([0.0, None, -1.5], [-1.5, 0.0, None]),
    ],
)
def test_values_are_in_their_own_order_and_missing_ones_last(
    table: Scope, values: list[Any], ordered: list[Any]
) -> None:
    assert table.evaluate("values.sort(compareValues)", values=values) == ordered
