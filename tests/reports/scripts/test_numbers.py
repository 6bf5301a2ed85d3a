"""How the page writes numbers."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qsearch._sizes import readable_size
from tests.reports.scripts.script_scope import QUICK, Scope

pytestmark = pytest.mark.browser

FIGURES = st.floats(-1e6, 1e6)
UNITS = ((10**9, 1), (10**6, 1), (10**3, 1))


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.29164, 0.00121, "0.2916 ± 0.0012"),
        (-9.5, 0.25, "-9.5000 ± 0.2500"),
        (10, 0.256, "10.00 ± 0.26"),
        (999.4, 3, "999.40 ± 3.00"),
        (1000, 3, "1000 ± 3"),
        (12345.6, 78.9, "12346 ± 79"),
        (0.5, None, "0.5000"),
        (0, 0, "0.0000"),
        (0.00063663, 0.000012, "0.0006366 ± 0.0000120"),
        (-0.0000398255, 0, "-0.00003983"),
        (None, None, "–"),
        (None, 0.1, "–"),
    ],
)
def test_a_figure_and_its_error_have_decimals_after_the_figures_size(
    scripts: Scope, value: float | None, error: float | None, shown: str
) -> None:
    assert scripts.evaluate("withError(value, error)", value=value, error=error) == shown


@QUICK
@given(values=st.lists(FIGURES, min_size=10), places=st.integers(0, 6))
def test_a_difference_has_a_sign_unless_it_is_shown_as_zero(
    scripts: Scope, values: list[float], places: int
) -> None:
    shown = scripts.evaluate(
        "values.map((value) => signed(value, places))", values=values, places=places
    )
    for value, text in zip(values, shown, strict=True):
        read = float(text.replace("−", "-"))
        assert abs(read - value) <= 0.5 * 10.0**-places * (1 + 1e-9)
        assert text[0] == ("+" if read > 0 else "−" if read < 0 else "0")


@QUICK
@example(sizes=[0, 1, 999, 1000, 999_999, 10**6, 10**9 - 1, 10**9])
@given(sizes=st.lists(st.integers(0, 10**13) | st.floats(0, 1e5), min_size=20))
def test_sizes_read_as_the_command_line_writes_them(scripts: Scope, sizes: list[float]) -> None:
    found = scripts.evaluate("sizes.map(readableSize)", sizes=sizes)
    for size, text in zip(sizes, found, strict=True):
        unit, places = next((each for each in UNITS if size >= each[0]), (1, 0))
        # Just between two figures, Python takes the even one and JavaScript the greater.
        if Decimal(size / unit) * 10**places % 1 != Decimal("0.5"):
            assert text == readable_size(size)
