"""The kit for quantizers: a right one passes, and each check fails on one with a fault for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qsearch.space.configuration import Choices, Knob, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.testing import (
    Allowance,
    ConformanceError,
    QuantizerConformance,
    TrainerConformance,
    check_quantizer,
)
from qsearch.testing.quantizer.allowances import TOLERANCES
from qsearch.testing.samples import (
    draw_configurations,
    normal_weight,
    rank_correlation,
    relative_error,
    sample_layer_configurations,
)
from tests.engine.faults import Fault, assert_found
from tests.engine.faulty_quantizers import (
    FAULTS,
    NextToZeroIsNoZero,
    NoSmallSteps,
    ReturnsZeros,
    WholeGroupsOnly,
)
from tests.engine.rounding_quantizers import ForInputs, Rounding, made
from tests.engine.support import NORMAL_FLOAT

MAGNITUDES = "test_the_error_does_not_depend_on_the_weights_magnitude"


class TestRightQuantizer(QuantizerConformance):
    def make(self) -> Rounding:
        return made(Rounding)


class TestRightQuantizerForInputs(QuantizerConformance):
    def make(self) -> Rounding:
        return made(ForInputs)


class TestQuantizerWithAFloorAndAnAllowance(QuantizerConformance):
    allowances = (
        Allowance(MAGNITUDES, 2.0, "Steps are 5e-5 or more.", where={"bits": 8}),
        Allowance("test_zeros_stay_zeros", 1e-4, "Zero is no level."),
    )

    def make(self) -> Rounding:
        class Floor(NoSmallSteps, NextToZeroIsNoZero): ...

        return made(Floor)


def test_every_check_has_a_quantizer_that_fails_it() -> None:
    of_allowances = "test_allowances_are_for_layer_configurations_that_there_are"
    assert {check for check, _, _ in FAULTS} == set(QuantizerConformance.checks()) - {of_allowances}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2].__name__)
def test_a_quantizer_with_a_fault_fails_the_check_for_it(fault: Fault) -> None:
    check, _, plugin = fault
    if check == "test_it_works_on_a_gpu" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    with pytest.raises(ConformanceError) as caught:
        check_quantizer(made(plugin))
    assert_found(fault, caught.value.failures)


def test_a_quantizer_is_named_as_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [SimpleNamespace(name="other", target=f"{Rounding.__module__}:Rounding")]
    monkeypatch.setattr("qsearch.testing.quantizer.kit.installed_plugins", lambda group: found)
    with pytest.raises(ConformanceError, match=r"expected that of \['other'\], found 'rounding'"):
        check_quantizer(made(Rounding))


def test_one_call_checks_all_and_names_each_failed_check() -> None:
    check_quantizer(made(Rounding))
    with pytest.raises(AssertionError) as caught:
        check_quantizer(made(ReturnsZeros))
    failed = [
        "test_rows_alone_are_those_of_the_whole_weight",
        "test_the_relative_error_is_below_one",
        "test_more_bits_give_less_error",
        "test_the_error_falls_as_storage_bits_grow",
    ]
    count = len(QuantizerConformance.checks())
    first, *lines = str(caught.value).splitlines()
    assert first == f"quantizer 'rounding' fails 4 of {count} checks"
    assert [line.split(":")[0].strip() for line in lines] == failed


def test_a_quantizer_that_raises_fails_the_check_and_no_other_is_left_out() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_quantizer(made(WholeGroupsOnly))
    failures = caught.value.failures
    assert (
        "raised RuntimeError"
        in failures["test_weights_of_any_shape_come_back_as_float32_of_that_shape"]
    )
    assert "test_more_bits_give_less_error" not in failures


def test_an_allowance_is_for_its_check_and_layer_configurations_alone() -> None:
    floor = made(NoSmallSteps)
    check_quantizer(floor, allowances=[Allowance(MAGNITUDES, 2.0, "Steps are 5e-5 or more.")])
    for other in (
        Allowance(MAGNITUDES, 2.0, "Of another number of bits.", where={"bits": 4}),
        Allowance(MAGNITUDES, 0.5, "Not enough."),
        Allowance("test_zeros_stay_zeros", 2.0, "Of another check."),
    ):
        with pytest.raises(ConformanceError) as caught:
            check_quantizer(floor, allowances=[other])
        assert set(caught.value.failures) == {MAGNITUDES}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("test_more_bits_give_less_error", 2.0, "No."), "check: expected one of"),
        ((MAGNITUDES, TOLERANCES[MAGNITUDES], "No."), "expected more than the kit's own, 0.25,"),
        ((MAGNITUDES, float("inf"), "No."), "finite, found inf"),
        ((MAGNITUDES, 2.0, " "), "reason of .*: expected text, found ' '"),
    ],
)
def test_an_allowance_that_says_nothing_is_refused(
    arguments: tuple[str, float, str], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Allowance(*arguments)


@pytest.mark.parametrize("where", [{"planes": 3}, {"bits": 3}, {"bits": 8, "group_size": 64}])
def test_an_allowance_for_no_layer_configuration_fails(where: dict[str, int | str]) -> None:
    for_none = Allowance(MAGNITUDES, 2.0, "Of another quantizer.", where)
    with pytest.raises(ConformanceError, match="which no layer configuration has") as caught:
        check_quantizer(made(Rounding), allowances=[for_none])
    failed = "test_allowances_are_for_layer_configurations_that_there_are"
    assert set(caught.value.failures) == {failed}


def test_a_class_in_place_of_a_quantizer_is_one_error() -> None:
    plugin: Any = Rounding
    with pytest.raises(TypeError, match="expected a quantizer, found the class Rounding"):
        check_quantizer(plugin)


def test_tolerances_are_those_of_checks() -> None:
    assert set(TOLERANCES) <= set(QuantizerConformance.checks())


def run(*arguments: str | Path) -> str:
    """Run Python in a new process and return what it printed."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_script_needs_no_pytest_and_no_assert_statements() -> None:
    script = """
import sys
sys.modules["pytest"] = None  # Importing it fails.
from qsearch.plugins import load_plugin
from qsearch.testing import check_quantizer
plugin = load_plugin("quantizers", "integer")
check_quantizer(plugin(plugin.Options()))
plugin.storage_bits = lambda self, configuration: 4.0
try:
    check_quantizer(plugin(plugin.Options()))
except AssertionError as error:
    print(error)
"""
    assert "test_storage_bits_are_those_of_the_stored_bytes: " in run("-O", "-c", script)


