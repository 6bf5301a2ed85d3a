"""The study YAML: what a study is, as validated data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from qsearch.errors import InputError
from qsearch.spec.failures import FailuresSpec
from qsearch.spec.resolution import Resolver
from qsearch.spec.search_spec import SearchSpec
from qsearch.spec.sections import ModelSpec, PluginSpec, SpaceSpec
from qsearch.spec.validation import validate
from qsearch.spec.yaml_text import dump_yaml, read_yaml


class StudySpec(BaseModel):
    """One study; its name is also that of its experiment in the database."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    name: str = Field(min_length=1, max_length=100)
    seed: int = Field(strict=True, default=0, ge=0, lt=2**31)
    model: ModelSpec
    task: PluginSpec
    quantizer: PluginSpec
    trainer: PluginSpec
    space: SpaceSpec = SpaceSpec()
    search: SearchSpec = SearchSpec()
    failures: FailuresSpec = FailuresSpec()


def load_spec(
    path: Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    resolved: bool = False,
) -> StudySpec:
    """Read and validate a study YAML.

    ``${NAME}`` and ``${NAME:-default}`` in strings are replaced from the environment. Strings
    that start with ``./`` or ``../`` are paths: as written in the file, relative to the file's
    folder; from a variable or an override, relative to the working directory. So is
    ``${NAME}/…`` where the variable names a folder of the working directory.

    Overrides are ``section.field=value`` assignments made before validation; the value is YAML.
    Strings of a resolved study, which :func:`dump_spec` wrote, stay as they are.

    Raises:
        InputError: If the file or an override cannot be used.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: a study is a mapping of sections, not {type(values).__name__}")
    variables = os.environ if environment is None else environment
    resolver = Resolver(path, None if resolved else variables)
    return validate(StudySpec, resolver.values(values, overrides), str(path))


def with_recipes(spec: StudySpec, files: Sequence[Path]) -> StudySpec:
    """Return a study that starts from further recipes; their paths become those of a study file."""
    recipes = dict.fromkeys((*spec.search.recipes, *(str(path.resolve()) for path in files)))
    search = spec.search.model_copy(update={"recipes": tuple(recipes)})
    return spec.model_copy(update={"search": search})


def dump_spec(spec: StudySpec) -> str:
    """Return the study as YAML that :func:`load_spec`, with ``resolved``, reads as equal."""
    return dump_yaml(spec.model_dump(mode="json"))


def differences(before: StudySpec, after: StudySpec) -> list[str]:
    """Return one line for each field that differs, such as ``search.rounds: 2 → 3``."""

    def fields(value: Any, *path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {".".join(path): value}
        inner = [fields(item, *path, key) for key, item in value.items()]
        return {field: item for part in inner for field, item in part.items()}

    old, new = (fields(spec.model_dump(mode="json")) for spec in (before, after))
    missing = "not given"
    return [
        f"{path}: {old.get(path, missing)!r} → {new.get(path, missing)!r}"
        for path in sorted({*old, *new})
        if old.get(path, missing) != new.get(path, missing)
    ]
