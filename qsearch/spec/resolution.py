"""From the text of a study YAML to its values: overrides, variables and relative paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsearch.errors import InputError
from qsearch.spec.validation import shorten
from qsearch.spec.yaml_loader import parse_yaml

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def unshared(value: Any) -> Any:
    """Return a copy in which what YAML says once by aliases is there as often as it is used."""
    if isinstance(value, dict):
        return {key: unshared(item) for key, item in value.items()}
    return [unshared(item) for item in value] if isinstance(value, list) else value


def override(values: dict[str, Any], override: str) -> None:
    target, separator, text = override.partition("=")
    steps = target.split(".")
    if not separator or not all(steps):
        raise InputError(f"--set {override!r}: write section.field=value")
    inner = values
    for step in steps[:-1]:
        inner = inner.setdefault(step, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {override!r}: {step!r} is not a section of the study")
    inner[steps[-1]] = _mark_given(parse_yaml(text, f"--set {shorten(override)!r}"))


class _Given(str):
    """Text from an override: a path in it is relative to the working directory."""


def _mark_given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mark_given(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_given(item) for item in value]
    return _Given(value) if isinstance(value, str) else value


def resolve(
    value: Any, path: Path, variables: Mapping[str, str] | None, where: tuple[str, ...]
) -> Any:
    """Return plain values, with variables and paths resolved unless ``variables`` is None."""
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            field = ".".join((*where, str(odd[0])))
            raise InputError(f"{path}: {field}: a field's name is text, not {odd[0]!r}; quote it")
        return {key: resolve(v, path, variables, (*where, key)) for key, v in value.items()}
    if isinstance(value, list):
        return [resolve(item, path, variables, where) for item in value]
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(
            f"{path}: {'.'.join(where)}: YAML reads {shorten(str(value))} as"
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
        raise InputError(f"{path}: {field}: {shorten(repr(text))} is no path: {error}") from error
