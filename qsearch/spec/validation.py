"""Validation errors of study files as messages for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from qsearch.errors import InputError

_MAX_SHOWN = 80


NO_TEXT = re.compile("[\0\ud800-\udfff]")


_Model = TypeVar("_Model", bound=BaseModel)


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
            shown = f", not {shorten(repr(problem['input']))}"
            shown = "" if problem["type"] in ("missing", "extra_forbidden") else shown
            lines.append(f"{field or 'the study'}: {message}{shown}")
        raise InputError(f"{where}: " + "; ".join(lines)) from error


def _wanted_list(given: Any) -> str:
    """Say that a list is wanted, with what was given as the example where it fits into one."""
    if isinstance(given, str | int | float):
        return f"must be a list, such as [{shorten(str(given))}]"
    return "must be a list"


def shorten(text: str) -> str:
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
