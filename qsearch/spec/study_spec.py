"""The study YAML: what a study is, as validated data."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from qsearch.errors import InputError
from qsearch.spec.failures import FailuresSpec
from qsearch.spec.resolution import override, resolve, unshared
from qsearch.spec.search_spec import SearchSpec
from qsearch.spec.sections import ModelSpec, PluginSpec, SpaceSpec
from qsearch.spec.validation import NO_TEXT, shorten, validate
from qsearch.spec.yaml_loader import read_yaml


class StudySpec(BaseModel):
    """One study.

    Args:
        name: The study's name; also its experiment's name in the database.
        seed: Seed of everything random in the study.
        model: The model to quantize.
        task: Task plugin and its options.
        quantizer: Quantizer plugin and its options.
        trainer: Trainer plugin and its options.
        space: How the space is built.
        search: How long and where to search.
        failures: What is made of evaluations that fail.
    """

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

    Args:
        path: The YAML file.
        overrides: ``section.field=value`` assignments made before validation; the value is YAML.
        environment: Variables; the process's own by default.
        resolved: Whether the file is what :func:`dump_spec` wrote: its strings stay as they are.

    Raises:
        InputError: If the file or an override cannot be used.
    """
    values = unshared(_read_study(path))
    for assignment in overrides:
        override(values, assignment)
    variables = os.environ if environment is None else environment
    values = resolve(values, path, None if resolved else variables, ())
    spec = validate(StudySpec, values, str(path))
    _require_lasting(values, path, ())
    return spec


def dump_spec(spec: StudySpec) -> str:
    """Return the study as YAML that :func:`load_spec`, told that it is resolved, reads equal."""
    text: str = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def differences(before: StudySpec, after: StudySpec) -> list[str]:
    """Return one line for each field that differs, such as ``search.rounds: 2 → 3``."""

    def flatten(value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, dict):
            inner: dict[str, Any] = {}
            for key, item in value.items():
                inner.update(flatten(item, f"{path}.{key}" if path else str(key)))
            return inner
        return {path: value}

    old = flatten(before.model_dump(mode="json"), "")
    new = flatten(after.model_dump(mode="json"), "")
    missing = "not given"
    return [
        f"{path}: {old.get(path, missing)!r} → {new.get(path, missing)!r}"
        for path in sorted({*old, *new})
        if old.get(path, missing) != new.get(path, missing)
    ]


def _read_study(path: Path) -> dict[str, Any]:
    loaded = read_yaml(path)
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: a study is a mapping of sections, not {type(loaded).__name__}")
    return loaded


def _require_lasting(value: Any, path: Path, where: tuple[str, ...]) -> None:
    """Refuse what YAML can say, but no resumed study would find unchanged."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _require_lasting(str(key), path, (*where, "a field's name"))
            _require_lasting(item, path, (*where, str(key)))
    field = ".".join(where)
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{path}: {field}: must be a number, not {value}")
    if isinstance(value, str) and NO_TEXT.search(value):
        raise InputError(
            f"{path}: {field}: {shorten(ascii(value))} has a null character or half a surrogate"
            " pair, which no file or database keeps"
        )
