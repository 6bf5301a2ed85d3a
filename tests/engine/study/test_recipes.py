"""Recipes that a study starts from: read once, kept, and in the first set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qsearch.errors import InputError
from qsearch.plugins.components import build_components
from qsearch.plugins.recipes import RecipeTarget, RecipeText
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.storage.directory import has_results
from qsearch.storage.study_record import row_configuration
from qsearch.study import recipes
from qsearch.study.checking import check_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import SMALL, command_here, study_spec, write_study_yaml

LAYERS = [f"block.0.{role}" for role in ("query", "key", "value", "output")]
CHOSEN = {
    name: {"bits": bits, "group_size": 32, "scheme": "symmetric"}
    for name, bits in zip(LAYERS, (4, 2, 3, 4), strict=True)
}


FIRST = {**SMALL, "search__rounds": 1, "search__candidates": 0}
"""Changes that leave the first set of the small study alone."""


def write_json(path: Path, values: object) -> Path:
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_json(tmp_path / "recipe.json", CHOSEN)


def spec_of(*files: Path, **changes: Any) -> StudySpec:
    return study_spec(**FIRST, **changes, search__recipes=[str(file) for file in files])


def firsts(trials: pd.DataFrame) -> list[tuple[str, Configuration]]:
    """Methods and configurations of the first set."""
    return [(row["method"], row_configuration(row)) for _, row in trials.iterrows()]


@pytest.fixture(scope="module")
def without(
    fake_plugins: None, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, Configuration]]:
    """The first set of the study without a recipe."""
    return firsts(run_spec(study_spec(**FIRST), tmp_path_factory.mktemp("without")).trials)


def test_a_recipe_joins_the_first_set_and_changes_nothing_else_of_it(
    file: Path, without: list[tuple[str, Configuration]], tmp_path: Path
) -> None:
    found = firsts(run_spec(spec_of(file), tmp_path / "with").trials)
    assert found[:-1] == without
    assert found[-1][0] == "recipe"
    assert {name: dict(layer) for name, layer in found[-1][1].items()} == CHOSEN


def test_the_command_line_takes_what_pick_prints(tmp_path: Path) -> None:
    yaml, out = write_study_yaml(tmp_path / "study.yaml", **FIRST), tmp_path / "out"
    assert command_here("run", yaml, "--out", out).code == 0
    picked = command_here("pick", out, "--bits", "3", "--json")
    (tmp_path / "picked.json").write_text(picked.output)
    # From anywhere, by any path: a study resumes with the same file.
    options = ("--from-recipe", out / ".." / "picked.json", "--set", "seed=9")
    again = command_here("run", yaml, "--out", tmp_path / "again", *options)
    assert again.code == 0, again.errors
    resolved = load_spec(tmp_path / "again" / "study.yaml", resolved=True)
    assert resolved.search.recipes == (str(tmp_path / "picked.json"),)
    recipe = dict(check_study(resolved, "study"))["recipe"]
    assert recipe.startswith(f"{tmp_path / 'picked.json'}, ")
    assert recipe.endswith(" average bits")
    checked = " ".join(command_here("check", yaml, *options).output.split())
    assert recipe in checked


def test_a_configuration_of_the_first_set_keeps_the_method_that_gave_it_first(
    without: list[tuple[str, Configuration]], tmp_path: Path
) -> None:
    method, known = without[0]
    file = tmp_path / "known.json"
    file.write_text(known.to_json())
    assert firsts(run_spec(spec_of(file), tmp_path / "with").trials) == without
    assert method == "uniform"


def test_pinned_layers_stay_pinned_whatever_a_recipe_says(file: Path, tmp_path: Path) -> None:
    spec = spec_of(file, space__fixed={"*.key": {"bits": 8, "group_size": 64}})
    (_, configuration) = firsts(run_spec(spec, tmp_path / "out").trials)[-1]
    assert configuration["block.0.key"]["bits"] == 8
    assert configuration["block.0.value"]["bits"] == 3


def test_a_study_resumes_without_the_file_but_not_with_another(file: Path, tmp_path: Path) -> None:
    before = run_spec(spec_of(file), tmp_path / "out").trials
    write_json(file, {**CHOSEN, LAYERS[0]: CHOSEN[LAYERS[1]]})
    with pytest.raises(InputError, match=r"recipe\.json has changed since the study in"):
        run_spec(spec_of(file), tmp_path / "out")
    file.unlink()
    after = run_spec(spec_of(file), tmp_path / "out").trials
    pd.testing.assert_frame_equal(after, before)
    with pytest.raises(InputError, match=r"search\.recipes: .* run the same study to resume"):
        run_spec(spec_of(), tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, "no such file"),
        (b"\xff\xfe", "cannot be read: 'utf-8' codec"),
        (b"weights: [", "it is a recipe of no installed format (mine), nor a configuration as"),
        ({"block.9.key": CHOSEN[LAYERS[0]]}, "it is a recipe of no installed format (mine)"),
        (
            {name: CHOSEN[name] for name in LAYERS[:2]},
            "it does not quantize block.0.value, block.0.output, which the study quantizes; leave",
        ),
        (
            {**CHOSEN, LAYERS[0]: {**CHOSEN[LAYERS[0]], "bits": 5}},
            "block.0.query: knob 'bits' has no value 5; allowed: [2, 3, 4, 8]",
        ),
        (
            {name: {**one, "bits": 8} for name, one in CHOSEN.items()},
            "its configuration has 8.5 average bits, outside the [2.25, 6] that is searched; widen",
        ),
        ({"mine": "block.0.key: bits 7"}, "block.0.key: bits 7: quantizer 'fake' has 2, 3, 4, 8"),
    ],
)
def test_what_is_not_a_recipe_for_the_study_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: Any, said: str
) -> None:
    monkeypatch.setattr(recipes, "recipe_formats", lambda: {"mine": Mine()})
    path = tmp_path / "recipe.json"
    if isinstance(values, bytes):
        path.write_bytes(values)
    elif values is not None:
        write_json(path, values)
    with pytest.raises(InputError) as caught:
        check_study(spec_of(path), "my.yaml")
    assert str(caught.value).startswith(f"search.recipes: {path}: ")
    assert said in str(caught.value)
    with pytest.raises(InputError, match=re.escape(said)):
        run_spec(spec_of(path), tmp_path / "out")
    assert not has_results(tmp_path / "out")


class Mine:
    """A format of recipes ``{"mine": …}``, which give all layers the same bits."""

    def reads(self, recipe: RecipeText) -> bool:
        return isinstance(recipe.values, dict) and "mine" in recipe.values

    def read(self, recipe: RecipeText, target: RecipeTarget) -> Mapping[str, LayerConfiguration]:
        bits = recipe.values["mine"]
        if not isinstance(bits, int):
            raise InputError(f"{bits}: quantizer {target.quantizer.name!r} has 2, 3, 4, 8")
        one = LayerConfiguration({"bits": bits, "group_size": 64, "scheme": "symmetric"})
        return {layer.name: one for layer in target.layers}


def test_a_format_reads_the_searched_layers_for_the_studys_quantizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "recipe_formats", lambda: {"mine": Mine()})
    file = write_json(tmp_path / "recipe.json", {"mine": 3})
    spec = spec_of(file, space__fixed={"*.key": {"bits": 8, "group_size": 32}})
    components = build_components(spec)
    (recipe,) = recipes.study_recipes(components).recipes
    bits = {
        name: one["bits"] for name, one in Configuration.from_json(recipe.configuration).items()
    }
    assert bits == {LAYERS[0]: 3, LAYERS[1]: 8, LAYERS[2]: 3, LAYERS[3]: 3}
