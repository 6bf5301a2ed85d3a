"""From the text of a study YAML to its values: overrides, variables and relative paths."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsearch.errors import InputError
from qsearch.spec.validation import shorten
from qsearch.spec.yaml_text import parse_yaml

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
_MAX_INTEGER = 2**63

_Field = tuple[str, ...]


@dataclass(frozen=True)
class Resolver:
    """Makes the values of a study file final: what they say no longer depends on anything else.

    Without variables, those of the environment, text stays as it is.
    """

    source: Path
    variables: Mapping[str, str] | None

    def values(self, values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
        """Return the file's values after ``section.field=value`` assignments, which are YAML.

        Relative paths start at the file's folder; those of assignments at the working directory.
        """
        assignments = [_parse_override(override) for override in overrides]
        replaced = {field for field, _ in assignments}
        resolved: dict[str, Any] = self._resolve(values, (), self.source.parent, replaced)
        for override, (field, value) in zip(overrides, assignments, strict=True):
            inner = resolved
            for step in field[:-1]:
                inner = inner.setdefault(step, {})
                if not isinstance(inner, dict):
                    raise InputError(f"--set {override!r}: {step!r} is not a section of the study")
            inner[field[-1]] = self._resolve(value, field, Path())
        return resolved

    def _resolve(
        self, value: Any, field: _Field, folder: Path, without: Collection[_Field] = ()
    ) -> Any:
        """Return a copy without some fields, in which no value is shared."""
        if isinstance(value, dict):
            inner = {self._name(key, field): item for key, item in value.items()}
            return {
                name: self._resolve(item, (*field, name), folder, without)
                for name, item in inner.items()
                if (*field, name) not in without
            }
        if isinstance(value, list):
            places = enumerate(value)
            return [self._resolve(item, (*field, str(place)), folder) for place, item in places]
        if isinstance(value, str):
            return self._storable(self._text(value, field, folder), field)
        if value is not None and not isinstance(value, int | float):
            kind = type(value).__name__
            raise self._refusal(
                field, f"YAML reads {shorten(str(value))} as {kind}; quote it to make it text"
            )
        if isinstance(value, float) and math.isnan(value):
            raise self._refusal(field, f"must be a number, not {value}")
        if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
            raise self._refusal(field, "an integer has at most 64 bits")
        return value

    def _name(self, key: object, field: _Field) -> str:
        if not isinstance(key, str):
            shown = shorten(repr(key))
            raise self._refusal((*field, shown), f"a field's name is text, not {shown}; quote it")
        return self._storable(key, (*field, "a field's name"))

    def _storable(self, text: str, field: _Field) -> str:
        if _NOT_STORABLE.search(text):
            raise self._refusal(
                field,
                f"{shorten(ascii(text))} has a null character or half a surrogate pair, which no"
                " file or database keeps",
            )
        return text

    def _text(self, value: str, field: _Field, folder: Path) -> str:
        if self.variables is None:
            return value
        text = _VARIABLE.sub(lambda match: self._variable(match, field), value)
        first = _VARIABLE.match(value)
        start = self.variables.get(first[1]) if first else None
        names_folder = (
            first
            and start
            and value.startswith("/", first.end())
            and not Path(start).is_absolute()
            and Path(start).is_dir()
        )
        if not (text.startswith(("./", "../")) or names_folder):
            return text
        try:
            return str((folder if start is None else Path()).joinpath(text).resolve())
        except (OSError, RuntimeError, ValueError) as error:
            raise self._refusal(field, f"{shorten(repr(text))} is not a path: {error}") from error

    def _variable(self, match: re.Match[str], field: _Field) -> str:
        assert self.variables is not None
        name, default = match.groups()
        text = self.variables.get(name, default)
        if text is None:
            rest = match.string[match.end() :]
            folder = not match.start() and rest.startswith("/") and "${" not in rest
            to = f" to the folder that holds {rest[1:]}" if folder else ""
            raise self._refusal(
                field,
                f"the environment variable {name} is not set; set it{to}, or give the field itself,"
                f" there or by --set {'.'.join(field)}=VALUE (null for none, if optional)",
            )
        return text

    def _refusal(self, field: _Field, message: str) -> InputError:
        return InputError(f"{self.source}: {'.'.join(field)}: {message}")


def _parse_override(override: str) -> tuple[_Field, Any]:
    target, separator, text = override.partition("=")
    field = tuple(target.split("."))
    if not separator or not all(field):
        raise InputError(f"--set {override!r}: write section.field=value")
    return field, parse_yaml(text, f"--set {shorten(override)!r}")
