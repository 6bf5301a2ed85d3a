"""Recipes that a study starts from: read once, kept in its directory, and in its first set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.plugins.components import StudyComponents
from qsearch.plugins.formats import recipe_formats
from qsearch.plugins.recipes import RecipeTarget, RecipeText
from qsearch.plugins.trainer_knobs import taken_values, trainer_knobs
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.storage.bounded_reading import read_bytes
from qsearch.storage.directory import has_results
from qsearch.storage.paths import RECIPES
from qsearch.storage.state_file import StateFile

RECIPE = "recipe"
"""The method of a trial of the first set that a recipe gave."""

_MAX_BYTES = 2**24
_SHOWN = 3


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read: its file, the file's SHA-256, and the configuration as JSON."""

    file: str
    sha256: str
    configuration: str


@dataclass(frozen=True)
class Recipes:
    """The recipes of a study, in the order of ``search.recipes``."""

    recipes: tuple[Recipe, ...]


_FILE = StateFile(Recipes)


def study_recipes(components: StudyComponents, directory: Path | None = None) -> Recipes:
    """Return the recipes of a study: those that its directory keeps, if it has results.

    Raises:
        InputError: If a file cannot be read, is not a recipe for the study, or has changed since it
            was read; the message names the file.
    """
    files = components.spec.search.recipes
    path = None if directory is None else directory / RECIPES
    if directory is not None and path is not None and path.is_file() and has_results(directory):
        kept = _FILE.read(path)
        if [recipe.file for recipe in kept.recipes] == list(files):
            for recipe in kept.recipes:
                _require_unchanged(recipe, directory)
            return kept
    return Recipes(tuple(_read(file, components) for file in files))


def keep_recipes(directory: Path, recipes: Recipes) -> None:
    """Keep the recipes of a study in its directory, so that it resumes without their files."""
    if recipes.recipes:
        _FILE.write(directory / RECIPES, recipes)
    else:
        (directory / RECIPES).unlink(missing_ok=True)


def recipe_rows(
    space: ConfigurationSpace, recipes: Recipes, bits: tuple[float, float] | None
) -> list[tuple[str, Integers]]:
    """Return method and choice indices (groups) of the recipes' configurations.

    The interval may not be known yet (None).

    Raises:
        InputError: If one has average bits outside the interval that is searched.
    """
    rows = []
    for recipe in recipes.recipes:
        index = space.encode(Configuration.from_json(recipe.configuration))
        if bits is not None and not space.within(index, bits):
            raise InputError(
                f"search.recipes: {recipe.file}: its configuration has"
                f" {float(space.average_bits(index)):.6g} average bits, outside the"
                f" [{bits[0]:.6g}, {bits[1]:.6g}] that is searched; widen it, or leave the file out"
            )
        rows.append((RECIPE, index))
    return rows


def _require_unchanged(recipe: Recipe, directory: Path) -> None:
    try:
        content = read_bytes(Path(recipe.file), _MAX_BYTES)
    except (OSError, ValueError):
        return  # The directory has what it said.
    if hashlib.sha256(content).hexdigest() != recipe.sha256:
        raise InputError(
            f"search.recipes: {recipe.file} has changed since the study in {directory} read it;"
            " bring the file back, or give another --out"
        )


def _read(file: str, components: StudyComponents) -> Recipe:
    source, space = f"search.recipes: {file}", components.space
    try:
        content = read_bytes(Path(file), _MAX_BYTES)
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be read: {error}") from error
    try:
        configuration = _configuration(RecipeText(text), components) | dict(space.pinned)
        missing = [layer.name for layer in space.layers if layer.name not in configuration]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise InputError(
                f"it does not quantize {', '.join(missing[:_SHOWN])}{more}, which the study"
                " quantizes; leave them out by model.layers, or pin them by space.fixed"
            )
        index = space.encode(configuration)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    return Recipe(file, digest, space.decode(index).to_json())


def _configuration(
    recipe: RecipeText, components: StudyComponents
) -> dict[str, LayerConfiguration]:
    own = _own_configuration(recipe.values, components.space)
    if own is not None:
        return own
    formats = recipe_formats()
    for format in formats.values():
        if format.reads(recipe):
            space = components.space
            searched = tuple(space.layers[position] for position in space.searched)
            target = RecipeTarget(components.spec.model, searched, components.quantizer)
            return _with_trainer_knobs(format.read(recipe, target), components)
    raise InputError(
        f"it is a recipe of no installed format ({', '.join(formats)}), nor a configuration as"
        " qsearch pick --json prints it, of layers and knobs of this study"
    )


def _with_trainer_knobs(
    found: Mapping[str, LayerConfiguration], components: StudyComponents
) -> dict[str, LayerConfiguration]:
    """Return what a recipe says, which knows no knobs of a trainer, with their greatest values."""
    if not trainer_knobs(components.trainer):
        return dict(found)
    greatest = {
        layer.name: taken_values(components.trainer, layer)[-1] for layer in components.space.layers
    }
    return {name: LayerConfiguration({**one, **greatest[name]}) for name, one in found.items()}


def _own_configuration(
    values: Any, space: ConfigurationSpace
) -> dict[str, LayerConfiguration] | None:
    """Return the configuration that qsearch wrote, alone or as ``pick --json`` has it, if it is so.

    Layers must be called as in the study, and have its quantizer's knobs.
    """
    if isinstance(values, Mapping) and isinstance(values.get("configuration"), Mapping):
        values = values["configuration"]
    names, knobs = {layer.name for layer in space.layers}, set(space.choices.names)
    if not isinstance(values, Mapping) or not values or not names.issuperset(values):
        return None
    if not all(isinstance(one, Mapping) and set(one) == knobs for one in values.values()):
        return None
    configuration = {}
    for name, one in values.items():
        try:
            space.choices.index(one)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        configuration[name] = LayerConfiguration({knob: one[knob] for knob in space.choices.names})
    return configuration


def new_rows(
    rows: Sequence[tuple[str, Integers]], more: Sequence[tuple[str, Integers]]
) -> list[tuple[str, Integers]]:
    """Return rows with those of ``more`` whose configuration is not among them."""
    by_key = {index.tobytes(): (method, index) for method, index in rows}
    for method, index in more:
        by_key.setdefault(index.tobytes(), (method, index))
    return list(by_key.values())