def test_pytest_collects_a_subclass_and_not_the_kits(tmp_path: Path) -> None:
    path = tmp_path / "test_mine.py"
    path.write_text(
        "from qsearch.testing import *\n"
        "class TestMine(QuantizerConformance): ...\n"
        "class Shared(TrainerConformance): __test__ = False\n"
        "class TestShared(Shared): ...\n"
    )
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    collected = run("-m", "pytest", *options, path)
    expected = [f"test_mine.py::TestMine::{name}" for name in QuantizerConformance.checks()]
    expected += [f"test_mine.py::TestShared::{name}" for name in TrainerConformance.checks()]
    assert [line for line in collected.splitlines() if "::" in line] != []
    assert {line for line in collected.splitlines() if "::" in line} == set(expected)


def test_a_kit_without_a_plugin_says_what_it_needs() -> None:
    with pytest.raises(NotImplementedError, match="QuantizerConformance needs a method make"):
        QuantizerConformance().make()
    kit = TrainerConformance()
    for method in (kit.make, kit.make_other, kit.quantizer):
        with pytest.raises(NotImplementedError, match=f"needs a method {method.__name__}"):
            method()


# Samples


def test_few_layer_configurations_are_all_tried() -> None:
    choices = made(Rounding).choices()
    assert sample_layer_configurations(choices, 6) == choices.layer_configurations


@pytest.mark.parametrize("most", [10, 48, 200])
def test_a_sample_holds_the_corners_of_each_knob_and_is_even_over_its_values(most: int) -> None:
    sample = sample_layer_configurations(NORMAL_FLOAT, most)
    assert len(set(sample)) == len(sample) <= most + 12
    for end, other in ((0, -1), (-1, 0)):
        corner = {knob.name: knob.values[end] for knob in NORMAL_FLOAT.knobs}
        assert LayerConfiguration(corner) in sample
        for knob in NORMAL_FLOAT.knobs:
            moved = LayerConfiguration({**corner, knob.name: knob.values[other]})
            assert moved in sample
    for knob in NORMAL_FLOAT.knobs:
        counts = [sum(one[knob.name] == value for one in sample) for value in knob.values]
        # Twelve corners hold each end of a knob six times, and no other value.
        assert max(counts) - min(counts) <= 6 + max(2, most / 10)


def test_configurations_are_distinct_and_always_the_same() -> None:
    layers = [LayerSpec(f"layer.{index}", "query", index, (4, 4)) for index in range(2)]
    choices = Choices((Knob("bits", (2, 4)),))
    drawn = draw_configurations(layers, choices, 4)
    assert len(set(drawn)) == 4
    assert draw_configurations(layers, choices, 4) == drawn
    with pytest.raises(ValueError, match="2 layers of 2 choices: less than 5"):
        draw_configurations(layers, choices, 5)


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation([1, 2, 3], [1, 10, 11]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [5, 4, -1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)
    assert rank_correlation([1, 2, 3], [7, 7, 7]) == 0


def test_relative_error_is_that_of_the_norms() -> None:
    weight = normal_weight(16, 64)
    chosen = made(Rounding).choices().layer_configuration(0)
    assert relative_error(made(ReturnsZeros), weight, chosen) == 1
