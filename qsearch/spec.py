"""The study YAML: what a study is, as validated data."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qsearch.errors import InputError
from qsearch.failures import FailuresSpec
from qsearch.layers import FUSED_ROLES
from qsearch.plugins import ModelSpec
from qsearch.safe_yaml import parse_yaml, read_yaml
from qsearch.search_spec import SearchSpec

_MAX_SHOWN = 80
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_Model = TypeVar("_Model", bound=BaseModel)


class PluginSpec(BaseModel):
    """A plugin by name; all other fields are its own options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        """The plugin's options, not yet validated by it."""
        return dict(self.model_extra or {})


class SpaceSpec(BaseModel):
    """How the space is built.

    Args:
        tied: ``fused`` ties the roles that inference engines fuse (query, key and value; gate
            and up); a list of role lists ties those; ``none`` ties nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tied: Literal["none", "fused"] | tuple[tuple[str, ...], ...] = "none"

    @property
    def fused_roles(self) -> tuple[tuple[str, ...], ...]:
        """Sets of roles that are tied within a block."""
        if self.tied == "none":
            return ()
        return FUSED_ROLES if self.tied == "fused" else tuple(self.tied)


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
    values = _unshared(_read_study(path))
    for override in overrides:
        _override(values, override)
    variables = os.environ if environment is None else environment
    values = _resolve(values, path, None if resolved else variables, ())
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


def validate(model: type[_Model], values: Any, where: str, prefix: str = "") -> _Model:
    """Validate values, turning pydantic's errors into one message for the user.

    Args:
        model: The pydantic model.
        values: What to validate.
        where: The file that the values come from.
        prefix: Path of the values in that file, such as ``task``.

    Raises:
        InputError: Naming the file, and each wrong field with its value and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            # Pydantic adds the alternatives of a union, such as "literal['none']", to the path.
            location = [step for step in problem["loc"] if "[" not in str(step)]
            field = ".".join(str(step) for step in [*([prefix] if prefix else []), *location])
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                allowed = ", ".join(_fields(model, location[:-1]))
                message = f"unknown field; allowed here: {allowed}"
            elif problem["type"] == "model_type":
                message = "must be a section of fields"
            elif problem["type"] in ("tuple_type", "list_type"):
                message = _wanted_list(problem["input"])
            shown = f", not {_shorten(repr(problem['input']))}"
            shown = "" if problem["type"] in ("missing", "extra_forbidden") else shown
            lines.append(f"{field or 'the study'}: {message}{shown}")
        raise InputError(f"{where}: " + "; ".join(lines)) from error


def _wanted_list(given: Any) -> str:
    """Say that a list is wanted, with what was given as the example where it fits into one."""
    if isinstance(given, str | int | float):
        return f"must be a list, such as [{_shorten(str(given))}]"
    return "must be a list"


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the field names of the model at a path of fields."""
    for step in path:
        field = model.model_fields.get(str(step))
        model = next(_models(field.annotation), model) if field else model
    return sorted(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models among an annotation's alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _read_study(path: Path) -> dict[str, Any]:
    loaded = read_yaml(path)
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: a study is a mapping of sections, not {type(loaded).__name__}")
    return loaded


def _unshared(value: Any) -> Any:
    """Return a copy in which what YAML says once by aliases is there as often as it is used."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _override(values: dict[str, Any], override: str) -> None:
    target, separator, text = override.partition("=")
    steps = target.split(".")
    if not separator or not all(steps):
        raise InputError(f"--set {override!r}: write section.field=value")
    inner = values
    for step in steps[:-1]:
        inner = inner.setdefault(step, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {override!r}: {step!r} is not a section of the study")
    inner[steps[-1]] = _mark_given(parse_yaml(text, f"--set {_shorten(override)!r}"))


class _Given(str):
    """Text from an override: a path in it is relative to the working directory."""


def _mark_given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mark_given(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_given(item) for item in value]
    return _Given(value) if isinstance(value, str) else value


def _require_lasting(value: Any, path: Path, where: tuple[str, ...]) -> None:
    """Refuse what YAML can say, but no resumed study would find unchanged."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _require_lasting(str(key), path, (*where, "a field's name"))
            _require_lasting(item, path, (*where, str(key)))
    field = ".".join(where)
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{path}: {field}: must be a number, not {value}")
    if isinstance(value, str) and _NO_TEXT.search(value):
        raise InputError(
            f"{path}: {field}: {_shorten(ascii(value))} has a null character or half a surrogate"
            " pair, which no file or database keeps"
        )


def _resolve(
    value: Any, path: Path, variables: Mapping[str, str] | None, where: tuple[str, ...]
) -> Any:
    """Return plain values, with variables and paths resolved unless ``variables`` is None."""
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            field = ".".join((*where, str(odd[0])))
            raise InputError(f"{path}: {field}: a field's name is text, not {odd[0]!r}; quote it")
        return {key: _resolve(v, path, variables, (*where, key)) for key, v in value.items()}
    if isinstance(value, list):
        return [_resolve(item, path, variables, where) for item in value]
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(
            f"{path}: {'.'.join(where)}: YAML reads {_shorten(str(value))} as"
            f" {type(value).__name__}; quote it to make it text"
        )
    if not isinstance(value, str):
        return value
    return str(value) if variables is None else _resolve_text(value, path, variables, where)


def _resolve_text(
    value: str, path: Path, variables: Mapping[str, str], where: tuple[str, ...]
) -> str:
    field = ".".join(where)

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = variables.get(name, default)
        if found is None:
            rest = value[match.end() :]
            folder = not match.start() and rest.startswith("/") and "${" not in rest
            to = f" to the folder that holds {rest[1:]}" if folder else ""
            raise InputError(
                f"{path}: {field}: the environment variable {name} is not set; set it{to}, or give"
                f" the field itself, there or by --set {field}=VALUE (null for none, if optional)"
            )
        return found

    text = _VARIABLE.sub(replace, value)
    first = _VARIABLE.match(value)
    start = variables.get(first[1]) if first else None
    names_folder = (
        first
        and start
        and value.startswith("/", first.end())
        and not Path(start).is_absolute()
        and Path(start).is_dir()
    )
    if not (text.startswith(("./", "../")) or names_folder):
        return text
    from_outside = isinstance(value, _Given) or start is not None
    try:
        return str((Path() if from_outside else path.parent).joinpath(text).resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: {field}: {_shorten(repr(text))} is no path: {error}") from error
